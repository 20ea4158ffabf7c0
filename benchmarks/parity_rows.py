"""The rows of the parity table: comparisons, tolerances, and what is named but not compared."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeling_glccl.convert_glccl_original_to_hf import to_original_names

FACTOR = 8
# The manifests' names of our configuration values that no tensor tells.
CONFIG = {
    "max_frames": "max_frames",
    "csc_weight": "csc_weight",
    "glim_temperature": "glim_temperature",
    "score_temperature": "aosm_temperature",
    "temporal_layernorm_eps": "temporal_layer_norm_eps",
}
# Why a file or quantity is not compared, by the start of its name.
NOT_COVERED = {
    "traj": "not covered: a trajectory whose settings no manifest gives",
    "logits__": "not covered: the release's other aggregations",
    "visual_logit_weight": "not covered: the release never uses it",
}


@dataclass
class Row:
    """One line of the table."""

    case: str
    quantity: str
    verdict: str
    error: float | None = None
    tolerance: float | None = None

    def __str__(self) -> str:
        numbers = (f"{'-' if value is None else format(value, '.2e'):>10}" for value in (self.error, self.tolerance))
        return f"{self.case:<21} {self.quantity:<58} {' '.join(numbers)}  {self.verdict}"


def not_covered(case: str, split: str, name: str) -> Row:
    """A row for what this comparison does not run."""
    reason = next((text for start, text in NOT_COVERED.items() if name.startswith(start)), "not covered")
    return Row(case, f"{split} {name}".strip(), reason)


def compare(case: str, quantity: str, ours: Tensor | None, golden: Tensor, tolerance: float) -> Row:
    """A row for two tensors; no tensor, another shape and NaN all fail."""
    if ours is None or ours.shape != golden.shape:
        shape = None if ours is None else tuple(ours.shape)
        return Row(case, quantity, f"FAIL: shape {shape} instead of {tuple(golden.shape)}")
    error = (ours.detach().double() - golden.double()).abs().max().item()
    return Row(case, quantity, "ok" if error <= tolerance else "FAIL", error, tolerance)


def default_floor(golden: Tensor) -> float:
    """32 spacings of float32 numbers at the largest value."""
    return 32 * torch.finfo(torch.float32).eps * golden.abs().max().item()


def model_config(listed: dict) -> dict:
    """Our configuration values from a manifest's."""
    return {"csc_weight": 0.5} | {ours: listed[name] for name, ours in CONFIG.items() if name in listed}


class Floors:
    """The float32 noise of a case's quantities, as its manifest entry tells."""

    def __init__(self, entry: dict):
        self.entry = entry

    def of(self, split: str, quantity: str, golden: Tensor) -> float:
        """Noise of one quantity of one split ("train" or "eval")."""
        for name in (split, "train", "eval"):
            floors = self.entry.get(f"fp32_vs_fp64_maxabs_{name}", {})
            related = ("score_", quantity) if quantity.startswith("loss_") else quantity
            if known := [floor for other, floor in floors.items() if other.startswith(related)]:
                return max(known)
        return default_floor(golden)

    def of_gradients(self, golden: dict[str, Tensor]) -> float:
        """Noise of every gradient."""
        return self.entry.get("grad_fp32_vs_fp64_maxabs", max(map(default_floor, golden.values())))


def model_inputs(golden: dict[str, Tensor], split: str) -> dict[str, Any]:
    """The inputs of one split under our names."""
    return {
        "input_ids": golden[f"{split}.in.input_ids"],
        "attention_mask": golden.get(f"{split}.in.attention_mask"),
        "pixel_values_videos": golden[f"{split}.in.video"],
        "padding_mask_videos": golden.get(f"{split}.in.video_mask"),
    }


def gradients(case: str, model, golden: dict[str, Tensor], floors: Floors) -> Iterator[Row]:
    """The gradient of the total loss for every parameter, under the release's names."""
    ours = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad
        for name, weight in model.named_parameters()
    }
    ours = to_original_names(ours, model.config)
    tolerance = FACTOR * floors.of_gradients(golden)
    for name, tensor in golden.items():
        yield compare(case, f"grad {name}", ours.get(name), tensor, tolerance)
    for name in ours.keys() - golden.keys():
        yield Row(case, f"grad {name}", "FAIL: a gradient that the golden file does not have")
