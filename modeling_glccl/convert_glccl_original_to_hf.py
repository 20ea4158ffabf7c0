"""Converts a checkpoint of the authors' GLCCL release, or a plain OpenAI CLIP state dict, into a `GLCCLModel`.

    glccl convert pytorch_model.bin.4 glccl-msrvtt --csc-weight 0.5 --tokenizer openai/clip-vit-base-patch32

The release keeps OpenAI's names for CLIP (fused query, key and value; projections multiplied from the right), calls
the temporal encoder `transformerClip` and pads inside every softmax, hence `mask_padding=False` after conversion.
"""

import itertools
import math
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from .configuration_glccl import GLCCLConfig
from .modeling_glccl import GLCCLModel
from .processing_glccl import GLCCLProcessor, refuse_foreign_tokenizer
from .video_files import why_no_file
from .video_processing_glccl import GLCCLVideoProcessor

# Scalars of OpenAI's archives that describe the network, and a matrix that the release stores but never uses.
DROPPED = ("input_resolution", "context_length", "vocab_size", "visual_logit_weight")


# CLIP's tensors outside of the blocks, by the names of the release.
NAMES = {
    "logit_scale": "logit_scale",
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
TRANSPOSED = ("text_projection", "visual.proj")
# Modules of a block of any of the transformers.
MODULES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def convert_original_checkpoint(
    state_dict: Mapping[str, Tensor], model_class: type[GLCCLModel] = GLCCLModel, **config: Any
) -> GLCCLModel:
    """A [`GLCCLModel`], in evaluation mode, of the authors' weights, or of OpenAI CLIP's and new layers.

    Every size comes from the tensors (attention heads are width // 64, EOS is the highest token id); the weights
    become float32. `visual_logit_weight`, which the release never uses, only tells the number of frames.

    Args:
        state_dict: the release's names, with or without "module." in front; or OpenAI CLIP's, with or without
            "clip." in front, in which case the temporal encoder starts from CLIP's text tower
            ([`~GLCCLModel.init_temporal_from_clip`]) and the learned matrices are identities.
        model_class: one of `modeling_glccl.peers` whose interaction names its parameters as its release does:
            XCLIPModel, CLIP4ClipModel.
        **config: values of [`GLCCLConfig`] that no tensor tells (`csc_weight=0.5`, `max_frames=64`, ...).
            `mask_padding` defaults to `False`, as in the release, for the authors' checkpoints.

    Raises:
        ValueError: entries that are no tensors; unknown or missing names, all of them listed; shapes that do not fit
            each other, or a configuration value; a plain CLIP that the temporal encoder cannot start from.
    """
    if not_tensors := [name for name, value in state_dict.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"not a state dict of tensors: {', '.join(sorted(not_tensors))} hold something else")
    state = {name.removeprefix("module."): value for name, value in state_dict.items()}
    clip = "clip." if any(name.startswith("clip.") for name in state) else ""
    for name in ("visual_logit_weight", "frame_logit_weight"):
        if name in state:
            config.setdefault("max_frames", len(state[name]))
    state = {name: value for name, value in state.items() if name.removeprefix(clip) not in DROPPED}

    config_class = cast(type[GLCCLConfig], model_class.config_class)
    with torch.device("meta"):  # the interaction's parameters, which have the names of the release
        matrices = [name for name, _ in model_class.interaction_class(config_class()).named_parameters()]
    has_new_layers = any(name.startswith(("transformerClip.", *matrices)) for name in state)
    temporal = _depth(state, "transformerClip") if has_new_layers else 0
    text_layers, vision_layers = _depth(state, f"{clip}transformer"), _depth(state, f"{clip}visual.transformer")
    pairs = _pairs(clip, text_layers, vision_layers, temporal, matrices if has_new_layers else [])
    if state.keys() != pairs.keys():
        names = (state.keys() - pairs.keys(), pairs.keys() - state.keys())
        unknown, missing = (", ".join(sorted(different)) or "none" for different in names)
        hint = ""
        if "text_model." in unknown:
            hint = "\nThese look like transformers' names: use GLCCLModel.from_pretrained or from_clip_pretrained"
        raise ValueError(
            "not a checkpoint of the GLCCL release, nor an OpenAI CLIP (ViT) state dict"
            f"\nunknown names: {unknown}\nmissing names: {missing}{hint}"
        )

    if has_new_layers:
        config.setdefault("mask_padding", False)
        told = {"temporal_num_hidden_layers": temporal}
        if "word_logit_weight" in state:
            told["max_words"] = len(state["word_logit_weight"])
        for name, value in told.items():
            if config.setdefault(name, value) != value:
                raise ValueError(f"{name}={config[name]}, but the tensors of this checkpoint say {value}")
    model = model_class(config_class(clip_config=_clip_config(state, clip, text_layers, vision_layers), **config))
    own, weights, wrong = dict(model.named_parameters()), {}, []
    for original, ours in pairs.items():
        tensor = state[original].T if original.removeprefix(clip) in TRANSPOSED else state[original]
        weights |= zip(ours, tensor.tensor_split(len(ours)) if len(ours) > 1 else [tensor], strict=True)
        if any(weights[name].shape != own[name].shape for name in ours):
            shapes = [tuple(own[name].shape) for name in ours]
            wrong.append(f"{original} {tuple(state[original].shape)} for {ours} {shapes}")
    if wrong:
        raise ValueError("tensors whose shapes do not fit the sizes that the others tell:\n" + "\n".join(wrong))
    # Not strict: a plain CLIP leaves the new layers as they are; the names were checked before.
    model.load_state_dict(weights, strict=False)
    if not has_new_layers:
        model.init_temporal_from_clip()
    return model.eval()


def to_original_names(tensors: Mapping[str, Tensor], config: GLCCLConfig) -> dict[str, Tensor]:
    """Weights or gradients by our names -> by the release's names and in its layout, the inverse of the conversion."""
    clip = config.to_dict()["clip_config"]
    text_layers, vision_layers = (clip[tower]["num_hidden_layers"] for tower in ("text_config", "vision_config"))
    matrices = [name.removeprefix("interaction.") for name in tensors if name.startswith("interaction.")]
    original = {}
    pairs = _pairs("clip.", text_layers, vision_layers, config.temporal_num_hidden_layers, matrices)
    for name, ours in pairs.items():
        rows = [tensors[part] for part in ours]
        tensor = torch.cat(rows) if len(rows) > 1 else rows[0]
        original[name] = tensor.T if name.removeprefix("clip.") in TRANSPOSED else tensor
    return original


def _pairs(
    clip: str, text_layers: int, vision_layers: int, temporal_layers: int, matrices: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """A tensor of the release -> those of ours that hold its rows."""
    pairs: dict[str, tuple[str, ...]] = {clip + original: (f"clip.{ours}",) for original, ours in NAMES.items()}
    pairs |= {name: (f"interaction.{name}",) for name in matrices}
    if temporal_layers:
        pairs["frame_position_embeddings.weight"] = ("temporal.position_embedding.weight",)
    for stack, our_stack, layers in (
        (f"{clip}transformer", "clip.text_model.encoder", text_layers),
        (f"{clip}visual.transformer", "clip.vision_model.encoder", vision_layers),
        ("transformerClip", "temporal.encoder", temporal_layers),
    ):
        for layer, kind in itertools.product(range(layers), ("weight", "bias")):
            block, our_block = f"{stack}.resblocks.{layer}", f"{our_stack}.layers.{layer}"
            fused = (f"{our_block}.self_attn.{part}_proj.{kind}" for part in "qkv")
            pairs[f"{block}.attn.in_proj_{kind}"] = tuple(fused)
            pairs |= {f"{block}.{module}.{kind}": (f"{our_block}.{ours}.{kind}",) for module, ours in MODULES.items()}
    return pairs


def _depth(names: Iterable[str], stack: str) -> int:
    """Blocks of a transformer by the highest index; at least 1, so that an absent one is reported as missing."""
    found = (re.match(rf"{re.escape(stack)}\.resblocks\.(\d+)\.", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=1)


def _clip_config(state: Mapping[str, Tensor], clip: str, text_layers: int, vision_layers: int) -> dict[str, Any]:
    vocab_size, text_width = state[f"{clip}token_embedding.weight"].shape
    vision_width, channels, patch_size, _ = state[f"{clip}visual.conv1.weight"].shape
    patches = len(state[f"{clip}visual.positional_embedding"]) - 1
    projection_dim = state[f"{clip}text_projection"].shape[1]
    if math.isqrt(patches) ** 2 != patches:
        raise ValueError(f"visual.positional_embedding has {patches} patch positions, which is no square image")

    def tower(stack: str, width: int, layers: int, **own: int) -> dict[str, int]:
        inner = len(state[f"{clip}{stack}.resblocks.0.mlp.c_fc.weight"])
        sizes = {"hidden_size": width, "intermediate_size": inner, "num_attention_heads": max(1, width // 64)}
        return {**own, **sizes, "num_hidden_layers": layers, "projection_dim": projection_dim}

    text = {"vocab_size": vocab_size, "max_position_embeddings": len(state[f"{clip}positional_embedding"])}
    text |= {"bos_token_id": vocab_size - 2, "eos_token_id": vocab_size - 1, "pad_token_id": 0}
    vision = {"num_channels": channels, "patch_size": patch_size, "image_size": math.isqrt(patches) * patch_size}
    return {
        "projection_dim": projection_dim,
        "text_config": tower("transformer", text_width, text_layers, **text),
        "vision_config": tower("visual.transformer", vision_width, vision_layers, **vision),
    }


def load_original_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads a `.safetensors` file, or any other one through `torch.load(weights_only=True)`.

    What holds more than weights (another pickle, a TorchScript archive), is damaged or a folder, is a ValueError.
    """
    path = Path(path)
    if (path / "config.json").exists():
        raise ValueError(
            f"{path} needs no conversion: a folder with a config.json, of a plain CLIP too, works as it is, "
            "as --model and wherever a command takes a checkpoint"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the file of weights in it, such as pytorch_model.bin.4")
    if path.exists() and (reason := why_no_file(path)):
        raise ValueError(f"{path} {reason}: name the file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut ({error}); download or copy it again") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is no file of plain weights, and nothing else is loaded because a pickle can run code. If you "
            "trust it, save its weights alone and convert those: torch.save(model.state_dict(), 'weights.bin'), "
            "where model is torch.jit.load(path) for OpenAI's own .pt files"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict")
    return state


def convert_file(source: str | Path, output: str | Path, tokenizer: str | None = None, **config: Any) -> None:
    """Saves what [`convert_original_checkpoint`] makes and, given CLIP's tokenizer, a processor; prints the sizes."""
    given = {name: value for name, value in config.items() if value is not None}
    model = convert_original_checkpoint(load_original_state_dict(source), **given)
    clip_tokenizer = tokenizer and CLIPTokenizer.from_pretrained(tokenizer)
    if clip_tokenizer:
        refuse_foreign_tokenizer(str(tokenizer), clip_tokenizer, model.config)
    model.save_pretrained(output)
    if clip_tokenizer:
        size = model.config.to_dict()["clip_config"]["vision_config"]["image_size"]
        # Frames are sampled as in the release where padding counts as there.
        sampling = "uniform" if model.config.mask_padding else "release"
        videos = GLCCLVideoProcessor(size=size, crop_size=size, max_frames=model.config.max_frames, sampling=sampling)
        processor = GLCCLProcessor(clip_tokenizer, videos, model.config.max_words, model.config.mask_padding)
        processor.save_pretrained(output)
    names = ("max_words", "max_frames", "csc_weight", "mask_padding")
    values = ", ".join(f"{name}={getattr(model.config, name)}" for name in names)
    print(f"{source} -> {output}: {model.num_parameters():,} parameters, {values}")
