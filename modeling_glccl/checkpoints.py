"""A name -> model and processor: GLCCL checkpoints, the peers', and plain CLIP ones, which become zero-shot GLCCL."""

import hashlib
import os
import pickle
import sys
from collections.abc import Mapping
from typing import Any, cast

import torch
from huggingface_hub.utils import enable_progress_bars
from safetensors import SafetensorError
from transformers import AutoModel
from transformers.utils import logging

from .arguments import check_name
from .configuration_glccl import GLCCLConfig
from .environment import resolve_device, resolve_precision
from .modeling_glccl import GLCCLModel
from .peers import PEERS
from .processing_glccl import GLCCLProcessor, refuse_foreign_tokenizer
from .towers_glccl import FAMILIES, family_of, load_whole, read_config

MODELS: dict[str, type[GLCCLModel]] = {
    cast(type[GLCCLConfig], model.config_class).model_type: model for model in (GLCCLModel, *PEERS)
}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class PipelineModel(AutoModel):
    """What `transformers.pipeline` loads a model with: as AutoModel, and a plain CLIP as zero-shot GLCCL."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, *args: Any, **kwargs: Any) -> Any:
        """As AutoModel's."""
        name = pretrained_model_name_or_path
        if read_config(name, missing_ok=True, **kwargs).get("model_type") in FAMILIES:
            kwargs.pop("code_revision", None)  # of remote code, which a plain CLIP has not
            return GLCCLModel.from_pretrained(name, **kwargs)
        return super().from_pretrained(name, *args, **kwargs)


def check_checkpoint(name: str | os.PathLike) -> str:
    """The `model_type` of a checkpoint that [`load_checkpoint`] takes, without reading its weights.

    Raises:
        FileNotFoundError: no such folder or repository.
        ValueError: something else than a checkpoint; the message says what it is.
    """
    check_name(name := os.fspath(name))
    try:
        model_type = read_config(name).get("model_type")
    except OSError as error:
        raise _unreadable(name, error) from error
    if model_type not in MODELS:
        family_of(model_type, name)
    return cast(str, model_type)


def load_checkpoint(name: str | os.PathLike, **config: Any) -> tuple[GLCCLModel, GLCCLProcessor]:
    """The model, in evaluation mode on the CPU, and the processor of a checkpoint, whole or not at all.

    Weights are float32, whatever the files hold; [`place`] moves a model to what the hardware computes fastest.

    Args:
        name: folder or Hub repository: of GLCCL, of a peer (`modeling_glccl.peers`), or of a plain CLIP, MetaCLIP 2 or
            SigLIP, which becomes a zero-shot GLCCL with the tokenizer and image settings of that checkpoint.
        **config: values of the model's configuration in place of the checkpoint's (`glim_temperature=5.0`).

    Raises:
        FileNotFoundError: no such folder or repository.
        ValueError: something else than a checkpoint, or an incomplete or damaged one; the message says what it is,
            and names tensors that are missing, of another shape or not finite.
    """
    name = os.fspath(name)
    model_type = check_checkpoint(name)
    if bars := logging.is_progress_bar_enabled():  # none for reading the weights; downloads keep theirs
        logging.disable_progress_bar()
        enable_progress_bars()
    try:
        if model_type in MODELS:
            model, _ = load_whole(MODELS[model_type].from_pretrained, name, dtype=torch.float32, **config)
        else:
            model = GLCCLModel.from_pretrained(name, dtype=torch.float32, **config)
        # Where a checkpoint names no class of this package, transformers would ask at the keyboard whether to run its.
        processor = GLCCLProcessor.from_pretrained(name, trust_remote_code=False)
    except SafetensorError as error:
        raise ValueError(
            f"{name}: a file of weights is damaged or cut ({error}); download or copy it again"
        ) from error
    except pickle.UnpicklingError as error:  # torch reads nothing but tensors from a .bin
        raise ValueError(f"{name}: its pytorch_model.bin holds more than tensors, so it is not read") from error
    except OSError as error:
        raise _unreadable(name, error) from error
    except ImportError:
        raise
    except Exception as error:  # its type varies with the value or file that is wrong
        if isinstance(error, ValueError) and name in str(error):
            raise
        reason = " ".join(str(error).split())[:500]
        raise ValueError(f"{name}: a value or file in it is wrong ({type(error).__name__}: {reason})") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    refuse_foreign_tokenizer(name, processor.tokenizer, model.config)
    owners = {"max_words": processor, "mask_padding": processor, "max_frames": processor.video_processor}
    for key in owners.keys() & config.keys():  # the two fit each other
        setattr(owners[key], key, config[key])
    return model.eval(), processor


def place(model: GLCCLModel, device: str = "auto", precision: str = "auto") -> None:
    """Moves a model to a device, in the precision that it computes fastest or in another, and says so (on stderr).

    Args:
        model: is changed.
        device: "auto", a GPU if there is one, or a name of torch, such as "cpu" or "cuda:1".
        precision: of the weights, "fp32", "bf16", "fp16" or "auto", see [`~environment.resolve_precision`].

    Raises:
        ValueError: no such device.
    """
    where, chosen = resolve_device(device), resolve_precision(precision, device)
    model.to(where, _DTYPES[chosen])  # pyright: ignore[reportArgumentType]
    print(f"computing on {where} in {chosen}", file=sys.stderr)


def weights_digest(weights: Mapping[str, Any], about: str = "", rounded: bool = True) -> str:
    """SHA-256, in hexadecimal, of tensors by name, and of a text; `rounded`: of floats rounded to bfloat16."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(weights.items()):
        tensor = tensor.bfloat16() if rounded and tensor.is_floating_point() else tensor
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _unreadable(name: str, error: OSError) -> Exception:
    reason = str(error).splitlines()[0]
    if os.path.exists(name):
        return ValueError(f"{name}: {reason}")
    return FileNotFoundError(
        f"{name}: no such folder, and no repository of this name could be read from the Hub ({reason})"
    )
