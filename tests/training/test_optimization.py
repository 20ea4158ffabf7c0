import math
from types import SimpleNamespace

import pytest
import torch
from models import tiny_batch, tiny_model

from modeling_glccl.training import TrainRecipe
from modeling_glccl.training.full_batch import FullBatchLoss
from modeling_glccl.training.optimization import (
    BertAdam,
    add_lora,
    build_optimizer,
    build_scheduler,
    clamp_logit_scale,
    freeze_clip,
    parameter_groups,
    training_step,
    warmup_cosine,
)


def parameter(*values):
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))


def step(optimizer, weight, *gradient):
    weight.grad = torch.tensor(gradient, dtype=torch.float64)
    optimizer.step()


def test_two_steps_by_hand():
    weight = parameter(2.0, -1.0)
    optimizer = BertAdam([weight], lr=0.5, betas=(0.9, 0.98), eps=1e-2, weight_decay=0.2, max_grad_norm=10)
    step(optimizer, weight, 0.3, -4.0)
    # m = 0.1 g, v = 0.02 g^2: no division by 1 - beta.
    first = 2.0 - 0.5 * (0.03 / (math.sqrt(0.02 * 0.09) + 0.01) + 0.2 * 2.0)
    second = -1.0 - 0.5 * (-0.4 / (math.sqrt(0.02 * 16) + 0.01) - 0.2)
    assert weight.tolist() == pytest.approx([first, second], rel=1e-12)
    step(optimizer, weight, 1.0, 0.0)
    m, v = 0.9 * 0.03 + 0.1, 0.98 * 0.02 * 0.09 + 0.02
    assert weight[0].item() == pytest.approx(first - 0.5 * (m / (math.sqrt(v) + 0.01) + 0.2 * first), rel=1e-12)


def test_each_tensor_is_clipped_by_itself():
    clipped, free = parameter(0.0, 0.0), parameter(0.0)
    optimizer = BertAdam([clipped, free], lr=1.0, eps=1.0, weight_decay=0.0, max_grad_norm=1.0)
    free.grad = torch.tensor([0.5], dtype=torch.float64)
    step(optimizer, clipped, 3.0, 4.0)
    by_hand = [0.1 * g / (math.sqrt(0.02) * g + 1) for g in (0.6, 0.8, 0.5)]
    assert [*(-clipped).tolist(), -free.item()] == pytest.approx(by_hand, rel=1e-6)


def test_a_parameter_without_gradient_is_not_even_decayed():
    used, unused = parameter(1.0), parameter(1.0)
    optimizer = BertAdam([used, unused], lr=0.1, weight_decay=0.5)
    step(optimizer, used, 0.0)
    assert used.item() == pytest.approx(0.95)
    assert unused.item() == 1.0
    assert unused not in optimizer.state


def test_the_cosine_starts_with_the_warmup():
    assert [warmup_cosine(x, 0.1) for x in (0, 0.05)] == [0, 0.5]
    assert warmup_cosine(0.1, 0.1) == pytest.approx(0.9755282581475768)
    assert warmup_cosine(0.5, 0.1) == pytest.approx(0.5)
    assert warmup_cosine(1.0, 0.1) == pytest.approx(0)
    assert warmup_cosine(0, 0) == 1


def rates_of(recipe: TrainRecipe, steps: int, count: int) -> list[dict[str, float]]:
    """Of each group before each of the first steps."""
    optimizer = build_optimizer(tiny_model(), recipe)
    scheduler = build_scheduler(optimizer, recipe, steps)
    rates = []
    for _ in range(count):
        rates.append({group["name"]: group["lr"] for group in optimizer.param_groups})
        optimizer.step()
        scheduler.step()
    return rates


def test_the_rate_rises_over_the_warmup_and_ends_at_zero():
    recipe = TrainRecipe(learning_rate=1e-3, clip_learning_rate_factor=0.1, warmup_ratio=0.2)
    rates = rates_of(recipe, steps=10, count=11)
    cosine = [1e-3 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(9)]
    assert [rate["new"] for rate in rates] == pytest.approx([0, 5e-4, *cosine], abs=1e-12)
    assert [rate["clip"] for rate in rates] == pytest.approx([0, 5e-5, *(c / 10 for c in cosine)], abs=1e-12)


def test_the_recipe_chooses_rule_schedule_and_settings():
    own = {"adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-4, "max_grad_norm": 0.5}
    rates = {"learning_rate": 1e-3, "clip_learning_rate_factor": 0.1}
    recipe = TrainRecipe(optimizer="bert_adam", **own, **rates)
    optimizer = build_optimizer(tiny_model(), recipe)
    assert isinstance(optimizer, BertAdam)
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"], group["max_grad_norm"]) == ((0.8, 0.9), 1e-4, 0.5)
    rates = rates_of(recipe, steps=20, count=4)
    assert [rate["new"] for rate in rates] == pytest.approx([0, 5e-4, 9.755282581475769e-4, 9.45503262094184e-4])
    assert [rate["clip_without_decay"] for rate in rates] == pytest.approx([rate["new"] / 10 for rate in rates])

    adamw = build_optimizer(tiny_model(), TrainRecipe(adam_beta2=0.9, adam_epsilon=1e-4))
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.defaults["betas"], adamw.defaults["eps"]) == ((0.9, 0.9), 1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "bert_adam"])
def test_every_parameter_is_in_one_group_with_its_rate_and_decay(optimizer):
    """`bert_adam` decays everything but biases, `adamw` matrices that do not start as identities."""
    model = tiny_model()
    recipe = TrainRecipe(optimizer=optimizer, learning_rate=1e-3, clip_learning_rate_factor=0.1, weight_decay=0.2)
    groups = parameter_groups(model, recipe)
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(settings) == len(list(model.parameters()))
    block, vectors = model.temporal.encoder.layers[0], 0.2 if optimizer == "bert_adam" else 0.0
    expected = {
        model.clip.text_projection.weight: (1e-4, 0.2),
        model.clip.text_model.embeddings.token_embedding.weight: (1e-4, 0.2),
        model.clip.logit_scale: (1e-4, vectors),
        model.clip.vision_model.post_layernorm.weight: (1e-4, vectors),
        model.clip.text_model.final_layer_norm.bias: (1e-4, 0.0),
        block.mlp.fc1.weight: (1e-3, 0.2),
        block.mlp.fc1.bias: (1e-3, 0.0),
        block.layer_norm1.weight: (1e-3, vectors),
        block.layer_norm1.bias: (1e-3, 0.0),
        model.interaction.global_mat_weight: (1e-3, vectors),
        model.interaction.word_mat_weight: (1e-3, vectors),
    }
    for parameter, (rate, decay) in expected.items():
        assert settings[id(parameter)] == pytest.approx((rate, decay))
    model.clip.requires_grad_(False)
    assert {group["name"] for group in parameter_groups(model, recipe)} == {"new", "new_without_decay"}


def test_logit_scale_stays_at_or_below_100():
    model = tiny_model()
    for value, expected in ((5.0, math.log(100)), (1.0, 1.0)):
        model.clip.logit_scale.data.fill_(value)
        clamp_logit_scale(model)
        assert model.clip.logit_scale.item() == pytest.approx(expected)


def test_a_rank_of_lora_beyond_the_width_is_refused_before_it_takes_memory():
    with pytest.raises(ValueError, match=r"^train\.lora_rank=1000000000 must be at most \d+, the width"):
        add_lora(tiny_model(), 10**9)


@pytest.mark.parametrize("skipped", [False, True])
def test_a_step_that_fp16_skips_does_not_move_the_schedule(skipped):
    """The schedule counts updates; a gradient that overflows is no mistake in fp16, and skips one."""
    model = tiny_model().train()
    recipe = TrainRecipe(warmup_ratio=0.5)
    optimizer = build_optimizer(model, recipe)
    scheduler = build_scheduler(optimizer, recipe, steps=8)
    accelerator = SimpleNamespace(
        unwrap_model=lambda wrapped: wrapped,
        backward=torch.Tensor.backward,
        clip_grad_norm_=lambda parameters, norm: torch.tensor(math.inf if skipped else 1.0),
        scaler=object(),
        optimizer_step_was_skipped=skipped,
    )
    inputs = tiny_batch()
    losses = training_step(accelerator, FullBatchLoss(model), optimizer, scheduler, inputs, 1.0, "step 1")
    assert losses["learning_rate/new"] == pytest.approx(0 if skipped else recipe.learning_rate / 4)
    assert all(parameter.grad is None for parameter in model.parameters())


def frozen_names(layers):
    model = tiny_model()
    freeze_clip(model, layers)
    return {name for name, weight in model.named_parameters() if not weight.requires_grad}


EMBEDDINGS = {
    *(f"clip.text_model.embeddings.{kind}_embedding.weight" for kind in ("token", "position")),
    "clip.vision_model.embeddings.class_embedding",
    *(f"clip.vision_model.embeddings.{kind}_embedding.weight" for kind in ("patch", "position")),
    *(f"clip.vision_model.pre_layrnorm.{kind}" for kind in ("weight", "bias")),
}


def test_freezing_begins_with_the_embeddings_and_goes_up_layer_by_layer():
    assert frozen_names(None) == set()
    assert frozen_names(0) == EMBEDDINGS
    first = frozen_names(1) - EMBEDDINGS
    assert {name.split(".")[1] for name in first} == {"text_model", "vision_model"}
    assert {name.split(".")[4] for name in first} == {"0"}
    with pytest.raises(ValueError, match="freeze_layer_num=3, but a tower of this CLIP has 2 layers"):
        frozen_names(3)


def test_frozen_embeddings_leave_the_other_gradients_as_they_are():
    """Also where activations are recomputed: a frozen input must not cut the layers above off."""
    gradients = []
    for layers, checkpointing in ((None, False), (0, False), (0, True)):
        model = tiny_model().train()
        freeze_clip(model, layers)
        if checkpointing:
            model.activation_checkpointing_enable()
        model(**tiny_batch(), return_loss=True).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if name not in EMBEDDINGS})
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, msg=name)
