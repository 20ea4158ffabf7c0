"""One optimiser step: what the loop repeats, and what benchmarks/parity.py replays on the authors' batches."""

import math

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from .optimization import clamp_logit_scale


def training_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    inputs: dict[str, Tensor],
    max_grad_norm: float,
    where: str,
) -> dict[str, float]:
    """Losses, gradients, clipping, update, schedule, and the bound on logit_scale.

    Args:
        accelerator: has prepared `optimizer` and `model`, a [`FullBatchLoss`].
        scheduler: stepped after the optimiser, unless that skipped its step (overflow in fp16).
        inputs: of the model, this process's pairs.
        max_grad_norm: all gradients together are clipped to this norm.
        where: step and videos, for errors.

    Returns:
        What is logged of the step: `loss` and its parts, `gradient_norm` before clipping, `logit_scale` before the
        update, and `learning_rate/GROUP` for the next step.

    Raises:
        ValueError: a loss or a gradient that is not finite; what the model raises. Both say where.
    """
    try:
        output = model(**inputs)
    except ValueError as error:
        error.add_note(f"raised at {where}")
        raise
    bare_model = accelerator.unwrap_model(model).model
    accelerator.backward(output.loss)
    gradient_norm = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    losses = {
        "loss": output.loss,
        "contrastive_loss": output.contrastive_loss,
        "csc_loss": output.csc_loss,
        "auxiliary_loss": output.get("auxiliary_loss"),
        "gradient_norm": gradient_norm,
        "logit_scale": bare_model.clip.logit_scale,
    }
    losses = {name: float(value.detach()) for name, value in losses.items() if value is not None}
    # In fp16 a gradient may overflow: the scaler then skips the step and lowers its scale.
    if not math.isfinite(losses["loss"] if accelerator.scaler else losses["loss"] + losses["gradient_norm"]):
        raise ValueError(
            f"loss {losses['loss']} and gradient norm {losses['gradient_norm']} are not finite at {where}: look "
            "at these videos and their captions, lower train.learning_rate, or use train.precision=fp32"
        )
    optimizer.step()
    if not accelerator.optimizer_step_was_skipped:
        scheduler.step()
    optimizer.zero_grad()
    clamp_logit_scale(bare_model)
    for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        losses[f"learning_rate/{group['name']}"] = float(rate)
    return losses
