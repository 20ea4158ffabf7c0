"""Compares the peers, X-CLIP and CLIP4Clip, with their authors' implementations.

A case `xclip_TAG` or `clip4clip_TAG` shares weights and inputs with `glccl_TAG`. Its file `xclip_forward_TAG` or
`clip4clip_forward_TAG` has the outputs (their names begin with "meanP." or "seqTransf." for CLIP4Clip) and, as
`weights_extra.NAME`, weights that GLCCL does not have. There is a file with the gradients of every variant.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from parity_rows import FACTOR, Floors, Row, compare, gradients, model_config, model_inputs, not_covered
from safetensors.torch import load_file
from torch import Tensor

from modeling_glccl import GLCCLModel
from modeling_glccl.convert_glccl_original_to_hf import convert_original_checkpoint
from modeling_glccl.peers import CLIP4ClipModel, XCLIPModel


class Variant(NamedTuple):
    """A model, and the names of its file of gradients and of its outputs."""

    model_class: type[GLCCLModel]
    gradients: str
    prefix: str = ""
    temporal: bool = True


PEERS = {
    "xclip": [Variant(XCLIPModel, "xclip_grads")],
    "clip4clip": [
        Variant(CLIP4ClipModel, "clip4clip_meanP_grads", "meanP.", temporal=False),
        Variant(CLIP4ClipModel, "clip4clip_seqTransf_grads", "seqTransf."),
    ],
}


def peer_cases(folder: Path, entries: Iterable[str]) -> list[str]:
    """The cases of peers that the manifests list or that have files."""
    kinds = "|".join(PEERS)
    listed = {name for name in entries if re.fullmatch(rf"({kinds})_.+", name)}
    found = (re.fullmatch(rf"({kinds})_forward_(.+)\.safetensors", path.name) for path in folder.iterdir())
    return sorted(listed | {f"{match[1]}_{match[2]}" for match in found if match})


def peer_files(folder: Path, case: str) -> dict[str, Path]:
    """The files of a case: "forward" and one of gradients per variant."""
    kind, _, tag = case.partition("_")
    names = {"forward": f"{kind}_forward", **{variant.gradients: variant.gradients for variant in PEERS[kind]}}
    return {part: folder / f"{name}_{tag}.safetensors" for part, name in names.items()}


def run_peer(folder: Path, case: str, entries: dict[str, dict]) -> Iterator[Row]:
    """All comparisons that the present files of a case allow."""
    kind, _, tag = case.partition("_")
    files = peer_files(folder, case)
    shared = {name: folder / f"glccl_{name}_{tag}.safetensors" for name in ("weights", "forward")}
    missing = [path for path in (*files.values(), *shared.values()) if not path.exists()]
    for path in missing:
        yield Row(case, path.name, "absent")
    if {files["forward"], *shared.values()} & set(missing):
        return
    golden, weights, inputs = load_file(files["forward"]), load_file(shared["weights"]), load_file(shared["forward"])
    extra = "weights_extra."
    weights |= {name.removeprefix(extra): value for name, value in golden.items() if name.startswith(extra)}
    config = model_config(entries.get(f"glccl_{tag}", {}).get("config", {})) | {"csc_weight": 0}
    floors = Floors(entries.get(case, {}))
    for variant in PEERS[kind]:
        model = build(variant, weights, config)
        label = f"{case} {variant.prefix}".strip(" .")
        yield from forward(label, model, variant.prefix, inputs, golden, floors)
        if files[variant.gradients] not in missing:
            model.train()(**model_inputs(inputs, "train"), return_loss=True).loss.backward()
            yield from gradients(label, model, load_file(files[variant.gradients]), floors)


def build(variant: Variant, weights: dict[str, Tensor], config: dict) -> GLCCLModel:
    """The variant's model, from those of the weights that it has."""
    interaction = variant.model_class.interaction_class(variant.model_class.config_class())
    names = {name for name, _ in interaction.named_parameters()}
    parts = ("clip.", "transformerClip.", "frame_position_embeddings.") if variant.temporal else ("clip.",)
    own = {name: value for name, value in weights.items() if name.startswith(parts) or name in names}
    config = config | {"mask_padding": False, "max_words": len(weights["word_logit_weight"])}
    if not variant.temporal:
        config["temporal_num_hidden_layers"] = 0
    return convert_original_checkpoint(own, variant.model_class, **config)


@torch.no_grad()
def forward(
    case: str,
    model: GLCCLModel,
    prefix: str,
    inputs: dict[str, Tensor],
    golden: dict[str, Tensor],
    floors: Floors,
) -> Iterator[Row]:
    """Features, logits and (train) loss of every split."""
    splits = {}
    for name, tensor in golden.items():
        if match := re.fullmatch(rf"{re.escape(prefix)}(\w+)\.out\.(\w+)", name):
            splits.setdefault(match[1], {})[match[2]] = tensor
    for split, expected in sorted(splits.items()):
        ours = model_outputs(model.train(split == "train"), model_inputs(inputs, split))
        for quantity, tensor in expected.items():
            if quantity not in ours:
                yield not_covered(case, split, quantity)
                continue
            # A loss is computed from the logits, and its own floor may be near zero by luck.
            related = {quantity, "logits"} if quantity.startswith("loss_") else {quantity}
            floor = max(floors.of(split, name, expected[name]) for name in related)
            yield compare(case, f"{split} {quantity}", ours[quantity], tensor, FACTOR * floor)


def model_outputs(model: GLCCLModel, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Every quantity by the golden files' name; the loss only where texts and videos match."""
    pixels = inputs["pixel_values_videos"]
    frames: Any = model.clip.get_image_features(pixels.flatten(0, 1))
    matching = len(inputs["input_ids"]) == len(pixels)
    output = model(**inputs, return_loss=matching)
    outputs = {
        "sentence_features": output.text_features.sentence,
        "frame_features_pre_temporal": frames.pooler_output.unflatten(0, pixels.shape[:2]),
        "frame_features_post_temporal": output.video_features.frames,
        "logits": output.logits_per_text,
    }
    return outputs | ({"loss_retrieval": output.loss} if matching else {})
