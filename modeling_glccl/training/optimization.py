"""Optimisers with two learning rates, their schedules, frozen layers, LoRA, and the bound on logit_scale."""

import math
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import get_cosine_schedule_with_warmup

from ..modeling_glccl import GLCCLModel
from .bert_adam import BertAdam, warmup_cosine
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
        group = {
            "name": part if decayed else f"{part}_without_decay",
            "params": [],
            "lr": rate,
            "weight_decay": recipe.weight_decay if decayed else 0.0,
        }
        groups.setdefault(group["name"], group)["params"].append(parameter)
    return list(groups.values())


def freeze_clip(model: GLCCLModel, layers: int | None) -> None:
    """Freezes CLIP's embeddings, its pre-norm and first layers; call it before [`build_optimizer`].

    The final norms, the projections, logit_scale and everything that is not CLIP's are always trained. With `None`
    layers nothing at all is frozen, the embeddings neither; more than a tower has are a ValueError.
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
    """Puts LoRA (arXiv 2106.09685) of this rank on the attention projections of both towers, if there is one.

    Of CLIP nothing else is then trained. Needs PEFT, which changes the layers in place. Raises ValueError for a rank
    above the width of a tower.
    """
    if rank is None:
        return
    if rank > (width := min(model.config.text_config.hidden_size, model.config.vision_config.hidden_size)):
        raise ValueError(
            f"train.lora_rank={rank} must be at most {width}, the width of the narrower tower of this CLIP"
        )
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
