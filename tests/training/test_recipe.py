import dataclasses
import inspect
import os

import pytest
from paths import REPOSITORY

from benchmarks.ablation.grid import GridRecipe
from modeling_glccl.training import DataRecipe, ModelRecipe, Recipe, TrainRecipe, load_recipe, save_recipe
from modeling_glccl.training.pretrain_clip import ClipRecipe
from modeling_glccl.training.recipe import differences

RECIPES = REPOSITORY / "recipes"


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
    ("override", "value"),
    [
        ("train.batch_size=16", 16),
        ("train.learning_rate=1e-3", 1e-3),
        ("train.learning_rate=5", 5),
        ("train.precision=auto", "auto"),
        ("data.validation_split=null", None),
        ("model.clip=openai/clip-vit-base-patch32", "openai/clip-vit-base-patch32"),
        ("model.config.glim_local=false", {"max_words": 40, "glim_local": False}),
        ("model.config.temporal_layer_norm_eps=1e-12", {"max_words": 40, "temporal_layer_norm_eps": 1e-12}),
        ("model.config={}", {}),
    ],
)
def test_overrides_go_over_the_file(recipe_file, override, value):
    section, name = override.partition("=")[0].split(".")[:2]
    recipe = load_recipe(recipe_file, [override, "output_dir=no"])
    assert getattr(getattr(recipe, section), name) == value
    assert recipe.output_dir == "no"  # a word


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batchsize=16", "unknown key train.batchsize: did you mean train.batch_size?"),
        ("batch_size=16", "unknown key batch_size: did you mean train.batch_size?"),
        ("trian.batch_size=16", "unknown key trian: did you mean train?"),
        (
            "model.config.glim_temperture=5",
            r"^model\.config\.glim_temperture is unknown: did you mean glim_temperature",
        ),
        ("train.batch_size=large", r"^train\.batch_size: expected int, got str \(value: .large.\)$"),
        ("train.batch_size=0", "^train.batch_size=0 must be at least 1"),
        ("train.learning_rate=-1", "learning_rate=-1"),
        ("train.warmup_ratio=20", "warmup_ratio=20"),
        ("train.precision=fp8", "precision.*fp8"),
        ("train.adam_beta2=1", "adam_beta2=1 must be less than 1"),
        ("train.adam_epsilon=-1e-6", "adam_epsilon=-1e-06 must be at least 0"),
        ("train.lora_rank=0", "train.lora_rank=0 must be at least 1"),
        ("train.freeze_layer_num=-1", "freeze_layer_num=-1 must be at least 0"),
        ("train.total_batch_size=0", "total_batch_size=0 must be at least 1"),
        ("model={head: xpool, config: {csc_weight: 0.1}}", "set config.csc_weight=0"),
        ("model={clip: a, checkpoint: b}", "clip='a' and checkpoint='b' exclude each other"),
        ("data=shapes", "data must be a mapping.*shapes"),
        ("output_dir.x=1", "output_dir holds the value 'runs/x'"),
        ("resume=2", "resume.*2"),
        ("push_to_hub=shapes", r"^push_to_hub='shapes' must be of the form owner/name$"),
        ("train.batch_size", "not of the form key=value"),
        ("train.learning_rate=fast", r"^train\.learning_rate: 'fast' is none of float, int$"),
        ("train.learning_rate=1e999", r"^train\.learning_rate=inf must be finite$"),
        ("train.epochs=true", r"^train\.epochs: expected int, got bool \(value: True\)$"),
        ("data.frame_cache=png", r"^data\.frame_cache: 'png' is none of Literal\['raw', 'jpeg'\], NoneType$"),
        ("data.frame_cache=raw", r"^data\.frame_cache=raw needs frame_cache_dir"),
        ("seed=-1", "^seed=-1 must lie in 0..4294967295$"),
        ("data.num_workers=100000", "data.num_workers=100000 must be at most 1024"),
        ("model.clip=[a", r"^'model\.clip=\[a', line 1, column 3: no YAML: expected"),
        ("model.config=3", r"^model\.config: expected dict, got int"),
        ("model.config.max_words=x", r"^model\.config\.max_words: expected int, got str \(value: 'x'\)$"),
        ("model.config.max_words=0", r"^model\.config\.max_words=0 must lie in 1\.\.77"),
        ("model={clip: a, config: {max_words: x}}", r"^model\.config\.max_words: expected int"),
        ("model.config.clip_config=3", r"^model\.config\.clip_config: 3 is none of dict"),
        ("model.config.clip_config.model_type=bert", r"^model\.config\.clip_config is of the type 'bert'"),
        (
            "model.config.clip_config.text_config.hiden_size=3",
            r"^model\.config\.clip_config\.text_config\.hiden_size is unknown: did you mean hidden_size\?",
        ),
        (
            "model.config.clip_config.vision_config.hidden_size=x",
            r"^model\.config\.clip_config\.vision_config\.hidden_size: expected int, got str",
        ),
    ],
)
def test_errors_name_the_key_and_the_value_in_one_line(recipe_file, override, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(recipe_file, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"^output_dir is missing$"),
        (b"a: [\n", r"recipe\.yaml, line 2, column 1: no YAML"),
        (b"output_dir: x\n  b: 3\n", r"recipe\.yaml, line 2, column 4: no YAML: mapping values"),
        (b"- 1\n", r"recipe\.yaml must be a mapping of keys; got \[1\]"),
        (b"output_dir: x\ntrain: 3\n", "train must be a mapping of keys; got 3"),
        (b"output_dir: &a [x]\ndata: *a\n", r"data must be a mapping of keys; got \['x'\]"),
        (
            b"a: [&a0 [x], %b]" % b", ".join(b"&a%d [*a%d, *a%d]" % (n, n - 1, n - 1) for n in range(1, 40)),
            r"recipe\.yaml: no YAML: its \d+ bytes refer to one another and unfold to more than 10,\d+ values",
        ),
        (b"output_dir: \xff\n", r"recipe\.yaml: byte 12 is not UTF-8"),
        (b"output_dir: x\ntrain: {epochs: 1}\ntrain: {}", r"line 1, column 1: no YAML: train stands there twice"),
        (b"a: 1\n" * 30_000, r"recipe\.yaml: no YAML: 150,000 characters; a recipe has at most 100,000"),
        (b"words " * 1000, r"recipe\.yaml must be a mapping of keys; got words [words ]{50,60}$"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(recipe_file, content, message):
    recipe_file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(recipe_file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("clip_config.text_config.hidden_size=x", r"^clip_config\.text_config\.hidden_size: expected int, got str"),
        ("clip_config.projection_dims=3", r"^clip_config\.projection_dims is unknown: did you mean projection_dim\?"),
        ("batch_size=0", "^batch_size=0 must be at least 1$"),
    ],
)
def test_the_recipe_of_a_small_clip_is_checked_as_well(override, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(RECIPES / "shapes_clip.yaml", [override], ClipRecipe)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"output_dir={'é' * 50_000}"], r"has \d{3},\d{3} characters with every key; a recipe has at most 100,000"),
        (
            ["train.total_batch_size=32", "train.batch_size=16"],
            r"train\.batch_size=16' would change nothing: train\.total_batch_size=32",
        ),
        (
            ["model.head=xpool", "model.config.csc_weight=0", "push_to_hub=me/x"],
            r"only model\.head=glccl is published",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(recipe_file, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe_file, overrides)
    settings = ["train.total_batch_size=32", "train.total_batch_size=null", "train.batch_size=16"]
    assert load_recipe(recipe_file, settings).train.pairs_per_process(2) == 16


def test_a_recipe_of_the_package_has_a_name(tmp_path, monkeypatch):
    """Wherever the command runs; a file of that name comes first, a folder does not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_videos").mkdir()
    assert load_recipe("own_videos") == load_recipe(RECIPES / "own_videos.yaml")
    (tmp_path / "shapes").write_text("output_dir: mine")
    assert load_recipe("shapes").output_dir == "mine"
    for missing in ("own_video", "recipes/own_videos.yaml"):
        with pytest.raises(FileNotFoundError, match=rf"^{missing}: no such file, .*: did you mean own_videos\?$"):
            load_recipe(missing)


def test_a_pipe_or_device_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(ValueError, match=rf"{name}\.yaml: is not a regular file"):
            load_recipe(tmp_path / f"{name}.yaml")


def test_a_saved_recipe_is_read_back_equal(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, ["train.learning_rate=1e-05", "push_to_hub=me/shapes"])
    save_recipe(recipe, tmp_path / "copy.yaml")
    assert load_recipe(tmp_path / "copy.yaml") == recipe


def test_differences_name_dotted_keys(recipe_file):
    other = load_recipe(recipe_file, ["train.epochs=4", "model.config.max_frames=6", "seed=1"])
    assert differences(load_recipe(recipe_file), other) == {
        "train.epochs": "train.epochs: 3 -> 4",
        "model.config.max_frames": "model.config.max_frames: None -> 6",
        "seed": "seed: 42 -> 1",
    }


@pytest.mark.parametrize("recipe_class", [Recipe, ModelRecipe, DataRecipe, TrainRecipe, ClipRecipe, GridRecipe])
def test_every_key_is_documented(recipe_class):
    """In the docstring, or in a comment at its line or above it; parts are classes of their own."""
    lines = inspect.getsource(recipe_class).splitlines()
    for field in dataclasses.fields(recipe_class):
        if dataclasses.is_dataclass(field.type) or f"        {field.name}: " in recipe_class.__doc__:
            continue
        (number,) = (number for number, line in enumerate(lines) if line.startswith(f"    {field.name}: "))
        assert "  # " in lines[number] or lines[number - 1].startswith("    # "), field.name


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_repository_are_valid(path):
    kinds = {"clip": ClipRecipe, "ablation": GridRecipe}
    load_recipe(path, recipe_class=kinds.get(path.stem.rpartition("_")[2], Recipe))
