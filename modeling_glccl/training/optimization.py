"""AdamW with two learning rates, its schedule, and the bound on logit_scale."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_cosine_schedule_with_warmup

from .recipe import TrainRecipe

# CLIP multiplies logits by at most 100 (arXiv 2103.00020, section 2.5).
MAX_LOGIT_SCALE = math.log(100)


def build_optimizer(model: nn.Module, recipe: TrainRecipe) -> torch.optim.AdamW:
    """AdamW with CLIP's betas and epsilon over the groups of [`parameter_groups`]."""
    return torch.optim.AdamW(parameter_groups(model, recipe), betas=(0.9, 0.98), eps=1e-6)


def build_scheduler(optimizer: torch.optim.Optimizer, recipe: TrainRecipe, steps: int) -> LRScheduler:
    """Linear warm-up over `warmup_ratio` of the steps, then a cosine to zero, stepped once per training step."""
    return get_cosine_schedule_with_warmup(optimizer, math.ceil(recipe.warmup_ratio * steps), steps)


def parameter_groups(model: nn.Module, recipe: TrainRecipe) -> list[dict]:
    """The trainable parameters in up to four groups: CLIP and new layers, with and without weight decay.

    Biases, normalisation weights, logit_scale and other vectors are not decayed; neither are the learned matrices of
    the interaction, which start as identities: decay would pull them to zero rather than to a neutral value.

    Args:
        model: a GLCCL model; the parameters of its attribute `clip` are CLIP's.
        recipe: learning rates and weight decay.
    """
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "clip" if name.startswith("clip.") else "new"
        decayed = parameter.ndim >= 2 and not name.startswith("interaction.")
        rate = recipe.learning_rate * (recipe.clip_learning_rate_factor if part == "clip" else 1)
        group = {
            "name": part if decayed else f"{part}_without_decay",
            "params": [],
            "lr": rate,
            "weight_decay": recipe.weight_decay if decayed else 0.0,
        }
        groups.setdefault(group["name"], group)["params"].append(parameter)
    return list(groups.values())


@torch.no_grad()
def clamp_logit_scale(model: nn.Module) -> None:
    """Keeps exp(logit_scale) at or below 100, as CLIP does; call it after each step."""
    model.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
