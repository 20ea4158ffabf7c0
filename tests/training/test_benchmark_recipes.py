"""The recipes of recipes/ on a tiny CLIP and, for the paper's, on miniatures of their benchmarks."""

import miniatures
import pytest
import torch
from families import save_deep_clip
from paths import REPOSITORY

from modeling_glccl import GLCCLModel
from modeling_glccl.training import load_recipe, train
from modeling_glccl.training.build import build_model
from modeling_glccl.training.optimization import BertAdam, build_optimizer, freeze_clip

RECIPES = {
    path.stem: path
    for path in sorted((REPOSITORY / "recipes").glob("*.yaml"))
    if not path.stem.endswith(("_clip", "_ablation"))
}
BENCHMARKS = ("msrvtt", "didemo", "vatex")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_deep_clip(tmp_path_factory.mktemp("clip"), ["a cat and a dog in the rain"])


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_model_and_its_optimiser(name, clip):
    sizes = ["data.processor.size=32", "data.processor.crop_size=32"]
    recipe = load_recipe(RECIPES[name], [f"model.clip={clip}", "model.config.temporal_num_attention_heads=1", *sizes])
    model, processor = build_model(recipe, [])
    assert all(getattr(model.config, key) == value for key, value in recipe.model.config.items())
    assert processor.video_processor.max_frames == recipe.model.config["max_frames"]
    freeze_clip(model, recipe.train.freeze_layer_num)
    optimizer = build_optimizer(model, recipe.train)
    assert isinstance(optimizer, BertAdam if name.startswith("paper_") else torch.optim.AdamW)
    assert {group["name"] for group in optimizer.param_groups} == {
        f"{part}{decay}" for part in ("clip", "new") for decay in ("", "_without_decay")
    }
    assert recipe.train.pairs_per_process(4) * 4 == (recipe.train.total_batch_size or recipe.train.batch_size * 4)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_papers_recipes_are_the_releases(name):
    """What docs/method.md and docs/reproduce.md say of them."""
    recipe = load_recipe(RECIPES[f"paper_{name}"])
    model, data, optimisation = recipe.model.config, recipe.data, recipe.train
    slots, batch, epochs = {"didemo": ((64, 64), 64, 20)}.get(name, ((32, 12), 128, 5))
    assert (model["max_words"], model["max_frames"]) == slots
    assert (optimisation.total_batch_size, optimisation.epochs, recipe.seed) == (batch, epochs, 42)
    assert model["mask_padding"] is False
    assert model["csc_weight"] == 0.1
    assert data.processor == {"sampling": "release"}
    assert data.selects_on_test
    assert (optimisation.optimizer, optimisation.freeze_layer_num) == ("bert_adam", 0)
    assert (optimisation.learning_rate, optimisation.clip_learning_rate_factor) == (1e-4, 1e-3)
    assert (optimisation.adam_beta1, optimisation.adam_beta2, optimisation.adam_epsilon) == (0.9, 0.98, 1e-6)
    assert (optimisation.weight_decay, optimisation.warmup_ratio, optimisation.max_grad_norm) == (0.2, 0.1, 1.0)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_our_recipes_never_select_on_the_test_split(name):
    recipe = load_recipe(RECIPES[name])
    assert not recipe.data.selects_on_test
    assert recipe.data.test_split == "test"
    assert recipe.model.config["mask_padding"] is True
    assert (recipe.train.optimizer, recipe.train.precision) == ("adamw", "bf16")


@pytest.mark.filterwarnings("ignore:.*canonical.*", "ignore:.*videos.*")
@pytest.mark.parametrize("name", ["msrvtt", *(pytest.param(name, marks=pytest.mark.slow) for name in BENCHMARKS[1:])])
def test_the_papers_recipes_train_on_miniatures(name, clip, tmp_path, monkeypatch):
    """Two steps: the first is zero by the schedule, the second moves everything but what is frozen."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # processes that decode take long to start
    miniatures.BENCHMARKS[name](tmp_path)
    overrides = [f"model.clip={clip}", f"data.data_dir={tmp_path}", f"output_dir={tmp_path / 'run'}"]
    overrides += [
        "data.options.videos_dir=videos",
        "data.num_workers=0",
        f"data.frame_cache_dir={tmp_path / 'frames'}",
    ]
    overrides += ["train.total_batch_size=2", "train.max_steps=2", "train.precision=fp32"]  # fp16 needs a GPU
    results = train(load_recipe(RECIPES[f"paper_{name}"], overrides))
    assert results["model"] == "last"
    assert results["best_on_test"]["test"] == results["history"][-1]["test"]
    assert results["test"]["t2v"].keys() >= {"R@1", "MdR", "MnR"}

    start = GLCCLModel.from_clip_pretrained(clip, **load_recipe(RECIPES[f"paper_{name}"]).model.config)
    freeze_clip(start, 0)
    end = GLCCLModel.from_pretrained(tmp_path / "run" / "last").state_dict()
    moved = {part for part, weight in start.named_parameters() if not torch.equal(weight, end[part])}
    assert moved.isdisjoint(part for part, weight in start.named_parameters() if not weight.requires_grad)
    assert moved >= {"interaction.global_mat_weight", "temporal.encoder.layers.0.mlp.fc1.weight"}
    assert any(part.startswith("clip.") for part in moved)
