import math

import pytest
import torch
from models import tiny_batch, tiny_model

from modeling_glccl.training import TrainRecipe
from modeling_glccl.training.bert_adam import BertAdam, warmup_cosine
from modeling_glccl.training.optimization import build_optimizer, build_scheduler, freeze_clip, parameter_groups


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


def test_the_recipe_chooses_rule_schedule_and_settings():
    recipe = TrainRecipe(
        optimizer="bert_adam",
        learning_rate=1e-3,
        clip_learning_rate_factor=0.1,
        adam_beta1=0.8,
        adam_beta2=0.9,
        adam_epsilon=1e-4,
        max_grad_norm=0.5,
    )
    optimizer = build_optimizer(tiny_model(), recipe)
    assert isinstance(optimizer, BertAdam)
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"], group["max_grad_norm"]) == ((0.8, 0.9), 1e-4, 0.5)
    scheduler = build_scheduler(optimizer, recipe, steps=20)
    rates = []
    for _ in range(4):
        rates.append({group["name"]: group["lr"] for group in optimizer.param_groups})
        optimizer.step()
        scheduler.step()
    assert [rate["new"] for rate in rates] == pytest.approx([0, 5e-4, 9.755282581475769e-4, 9.45503262094184e-4])
    assert [rate["clip_without_decay"] for rate in rates] == pytest.approx([rate["new"] / 10 for rate in rates])

    adamw = build_optimizer(tiny_model(), TrainRecipe(adam_beta2=0.9, adam_epsilon=1e-4))
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.defaults["betas"], adamw.defaults["eps"]) == ((0.9, 0.9), 1e-4)


def test_everything_but_biases_is_decayed():
    model = tiny_model()
    groups = parameter_groups(model, TrainRecipe(optimizer="bert_adam", weight_decay=0.2))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    block = model.temporal.encoder.layers[0]
    for weight in (
        model.clip.logit_scale,
        model.clip.vision_model.post_layernorm.weight,
        block.layer_norm1.weight,
        model.interaction.global_mat_weight,
        model.interaction.word_mat_weight,
    ):
        assert decay[id(weight)] == 0.2
    for bias in (block.mlp.fc1.bias, block.layer_norm1.bias, model.clip.text_model.final_layer_norm.bias):
        assert decay[id(bias)] == 0.0


def frozen_names(layers):
    model = tiny_model()
    freeze_clip(model, layers)
    return {name for name, weight in model.named_parameters() if not weight.requires_grad}


EMBEDDINGS = {
    "clip.text_model.embeddings.token_embedding.weight",
    "clip.text_model.embeddings.position_embedding.weight",
    "clip.vision_model.embeddings.class_embedding",
    "clip.vision_model.embeddings.patch_embedding.weight",
    "clip.vision_model.embeddings.position_embedding.weight",
    "clip.vision_model.pre_layrnorm.weight",
    "clip.vision_model.pre_layrnorm.bias",
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
