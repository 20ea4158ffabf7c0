"""One optimiser step and what it takes: two learning rates, schedules, frozen layers, LoRA, a bound on logit_scale."""

import math
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import get_cosine_schedule_with_warmup

from ..modeling_glccl import GLCCLModel
from .recipe import TrainRecipe

# CLIP multiplies logits by at most 100 (arXiv 2103.00020, section 2.5).
MAX_LOGIT_SCALE = math.log(100)
# The attention projections of both towers, whatever the family of CLIP.
LORA_LAYERS = r"clip\.(text|vision)_model\.encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj"


def build_optimizer(model: nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the groups of [`parameter_groups`]."""
    groups = parameter_groups(model, recipe)
    settings = {"betas": (recipe.adam_beta1, recipe.adam_beta2), "eps": recipe.adam_epsilon}
    if recipe.optimizer == "bert_adam":
        return BertAdam(groups, lr=recipe.learning_rate, max_grad_norm=recipe.max_grad_norm, **settings)
    return torch.optim.AdamW(groups, **settings)


def build_scheduler(optimizer: torch.optim.Optimizer, recipe: TrainRecipe, steps: int) -> LRScheduler:
    """Linear warm-up over `warmup_ratio` of the steps, then a cosine to zero, stepped once per training step.

    With `bert_adam` the cosine is that of [`warmup_cosine`], which starts with the warm-up rather than after it.
    """
    if recipe.optimizer == "bert_adam":
        return LambdaLR(optimizer, lambda step: warmup_cosine(step / steps, recipe.warmup_ratio))
    return get_cosine_schedule_with_warmup(optimizer, math.ceil(recipe.warmup_ratio * steps), steps)


def parameter_groups(model: nn.Module, recipe: TrainRecipe) -> list[dict]:
    """The trainable parameters in up to four groups: CLIP and new layers (LoRA's, too), with and without weight decay.

    With `adamw` biases, normalisation weights, logit_scale and other vectors are not decayed; neither are the learned
    matrices of the interaction, which start as identities: decay would pull them to zero rather than to a neutral
    value. With `bert_adam`, as in the authors' release, only biases are not decayed.
    """
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "clip" if name.startswith("clip.") and ".lora_" not in name else "new"
        if recipe.optimizer == "bert_adam":
            decayed = not name.endswith("bias")
        else:
            decayed = parameter.ndim >= 2 and not name.startswith("interaction.")
        rate = recipe.learning_rate * (recipe.clip_learning_rate_factor if part == "clip" else 1)
        group = {"name": part, "params": [], "lr": rate, "weight_decay": recipe.weight_decay}
        if not decayed:
            group |= {"name": f"{part}_without_decay", "weight_decay": 0.0}
        groups.setdefault(group["name"], group)["params"].append(parameter)
    return list(groups.values())


def freeze_clip(model: GLCCLModel, layers: int | None) -> None:
    """Freezes CLIP's embeddings, its pre-norm and first layers; call it before [`build_optimizer`].

    The final norms, the projections, logit_scale and everything that is not CLIP's are always trained. `None` freezes
    nothing at all; more layers than a tower has are a ValueError.
    """
    if layers is None:
        return
    text, vision = model.clip.text_model, model.clip.vision_model
    depth = min(len(text.encoder.layers), len(vision.encoder.layers))
    if layers > depth:
        raise ValueError(f"freeze_layer_num={layers}, but a tower of this CLIP has {depth} layers")
    frozen = [text.embeddings, vision.embeddings]
    if hasattr(vision, "pre_layrnorm"):  # SigLIP has none
        frozen.append(vision.pre_layrnorm)
    for module in (*frozen, *text.encoder.layers[:layers], *vision.encoder.layers[:layers]):
        module.requires_grad_(False)


def add_lora(model: GLCCLModel, rank: int | None) -> None:
    """Puts LoRA (arXiv 2106.09685) on the attention projections of both towers, in place; nothing else of CLIP trains.

    Needs PEFT. `None` changes nothing; a rank above the width of a tower is a ValueError.
    """
    if rank is None:
        return
    if rank > (width := min(model.config.text_config.hidden_size, model.config.vision_config.hidden_size)):
        raise ValueError(f"train.lora_rank={rank} must be at most {width}, the width of this CLIP's narrower tower")
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=LORA_LAYERS), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith("clip.") or ".lora_" in name)


def merged(model: GLCCLModel) -> GLCCLModel:
    """The model with its LoRA added to the weights, as a copy; the model itself if it has none."""
    lora = {
        name.partition(".lora_A")[0] for name, _ in model.named_parameters() if name.endswith(".lora_A.default.weight")
    }
    if not lora:
        return model
    model = deepcopy(model)
    for name in lora:
        layer: Any = model.get_submodule(name)
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    return model


@torch.no_grad()
def clamp_logit_scale(model: GLCCLModel) -> None:
    """Keeps exp(logit_scale) at or below 100, as CLIP does; call it after each step."""
    model.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)


class BertAdam(torch.optim.Optimizer):
    """Adam without bias correction, with which the authors' release (as CLIP4Clip and X-CLIP) trains.

        m = beta1 m + (1 - beta1) g,    v = beta2 v + (1 - beta2) g^2
        p = p - lr (m / (sqrt(v) + eps) + weight_decay p)

    It differs from `torch.optim.AdamW` in that m and v, which start at zero, are not divided by 1 - beta^t, so that
    the first steps are smaller; and in that the gradient of each tensor is clipped to a norm of its own, which changes
    nothing where all together were clipped to it. A parameter without gradient is neither updated nor decayed.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.2,
        max_grad_norm: float = 1.0,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "max_grad_norm": max_grad_norm}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        """Updates every parameter that has a gradient; returns what `closure`, if given, returns."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                clip_grad_norm_(parameter, group["max_grad_norm"])
                gradient, state = parameter.grad, self.state[parameter]
                if not state:
                    state |= {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                average = state["exp_avg"].mul_(beta1).add_(gradient, alpha=1 - beta1)
                square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                update = average / (square.sqrt() + group["eps"])
                parameter.sub_(group["lr"] * (update + group["weight_decay"] * parameter))
        return loss


def warmup_cosine(progress: float, warmup_ratio: float) -> float:
    """Factor of the learning rate after a share `progress` of the steps.

    It rises linearly from 0 until `warmup_ratio` and is (1 + cos(pi progress)) / 2 afterwards. The cosine starts at 0,
    not where the warm-up ends: at a ratio of 0.1 the factor drops from 1 to 0.976 there. As the first step is taken
    at progress 0, it changes nothing but m and v.
    """
    if progress < warmup_ratio:
        return progress / warmup_ratio
    return (1 + math.cos(math.pi * progress)) / 2


def training_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    inputs: dict[str, Tensor],
    max_grad_norm: float,
    where: str,
) -> dict[str, float]:
    """Losses, gradients, clipping of all together to `max_grad_norm`, update, schedule, and the bound on logit_scale.

    `accelerator` has prepared `optimizer` and `model`, a [`FullBatchLoss`]; `inputs` are this process's pairs, `where`
    says step and videos, for errors. The schedule stands still where an overflow in fp16 skips the update.

    Returns what is logged: `loss` and its parts, `gradient_norm` before clipping, `logit_scale` before the update, and
    `learning_rate/GROUP` for the next step. A loss or a gradient that is not finite is a ValueError that says where.
    """
    try:
        output = model(**inputs)
    except ValueError as error:
        error.add_note(f"raised at {where}")
        raise
    bare_model = accelerator.unwrap_model(model).model
    accelerator.backward(output.loss)
    gradient_norm = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    values = {**output, "gradient_norm": gradient_norm, "logit_scale": bare_model.clip.logit_scale}
    losses = {name: float(value.detach()) for name, value in values.items()}
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
