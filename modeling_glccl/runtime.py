"""What computes the towers of a model: torch, or ONNX Runtime with int8 products on a CPU (docs/speed.md)."""

import copy
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub.constants import HF_HOME
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .atomic import room_for, write_whole
from .checkpoints import weights_digest
from .features_glccl import GLCCLTextFeatures
from .modeling_glccl import GLCCLModel

RUNTIMES = ("torch", "onnx-int8")
# Of every feature of the probe to that of torch: measured are 0.9983 and more.
LEAST_COSINE = 0.99
PROBE = 4  # frames, or texts


def with_runtime(model: GLCCLModel, runtime: str, device: torch.device | None = None) -> GLCCLModel:
    """A model with the same weights whose towers are computed by a runtime; the temporal encoder stays torch's.

    "onnx-int8" makes a tower when the first frames, or texts, come, and keeps it in the cache of Hugging Face. Before
    it is used it must give torch's features of some of these, or OSError is raised. It has no gradients.

    Args:
        model: is not changed; on the CPU for "onnx-int8".
        runtime: one of `RUNTIMES`.
        device: where the model will be before it encodes; by default it stays.

    Raises:
        ValueError: an unknown runtime, or a model on another device than the CPU.
        ModuleNotFoundError: a package of the extra [onnx] is missing.
    """
    model = getattr(getattr(model._encode_frames, "__self__", None), "model", model)  # without another runtime
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime={runtime!r} is unknown; use {' or '.join(RUNTIMES)}")
    if runtime == "torch":
        return model
    if (where := device or model.device).type != "cpu":
        raise ValueError(f"runtime={runtime!r} computes on a CPU, not on {where}: use device cpu")
    import_module(".onnx_export", __package__)  # names what is not installed before any video is opened
    served = copy.copy(model)  # the weights are shared
    vars(served)["_encode_frames"] = _Int8Tower(model, "frames").encode_frames
    if type(model).get_text_features is GLCCLModel.get_text_features:  # some peers add to it
        vars(served)["get_text_features"] = _Int8Tower(model, "text").get_text_features
    return served


class _Int8Tower:
    """A tower, `name` for `onnx_export`, one of whose methods takes the place of the model's."""

    def __init__(self, model: GLCCLModel, name: str):
        self.model, self.name = model, name
        self.session: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "session": None}  # a session belongs to a process

    def encode_frames(self, pixel_values: Tensor, **_outputs: Any) -> BaseModelOutputWithPooling:
        """As `GLCCLModel._encode_frames`."""
        (features,) = self._outputs(pixel_values)
        return BaseModelOutputWithPooling(pooler_output=features.to(pixel_values.device, pixel_values.dtype))

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_outputs: Any
    ) -> GLCCLTextFeatures:
        """As `GLCCLModel.get_text_features`."""
        self.model._word_mask(input_ids, attention_mask)  # refuses what torch refuses
        sentence, words, mask = (part.to(input_ids.device) for part in self._outputs(input_ids))
        return GLCCLTextFeatures(sentence.to(self.model.dtype), words.to(self.model.dtype), mask)

    def _outputs(self, values: Tensor) -> list[Tensor]:
        if self.session is None:
            self.session = self._start(values[:PROBE])
        return _run(self.session, values)

    def _start(self, probe: Tensor) -> Any:
        """A session of the quantised tower, which is made if there is none yet, and is verified on some inputs."""
        from .onnx_export import INT8, Tower, onnxruntime, quantise_tower

        config = self.model.config
        other = "vis" if self.name == "text" else "text_"
        weights = {name: part for name, part in self.model.clip.state_dict().items() if not name.startswith(other)}
        what = [config.clip_config.to_dict(), config.max_words, config.mask_padding, str(INT8)]
        digest = weights_digest(weights, json.dumps(what, sort_keys=True))
        path = Path(HF_HOME, "glccl", f"{self.name}-int8-{digest[:32]}.onnx")
        if not path.exists():
            print(f"preparing the tower of {self.name} in int8, which is kept: {path}", file=sys.stderr, flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(".partial", ".", path.parent) as folder, room_for(path):
                made = Path(folder, "int8.onnx")
                try:
                    quantise_tower(copy.deepcopy(self.model).float(), self.name, made)
                except ValueError as error:  # it is no fault of these inputs
                    raise OSError(f"runtime onnx-int8: {error}; use torch") from error
                with made.open("rb") as file:
                    write_whole(path, file)
        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # `_run` has threads of its own
        try:
            session = onnxruntime.InferenceSession(path, options)
        except Exception as error:  # of types of its own
            reason = " ".join(str(error).split())[:200]
            raise OSError(f"{path}: is damaged; delete it, and it is made anew ({reason})") from error
        pairs = zip(_run(session, probe), Tower(self.model, self.name)(probe), strict=True)
        # In eager mode words may be cut to the longest text.
        cosines = [
            torch.cosine_similarity(found[:, : wanted.shape[1]].float(), wanted.float(), dim=-1).min()
            for found, wanted in pairs
            if wanted.is_floating_point()
        ]
        if not (least := min(cosines).item()) >= LEAST_COSINE:
            raise OSError(
                f"runtime onnx-int8: a feature's cosine to that of torch is {least:.4f}, less than {LEAST_COSINE}; "
                "use torch for this model"
            )
        return session


def _run(session: Any, values: Tensor) -> list[Tensor]:
    """Each input alone: quantisation takes the range of all that it is given, so others would change its features."""

    def run(one: Tensor) -> list[Tensor]:
        outputs = session.run(None, {session.get_inputs()[0].name: one.cpu().numpy()})
        return [torch.from_numpy(output) for output in outputs]

    given = values.float() if values.is_floating_point() else values
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return [torch.cat(parts) for parts in zip(*pool.map(run, given.split(1)), strict=True)]
