import json
import os
import pickle
import shutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from models import EOS, tiny_model, tiny_text
from training_runs import logged, write_recipe

from modeling_glccl import GLCCLModel, GLCCLProcessor, VideoDecodeError, atomic
from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.data import load_benchmark
from modeling_glccl.data.collate import RetrievalCollator
from modeling_glccl.evaluation import evaluate
from modeling_glccl.training import TrainRecipe, build, load_recipe, loop, run_folder, train
from modeling_glccl.training.build import build_model, load_splits
from modeling_glccl.training.optimization import add_lora, merged, parameter_groups
from modeling_glccl.training.pretrain_clip import ClipRecipe, pretrain_clip
from modeling_glccl.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shapes_dir):
    """A run that nothing interrupted: its folder and its results."""
    recipe = load_recipe(write_recipe(tmp_path_factory.mktemp("whole"), shapes_dir), ["data.num_workers=1"])
    return Path(recipe.output_dir), train(recipe)


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of it, where the tiny recipe trains."""
    return shutil.copytree(whole[0], tmp_path / "run")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], False),
        (["MASTER_ADDR"], False),
        (["ACCELERATE_MIXED_PRECISION"], False),  # accelerate launch
        (["ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"], True),  # accelerate launch --num_processes 2
    ],
)
def test_who_asked_for_more_processes_on_the_cpu_is_told_how(tiny, monkeypatch, capfd, names, told):
    for name, value in (("ACCELERATE_MIXED_PRECISION", "no"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.delenv(name, raising=False)
        if name in names:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="is a file"):
        train(tiny(f"data.frame_cache_dir={__file__}"))
    assert ("torchrun --nproc_per_node N" in capfd.readouterr().out) == told


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def before_step(monkeypatch, step, act):
    """Calls `act(model)` when the run is about to take a step."""
    original = loop.training_step

    def training_step(accelerator, model, *arguments):
        if arguments[-1].startswith(f"step {step},"):
            act(model.model)
        return original(accelerator, model, *arguments)

    monkeypatch.setattr(loop, "training_step", training_step)


def kill_at(monkeypatch, step):
    """Makes the run die before it takes a step."""

    def die(model):
        raise Killed

    before_step(monkeypatch, step, die)


# Data


def test_batches_are_what_the_processor_makes_of_the_rows(tiny):
    recipe = tiny()
    rows = [load_splits(recipe)["train"][i] for i in (3, 0)]
    _, processor = build_model(recipe, [row["caption"] for row in rows])
    batch = pickle.loads(pickle.dumps(RetrievalCollator(processor)))(rows)
    expected = processor(text=[row["caption"] for row in rows], videos=[row["video"]["path"] for row in rows])
    assert batch["inputs"].keys() == expected.keys()
    assert all(torch.equal(batch["inputs"][name], expected[name]) for name in expected)
    assert batch["videos"] == [row["video"]["path"] for row in rows]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_video_that_cannot_be_decoded_ends_the_run_with_its_name(tiny, tmp_path, num_workers):
    rows = load_benchmark("shapes", **{"split": "train", "data_dir": tiny().data.data_dir, **tiny().data.options})
    folder = tmp_path / "copy"
    shutil.copytree(tiny().data.data_dir, folder)
    (path,) = folder.rglob(rows[5]["video_id"] + ".mp4")
    path.write_bytes(b"no video")
    with pytest.raises(VideoDecodeError, match=path.name):
        train(tiny(f"data.data_dir={folder}", f"data.num_workers={num_workers}"))


# The loop


def test_a_run_leaves_models_that_load_and_give_its_results(tiny, whole):
    run, results = whole
    recipe = tiny("data.num_workers=1", f"output_dir={run}")
    assert json.loads((run / "results.json").read_text()) == json.loads(json.dumps(results))
    assert (results["seed"], results["processes"]) == (42, 1)
    assert results["test_size"] == {"captions": 8, "videos": 8}
    assert [row["step"] for row in results["history"]] == [4, 8]
    best = max(results["history"], key=lambda row: row["validation"]["t2v"]["R@1"])
    assert (results["model"], results["epoch"], results["validation"]) == ("best", best["epoch"], best["validation"])
    assert results["selected_by"] == "R@1 on the validation split"
    assert "best_on_test" not in results
    assert load_recipe(run / "recipe.yaml") == recipe
    _, (model, processor) = (load_checkpoint(run / name) for name in ("last", "best"))
    assert evaluate(model, processor, load_splits(recipe)["test"], progress=False).metrics == results["test"]


def test_training_lowers_the_loss(tiny, tmp_path):
    train(tiny("train.epochs=8", "train.batch_size=8", "train.clip_learning_rate_factor=1", "train.eval_epochs=8"))
    losses = list(logged(tmp_path / "run").values())
    assert np.mean(losses[-2:]) < np.mean(losses[:2]) - 0.2


EVERYTHING = "data.group_by=twin_group train.lora_rank=2 train.freeze_layer_num=1 train.optimizer=bert_adam"


@pytest.mark.parametrize(("step", "settings"), [(4, ""), (8, f"{EVERYTHING} data.validation_split=test")])
def test_an_interrupted_run_goes_on_as_if_it_never_was(tiny, whole, tmp_path, monkeypatch, step, settings):
    settings = settings.split()
    folder, expected = whole
    if settings:
        folder = tmp_path / "whole"
        expected = train(tiny(f"output_dir={folder}", *settings))
    overrides = ("train.save_steps=2", f"output_dir={tmp_path / 'killed'}", *settings)
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            train(tiny(*overrides))
    resumed = train(tiny(*overrides))
    for tag in ("train/loss", "train/gradient_norm", "train/learning_rate/new"):
        assert logged(tmp_path / "killed", tag) == logged(folder, tag)
    assert resumed["history"] == expected["history"]
    assert resumed["test"] == expected["test"]
    assert resumed.get("best_on_test") == expected.get("best_on_test")


def test_what_was_done_after_the_last_checkpoint_is_done_again(tiny, whole, tmp_path, monkeypatch, capfd):
    """Also by a run of an earlier release, which had no mark."""
    with monkeypatch.context() as patch:
        kill_at(patch, 7)
        with pytest.raises(Killed):
            train(tiny())
    (tmp_path / "run" / ".glccl-run").unlink()
    assert train(tiny())["history"] == whole[1]["history"]
    assert "continuing at epoch 2, step 5 of 8" in capfd.readouterr().out
    assert logged(tmp_path / "run") == logged(whole[0])


@pytest.mark.usefixtures("finished")
def test_a_finished_run_is_not_trained_again(tiny, whole, monkeypatch, capfd):
    kill_at(monkeypatch, 1)
    assert train(tiny())["test"] == whole[1]["test"]
    assert "2 epochs and 8 steps are done, testing again" in capfd.readouterr().out
    with pytest.raises(Killed):
        train(tiny("resume=false"))


@pytest.mark.usefixtures("finished")
def test_a_run_of_another_recipe_is_neither_continued_nor_replaced(tiny):
    with pytest.raises(ValueError, match=r"\(train.epochs: 2 -> 3\).*model\.checkpoint=.*last.*resume=false"):
        train(tiny("train.epochs=3"))
    with pytest.raises(ValueError, match=r"another recipe \(seed: 42 -> 1\): choose another output_dir"):
        train(tiny("seed=1"))
    train(tiny("data.num_workers=0", "train.save_steps=2"))
    assert train(tiny("train.max_steps=1", "train.epochs=3", "resume=false"))["recipe"]["train"]["epochs"] == 3


def test_max_steps_ends_the_run_and_without_validation_the_last_model_is_tested(tiny, tmp_path):
    settings = ("train.max_steps=3", "train.warmup_ratio=0", "data.validation_split=null", "train.precision=bf16")
    results = train(tiny(*settings))
    assert [row["step"] for row in results["history"]] == [3]
    assert logged(tmp_path / "run", "train/learning_rate/new")[3] == 0
    assert (results["model"], results["epoch"], results["validation"]) == ("last", 1, None)
    assert not (tmp_path / "run" / "best").exists()
    assert GLCCLModel.from_pretrained(tmp_path / "run" / "last").dtype == torch.float32  # whatever it computed in


def test_selection_on_the_test_split_is_reported_beside_the_last_epoch_and_labelled(tiny, tmp_path, monkeypatch):
    """Made-up metrics, best in the second of three epochs."""
    recalls, sizes = iter([10.0, 30.0, 20.0, 20.0]), []

    def evaluate(model, dataset, **settings):
        sizes.append(len(dataset))
        metrics = {"t2v": {"R@1": next(recalls)}, "v2t": {"R@1": 0.0}}
        return SimpleNamespace(metrics=metrics, captions=["a"], video_ids=["b"])

    monkeypatch.setattr(loop, "evaluate", evaluate)
    settings = ("data.validation_split=test", "train.epochs=3", "train.batch_size=16", "data.options.num_test=6")
    results = train(tiny(*settings))
    assert sizes == [6] * 4
    assert (results["model"], results["epoch"], results["validation"]) == ("last", 3, None)
    assert results["test"]["t2v"]["R@1"] == 20.0
    assert "last epoch" in results["selected_by"]
    best = results["best_on_test"]
    assert (best["model"], best["epoch"], best["test"]["t2v"]["R@1"]) == ("best", 2, 30.0)
    assert "test split itself" in best["selected_by"]
    assert all("test" in row and "validation" not in row for row in results["history"])
    assert logged(tmp_path / "run", "test/t2v/R@1") == {1: 10.0, 2: 30.0, 3: 20.0}
    assert (tmp_path / "run" / "last" / "results.json").exists()
    assert not (tmp_path / "run" / "best" / "results.json").exists()


def test_lora_alone_is_trained_of_clip_and_is_merged_in_what_is_saved(tiny, tmp_path):
    recipe = tiny("train.lora_rank=2", "train.max_steps=2", "data.validation_split=null")
    captions = load_splits(recipe)["train"]["caption"]
    set_seed(recipe.seed)
    start, _ = build_model(recipe, captions)
    plain, before = {*start.state_dict()}, {name: value.clone() for name, value in start.state_dict().items()}
    add_lora(start, 2)
    rates = {group["name"]: group["lr"] for group in parameter_groups(start, recipe.train)}
    assert rates == {"new": 1e-3, "new_without_decay": 1e-3}
    trained = {name for name, parameter in start.named_parameters() if parameter.requires_grad}
    assert len([name for name in trained if name.startswith("clip.")]) == 2 * 4 * 4  # matrices, projections, layers
    # What is merged scores as what was trained, with PEFT's layers still in it.
    with torch.no_grad():
        for name, parameter in start.named_parameters():
            parameter += 0.1 * torch.randn_like(parameter) if ".lora_" in name else 0
    whole, text, video = merged(start).eval(), tiny_text([3, 5]), torch.rand(2, 4, 3, 32, 32)
    text["input_ids"][text["input_ids"] == EOS] = start.config.eos_token_id
    with torch.no_grad():
        expected, found = (model(**text, pixel_values_videos=video).logits_per_text for model in (start.eval(), whole))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert whole.state_dict().keys() == plain

    train(recipe)
    saved = GLCCLModel.from_pretrained(tmp_path / "run" / "last").state_dict()
    assert saved.keys() == plain
    changed = {name for name in plain if name.startswith("clip.") and not torch.equal(saved[name], before[name])}
    assert changed == {
        f"clip.{tower}_model.encoder.layers.{layer}.self_attn.{part}_proj.weight"
        for tower in ("text", "vision")
        for layer in (0, 1)
        for part in ("q", "k", "v", "out")
    }


def test_total_batch_size_counts_all_processes_together(tiny):
    assert TrainRecipe(batch_size=8).pairs_per_process(4) == 8
    assert TrainRecipe(batch_size=8, total_batch_size=128).pairs_per_process(4) == 32
    with pytest.raises(ValueError, match="total_batch_size=128 cannot be divided among 3 processes"):
        TrainRecipe(total_batch_size=128).pairs_per_process(3)
    results = train(tiny("train.total_batch_size=8", "train.epochs=1"))
    assert [row["step"] for row in results["history"]] == [2]
    with pytest.raises(ValueError, match=r"16 pairs but one step takes 1 x 64: lower train\.batch_size"):
        train(tiny("train.batch_size=64", "resume=false"))


@pytest.mark.parametrize("broken", ["logit_scale", "visual_projection.weight"])
def test_a_loss_that_is_not_finite_names_the_step_and_the_videos(tiny, monkeypatch, broken):
    before_step(monkeypatch, 3, lambda model: model.clip.get_parameter(broken).data.fill_(torch.nan))
    with pytest.raises(ValueError, match="finite") as caught:
        train(tiny())
    message = " ".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "step 3" in message
    assert message.count(".mp4") == 4


def test_training_goes_on_from_a_checkpoint(tiny, whole, tmp_path):
    start = f"model.checkpoint={whole[0] / 'last'}"
    results = train(tiny("model.config={csc_weight: 0.5}", start, "train.learning_rate=0", "train.max_steps=2"))
    assert results["history"][-1]["step"] == 2
    folders = [run / "last" for run in (whole[0], tmp_path / "run")]
    first, second = map(GLCCLModel.from_pretrained, folders)
    assert second.config.csc_weight == 0.5
    assert all(torch.equal(weight, second.state_dict()[name]) for name, weight in first.state_dict().items())
    processors = [*map(GLCCLProcessor.from_pretrained, folders)]
    assert processors[0].tokenizer.get_vocab() == processors[1].tokenizer.get_vocab()
    assert processors[0].video_processor.to_dict() == processors[1].video_processor.to_dict()


def test_push_to_hub_publishes_the_chosen_model_with_code_results_and_card(tiny, hub, monkeypatch):
    monkeypatch.setattr(loop, "make_card", lambda folder, repo: f"---\nlicense: mit\n---\n# {repo} {folder.name}")
    train(tiny("push_to_hub=someone/shapes", "train.max_steps=1"))
    repository = hub.repositories["model", "someone/shapes"]
    assert len(repository.messages) == 2  # the server's own, and ours
    files = repository.files()
    assert files.keys() >= {"model.safetensors", "config.json", "tokenizer.json", "results.json", "recipe.yaml"}
    assert files.keys() >= {"modeling_glccl.py", "pipeline_glccl.py"}
    assert files["README.md"].endswith(b"# someone/shapes best")


# The folder of a run


@pytest.mark.parametrize("name", ["logs", "best", "last", ".best.new", ".last.old", "results.json", "recipe.yaml"])
def test_files_of_a_user_are_neither_deleted_nor_replaced(tiny, tmp_path, name):
    own = tmp_path / "run" / name
    if own.suffix not in (".json", ".yaml"):
        own /= "own.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    for settings in ((), ("resume=false",)):
        with pytest.raises(ValueError, match=rf"run holds {name}, which no run of train.py wrote"):
            train(tiny(*settings))
    with pytest.raises(ValueError, match=rf"holds {name}: choose another output_dir"):
        pretrain_clip(ClipRecipe(output_dir=str(tmp_path / "run")))
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [own]
    assert own.read_text() == "mine"


def test_a_run_leaves_other_files_alone_and_starting_over_clears_its_own(tiny, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    train(tiny("train.max_steps=1"))
    (run / ".best.new").mkdir()  # as a run leaves it that is killed while saving
    (run / "last").rename(run / "last.old")  # as a user keeps it
    train(tiny("train.max_steps=2", "resume=false", "data.validation_split=null"))
    assert not (run / ".best.new").exists()
    assert {path.name for path in run.iterdir() if not path.name.startswith(".")} == {
        *("last", "last.old", "logs", "notes.txt", "recipe.yaml", "results.json")
    }
    assert list(logged(run)) == [1, 2]


def test_a_second_training_into_the_same_folder_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_PATIENCE", 0)
    refused = []

    def train_there(model):
        with pytest.raises(ValueError, match=rf"process {os.getpid()} on .* trains there now") as caught:
            RunFolder(tiny(), Accelerator()).__enter__()
        refused.append(caught)

    before_step(monkeypatch, 2, train_there)
    train(tiny("train.max_steps=2"))
    assert refused


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (2, r"stopped after step 1: no checkpoint was written yet"),
        (7, r"stopped after step 6: .*last holds step 4; the same command goes on"),
    ],
)
def test_ctrl_c_says_what_is_kept(tiny, monkeypatch, step, kept):
    def interrupt(model):
        raise KeyboardInterrupt

    before_step(monkeypatch, step, interrupt)
    with pytest.raises(KeyboardInterrupt, match=kept):
        train(tiny())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (("model.clip=a/b/c",), FileNotFoundError, "model.clip: a/b/c: no such folder"),
        (("model.checkpoint={folder}",), ValueError, "model.checkpoint: .* is no checkpoint: it is empty"),
        (("model.clip={glccl}",), ValueError, "model.clip=.* is a GLCCLModel: use model.checkpoint="),
        (("model.checkpoint={glccl}", "model.head=xclip"), ValueError, "is a GLCCLModel, but model.head=xclip"),
        (("data.frame_cache=raw", "data.frame_cache_dir={file}"), ValueError, "frame_cache_dir=.* is a file"),
        (("train.lora_rank=2",), ValueError, r"train\.lora_rank=2 needs PEFT: pip install"),
    ],
)
def test_paths_and_peft_are_looked_for_before_anything_is_rendered(
    tiny, tmp_path, monkeypatch, settings, error, message
):
    monkeypatch.setattr(loop, "load_splits", lambda recipe: pytest.fail("rendered"))
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    (tmp_path / "empty").mkdir()
    tiny_model().save_pretrained(tmp_path / "glccl")
    places = {"folder": tmp_path / "empty", "glccl": tmp_path / "glccl", "file": tmp_path / "tiny.yaml"}
    settings = [setting.format(**places) for setting in settings]
    config = "model.config={}" if "model" in settings[0] else "seed=1"
    with pytest.raises(error, match=message):
        train(tiny(config, *settings))
    assert not (tmp_path / "run").exists()


def test_the_shapes_recipe_says_what_trains_its_clip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="runs/shapes/clip: no such folder; `glccl train-demo`"):
        train(load_recipe("shapes"))


@pytest.mark.slow
def test_losses_are_the_same_with_a_cold_and_a_warm_frame_cache(tiny, tmp_path):
    settings = ("train.max_steps=3", "data.frame_cache=raw", f"data.frame_cache_dir={tmp_path / 'frames'}")
    for name, more in (("cold", settings), ("warm", settings), ("none", settings[:1])):
        train(tiny(f"output_dir={tmp_path / name}", *more))
    assert logged(tmp_path / "cold") == logged(tmp_path / "warm") == logged(tmp_path / "none")


# Checkpoints


def test_a_folder_is_replaced_or_recovered_wherever_the_process_dies(tmp_path, monkeypatch):
    target = tmp_path / "last"
    rename = atomic.Path.rename
    for deaths in range(4):
        shutil.rmtree(tmp_path, ignore_errors=True)
        for folder, content in ((target, "old"), (tmp_path / ".last.new", "new")):
            folder.mkdir(parents=True)
            (folder / "file").write_text(content)
        left = [deaths]

        def dying_rename(self, to, left=left):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return rename(self, to)

        with monkeypatch.context() as patch:
            patch.setattr(atomic.Path, "rename", dying_rename)
            with suppress(Killed):
                atomic.replace_folder(tmp_path / ".last.new", target)
        atomic.recover_folder(target)
        assert (target / "file").read_text() == ("old" if deaths < 2 else "new")
        assert not (tmp_path / ".last.old").exists()
