"""The stages of demos and comparison: what runs, in which order, and what is not done again."""

import csv
import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
import yaml
from paths import REPOSITORY

from modeling_glccl import demo
from modeling_glccl.training import load_recipe, save_recipe
from modeling_glccl.training.pretrain_clip import ClipRecipe

METRICS = {direction: {"R@1": 50.0, "R@5": 60.0, "R@10": 70.0, "MdR": 2.0, "MnR": 3.0} for direction in ("t2v", "v2t")}
RECIPES = REPOSITORY / "recipes"
TINY = {"num_train": 24, "num_validation": 8, "num_test": 8, "num_stills": 48, "image_size": 32}


@pytest.fixture
def commands(monkeypatch):
    """Commands are recorded in place of being run, and leave behind what the real ones do."""
    recorded = []

    def run(self, arguments):
        arguments = [str(argument) for argument in arguments]
        recorded.append(arguments)
        if "evaluate" in arguments:
            folder = Path(arguments[-1].removeprefix("--output="))
            results = {"metrics": METRICS, "captions": 8, "videos": 8}
        else:
            first = next(position for position, argument in enumerate(arguments) if argument.startswith("shapes"))
            recipe_class = {"recipe_class": ClipRecipe} if "modeling_glccl.training.pretrain_clip" in arguments else {}
            recipe = load_recipe(arguments[first], arguments[first + 1 :], **recipe_class)
            folder = Path(recipe.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_recipe(recipe, folder / "recipe.yaml")
            results = {"model": "best", "test": METRICS, "history": [{"step": 12}], "seed": 42, "precision": "bf16"}
            results["seconds"] = {"training": 1.0}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(json.dumps(results))

    monkeypatch.setattr(demo.Demo, "run", run)
    for name in ("render", "search"):
        monkeypatch.setattr(demo.TrainingDemo, name, lambda self, *arguments: None)
    monkeypatch.setattr(demo.TrainingDemo, "evaluate_clip", lambda self, clip: {"CLIP of " + clip.name: METRICS})
    return recorded


def arguments(output: Path):
    return "shapes", "shapes_clip", output


def test_training_runs_each_stage_once(commands, tmp_path, capsys):
    demo.run_training_demo(*arguments(tmp_path))
    pretrain, train, evaluate = commands
    assert "modeling_glccl.training.pretrain_clip" in pretrain
    assert f"output_dir={tmp_path / 'clip'}" in pretrain
    assert train[:4] == ["-m", "modeling_glccl.cli", "train", "shapes"]
    assert f"model.clip={tmp_path / 'clip'}" in train
    assert evaluate[:4] == ["-m", "modeling_glccl.cli", "evaluate", str(tmp_path / "model" / "best")]
    assert "--precision=bf16" in evaluate  # as in training, or the metrics would differ from those in memory
    printed = capsys.readouterr().out
    for text in ("CLIP of clip", "GLCCL, trained", "text-to-video", "video-to-text", "total", "scores the same"):
        assert text in printed

    commands.clear()
    demo.run_training_demo(*arguments(tmp_path))
    assert [command[2] for command in commands] == ["evaluate"]

    commands.clear()
    (tmp_path / "model" / "results.json").unlink()  # as an unfinished stage leaves it, which goes on
    demo.run_training_demo(*arguments(tmp_path))
    assert [command[2] for command in commands] == ["train", "evaluate"]
    with pytest.raises(ValueError, match=r"model holds the results of another recipe \(train.epochs: \d+ -> 99\)"):
        demo.run_training_demo(*arguments(tmp_path), ["train.epochs=99"])


def test_time_of_an_interrupted_stage_counts(commands, tmp_path, monkeypatch):
    run = demo.Demo.run

    def fail(self, arguments):
        if "train" in arguments:
            raise subprocess.CalledProcessError(1, arguments)
        run(self, arguments)

    monkeypatch.setattr(demo.Demo, "run", fail)
    with pytest.raises(subprocess.CalledProcessError):
        demo.run_training_demo(*arguments(tmp_path))
    (tmp_path / "seconds.json").write_text(json.dumps({"train GLCCL": 1000.0}))
    monkeypatch.setattr(demo.Demo, "run", run)
    demo.run_training_demo(*arguments(tmp_path))
    assert 1000 < json.loads((tmp_path / "seconds.json").read_text())["train GLCCL"] < 1100


def test_the_comparison_changes_one_thing_at_a_time(commands, tmp_path):
    demo.run_training_demo(*arguments(tmp_path))
    commands.clear()
    demo.run_comparison(*arguments(tmp_path))
    folders = ("GLIM_off", "CSC_off", "mean_pooling")
    assert [command[-1] for command in commands] == [f"output_dir={tmp_path / folder}" for folder in folders]
    base = yaml.safe_load((tmp_path / "model" / "recipe.yaml").read_text())
    for folder in folders:
        variant = yaml.safe_load((tmp_path / folder / "recipe.yaml").read_text())
        assert {key for key in base if base[key] != variant[key]} == {"output_dir", "model"}
    with (tmp_path / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows[::2]] == ["GLCCL", "GLIM off", "CSC off", "mean pooling"]
    assert {(row["R@1"], row["steps"], row["seed"]) for row in rows} == {("50.00", "12", "42")}
    assert (tmp_path / "comparison.png").stat().st_size > 0


@pytest.mark.slow
def test_a_tiny_demo_really_runs(tmp_path, capfd):
    recipe = yaml.safe_load((RECIPES / "shapes.yaml").read_text())
    recipe["data"] |= {"options": TINY, "processor": {"size": 32, "crop_size": 32}}
    recipe["train"] |= {"epochs": 1, "total_batch_size": 8}
    clip = yaml.safe_load((RECIPES / "shapes_clip.yaml").read_text()) | {"epochs": 1, "batch_size": 16}
    for name, content in (("shapes", recipe), ("clip", clip)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    demo.run_training_demo(str(tmp_path / "shapes.yaml"), str(tmp_path / "clip.yaml"), tmp_path / "out")
    assert "scores the same" in capfd.readouterr().out
    assert (tmp_path / "out" / "evaluation" / "retrieved.png").stat().st_size > 0


@pytest.mark.slow
def test_the_demo_really_runs_and_runs_again(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(demo, "Demo", partial(demo.Demo, num_test=24))
    for _ in range(2):
        demo.run_demo(tmp_path)
        printed = capfd.readouterr().out
        for text in ("CLIP, mean pooling", "GLCCL, zero-shot", "GLCCL, trained", "scores the same", "best moment"):
            assert text in printed
    assert (tmp_path / "evaluation" / "retrieved.png").stat().st_size > 0
    assert len(list(tmp_path.rglob("*.mp4"))) == 24
