"""Replays the authors' training runs with the project's optimiser, schedule, freezing and training step.

A trajectory `traj_X` has the files `traj_X_start` (weights), `traj_X_batches` (tensors `batchN.NAME`) and, for every
run R, `traj_X_R_final` (weights), and an entry in a manifest: `steps`, `batch_order`, `config`, `freeze_layer_num`,
`frozen` (names), and under `runs` each run's settings, losses and floors.

Final weights are compared at FACTOR times their floor, losses at LOSS_FACTOR times theirs: rounding errors grow along
a run, and the floor is one draw of what they grow to. Over 24 orders of the pairs within a batch, which change nothing
but rounding, the losses of the authors' steepest run needed factors of 1.5 to 13.8 (with the naive twin's scores 1.2
to 8.6), its final weights 2.3 at most.

Learning rates and the first two gradient norms, which have no floor, are compared at FACTOR times 32 float32
spacings. (The first update is zero, so these two belong to the weights at the start; later norms differ by as much as
the weights and the curvature make them.) Frozen tensors must be exactly the listed ones, bit-equal to those at the
start.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from parity_rows import FACTOR, Row, compare, default_floor, model_config, not_covered
from safetensors.torch import load_file
from torch import Tensor

from modeling_glccl import GLCCLModel
from modeling_glccl.convert_glccl_original_to_hf import convert_original_checkpoint, to_original_names
from modeling_glccl.training import TrainRecipe
from modeling_glccl.training.full_batch import FullBatchLoss
from modeling_glccl.training.optimization import build_optimizer, build_scheduler, freeze_clip, training_step

LOSS_FACTOR = 16


def trajectory_files(folder: Path, name: str, entry: dict) -> dict[str, Path]:
    """The files of a trajectory: "start", "batches" and one per run."""
    files = {part: folder / f"{name}_{part}.safetensors" for part in ("start", "batches")}
    return files | {run: folder / f"{name}_{run}_final.safetensors" for run in entry["runs"]}


def run_trajectory(folder: Path, name: str, entry: dict, entries: dict[str, dict]) -> Iterator[Row]:
    """Every run of a trajectory. `entries` are those of all manifests: one may stand for what another leaves out."""
    files = trajectory_files(folder, name, entry)
    missing = [path.name for path in files.values() if not path.exists()]
    for file in missing:
        yield Row(name, file, "absent")
    if not files["start"].exists() or not files["batches"].exists():
        return
    start, batches = load_file(files["start"]), load_file(files["batches"])
    listed = entry.get("config", {})
    shared = re.search(r"\bglccl_\w+", listed.get("other", ""))
    config = model_config((entries.get(shared[0], {}).get("config", {}) if shared else {}) | listed)
    for run, settings in entry["runs"].items():
        final = load_file(files[run]) if files[run].exists() else {}
        model = convert_original_checkpoint(start, **config)
        yield from run_replay(f"{name} {run}", model, entry, settings, batches, start, final)


def run_replay(
    case: str,
    model: GLCCLModel,
    entry: dict,
    settings: dict,
    batches: dict[str, Tensor],
    start: dict[str, Tensor],
    final: dict[str, Tensor],
) -> Iterator[Row]:
    """All comparisons of one run."""
    # "0 (README setting and default)": the number comes first, -1 freezes nothing.
    freeze = int(re.findall(r"-?\d+", str(entry.get("freeze_layer_num", -1)))[0])
    recipe = TrainRecipe(
        optimizer="bert_adam",
        learning_rate=settings["lr"],
        clip_learning_rate_factor=settings["coef_lr"],
        warmup_ratio=settings["warmup"],
        adam_beta1=settings["betas"][0],
        adam_beta2=settings["betas"][1],
        adam_epsilon=settings["eps"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["clip"],
        freeze_layer_num=None if freeze < 0 else freeze,
    )
    logged = replay(case, model, recipe, settings["t_total"], entry["batch_order"][: entry["steps"]], batches)

    trained = {name: torch.full(weight.shape, weight.requires_grad) for name, weight in model.named_parameters()}
    frozen = {name for name, flag in to_original_names(trained, model.config).items() if not flag.any()}
    different = sorted(frozen ^ set(entry.get("frozen", [])))
    verdict = f"FAIL: frozen here or there alone: {', '.join(different)}" if different else "ok"
    yield Row(case, f"names of {len(frozen)} frozen tensors", verdict)

    tolerances = {
        "loss": LOSS_FACTOR * settings["fp32_vs_fp64_loss_maxabs"],
        "logit_scale_after": FACTOR * settings["fp32_vs_fp64_weight_maxabs"],
    }
    for quantity, ours in logged.items():
        if quantity in settings:
            steps = 2 if quantity == "grad_norm_before_clip" else len(ours)
            golden = torch.tensor(settings[quantity][:steps], dtype=torch.float64)
            ours = torch.tensor(ours[:steps], dtype=torch.float64)
            tolerance = tolerances.get(quantity, FACTOR * default_floor(golden))
            yield compare(case, f"{quantity} of {steps} steps", ours, golden, tolerance)
    weights = to_original_names(dict(model.named_parameters()), model.config)
    for name in sorted(frozen):
        yield compare(case, f"frozen {name}", weights[name], start[name], 0.0)
    tolerance = FACTOR * settings["fp32_vs_fp64_weight_maxabs"]
    for name, golden in final.items():
        if name in weights:
            yield compare(case, f"weight {name}", weights[name], golden, tolerance)
        else:
            yield not_covered(case, "weight", name)


def replay(
    case: str, model: GLCCLModel, recipe: TrainRecipe, total_steps: int, order: list[int], batches: dict[str, Tensor]
) -> dict[str, list[float]]:
    """Trains `model` on batches in a given order; returns, by the manifest's names, what was logged of each step."""
    accelerator = Accelerator(cpu=True)
    freeze_clip(model, recipe.freeze_layer_num)
    optimizer = build_optimizer(model, recipe)
    scheduler = build_scheduler(optimizer, recipe, total_steps)
    step, optimizer = accelerator.prepare(FullBatchLoss(model.train()), optimizer)
    logged = {"loss": [], "grad_norm_before_clip": [], "logit_scale_after": [], "lr_group_noclip": []}
    for number, index in enumerate(order, start=1):
        logged["lr_group_noclip"].append(max(group["lr"] for group in optimizer.param_groups))
        inputs = {
            "input_ids": batches[f"batch{index}.input_ids"],
            "attention_mask": batches.get(f"batch{index}.attention_mask"),
            "pixel_values_videos": batches[f"batch{index}.video"],
            "padding_mask_videos": batches.get(f"batch{index}.video_mask"),
        }
        where = f"{case}, step {number}"
        losses = training_step(accelerator, step, optimizer, scheduler, inputs, recipe.max_grad_norm, where)
        logged["loss"].append(losses["loss"])
        logged["grad_norm_before_clip"].append(losses["gradient_norm"])
        logged["logit_scale_after"].append(model.clip.logit_scale.item())
    return logged
