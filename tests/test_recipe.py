import dataclasses
from pathlib import Path

import pytest

from benchmarks.ablation.grid import GridRecipe
from modeling_glccl.training import DataRecipe, ModelRecipe, Recipe, TrainRecipe, load_recipe, save_recipe
from modeling_glccl.training.pretrain_clip import ClipRecipe
from modeling_glccl.training.recipe import differences

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("output_dir: runs/x\nmodel:\n  config: {max_words: 40}\ntrain:\n  epochs: 3\n")
    return path


def test_values_come_from_the_file_and_defaults_fill_the_rest(recipe_file):
    recipe = load_recipe(recipe_file)
    assert (recipe.output_dir, recipe.train.epochs, recipe.model.config) == ("runs/x", 3, {"max_words": 40})
    assert recipe.train.batch_size == TrainRecipe().batch_size


@pytest.mark.parametrize(
    ("override", "section", "name", "value"),
    [
        ("train.batch_size=16", "train", "batch_size", 16),
        ("train.learning_rate=1e-3", "train", "learning_rate", 1e-3),
        ("train.learning_rate=5", "train", "learning_rate", 5),
        ("train.precision=bf16", "train", "precision", "bf16"),
        ("train.precision=auto", "train", "precision", "auto"),
        ("data.validation_split=null", "data", "validation_split", None),
        ("model.clip=openai/clip-vit-base-patch32", "model", "clip", "openai/clip-vit-base-patch32"),
        ("model.config.glim_local=false", "model", "config", {"max_words": 40, "glim_local": False}),
        ("model.config.temporal_layer_norm_eps=1e-12", "model", "config", None),
        ("model.config={}", "model", "config", {}),
    ],
)
def test_overrides_go_over_the_file(recipe_file, override, section, name, value):
    value = {"max_words": 40, "temporal_layer_norm_eps": 1e-12} if "eps" in override else value
    assert getattr(getattr(load_recipe(recipe_file, [override]), section), name) == value


def test_no_is_a_word(recipe_file):
    assert load_recipe(recipe_file, ["output_dir=no"]).output_dir == "no"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batchsize=16", "unknown key train.batchsize: did you mean train.batch_size?"),
        ("batch_size=16", "unknown key batch_size: did you mean train.batch_size?"),
        ("trian.batch_size=16", "unknown key trian: did you mean train?"),
        ("model.config.glim_tempereture=5", "did you mean model.config.glim_temperature?"),
        ("train.batch_size=large", "batch_size.*expected int, got str.*large"),
        ("train.batch_size=1.5", "batch_size.*expected int, got float"),
        ("train.batch_size=0", "recipe section train: batch_size=0 must be at least 1"),
        ("train.learning_rate=-1", "learning_rate=-1"),
        ("train.warmup_ratio=20", "warmup_ratio=20"),
        ("train.precision=fp8", "precision.*fp8"),
        ("train.optimizer=adam", "optimizer.*adam"),
        ("train.adam_beta2=1", "adam_beta2=1 must be less than 1"),
        ("train.adam_epsilon=-1e-6", "adam_epsilon=-1e-06 must be at least 0"),
        ("train.freeze_layer_num=-1", "freeze_layer_num=-1 must be at least 0"),
        ("train.total_batch_size=0", "total_batch_size=0 must be at least 1"),
        ("model.head=x_clip", "head.*x_clip"),
        ("model={head: xpool, config: {csc_weight: 0.1}}", "set config.csc_weight=0"),
        ("data=shapes", "data must be a mapping.*shapes"),
        ("output_dir.x=1", "output_dir holds the value 'runs/x'"),
        ("resume=2", "resume.*2"),
        ("train.batch_size", "not of the form key=value"),
    ],
)
def test_errors_name_the_key_and_the_value(recipe_file, override, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe_file, [override])


def test_clip_and_checkpoint_exclude_each_other(recipe_file):
    with pytest.raises(ValueError, match="clip='a' and checkpoint='b' exclude each other"):
        load_recipe(recipe_file, ["model.clip=a", "model.checkpoint=b"])


def test_a_recipe_without_output_dir_is_refused(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ValueError, match="output_dir"):
        load_recipe(tmp_path / "empty.yaml")


def test_only_what_loads_from_the_hub_is_pushed_there(recipe_file):
    peer = ["model.head=xpool", "model.config.csc_weight=0", "push_to_hub=me/shapes"]
    with pytest.raises(ValueError, match=r"only model\.head=glccl is published"):
        load_recipe(recipe_file, peer)


def test_a_saved_recipe_is_read_back_equal(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, ["train.learning_rate=1e-05", "push_to_hub=me/shapes"])
    save_recipe(recipe, tmp_path / "copy.yaml")
    assert load_recipe(tmp_path / "copy.yaml") == recipe


def test_differences_name_dotted_keys(recipe_file):
    other = load_recipe(recipe_file, ["train.epochs=4", "model.config.max_frames=6", "seed=1"])
    assert differences(load_recipe(recipe_file), other) == {
        "train.epochs": (3, 4),
        "model.config.max_frames": (None, 6),
        "seed": (42, 1),
    }


@pytest.mark.parametrize("recipe_class", [Recipe, ModelRecipe, DataRecipe, TrainRecipe, ClipRecipe, GridRecipe])
def test_every_key_is_documented(recipe_class):
    for field in dataclasses.fields(recipe_class):
        assert f"        {field.name}: " in recipe_class.__doc__, field.name


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_repository_are_valid(path):
    kinds = {"clip": ClipRecipe, "ablation": GridRecipe}
    load_recipe(path, recipe_class=kinds.get(path.stem.rpartition("_")[2], Recipe))
