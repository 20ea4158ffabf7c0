"""The model card: filled from what a run wrote, its example run, its metadata accepted by huggingface_hub."""

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from videos import write_video

from modeling_glccl import model_card
from modeling_glccl.model_card import make_card


def test_the_least_version_of_transformers_is_the_same_everywhere():
    places = ["pyproject.toml", "model_card.md", "hub/endpoint/requirements.txt", "hub/space/requirements.txt"]
    texts = [(Path(__file__).parents[1] / place).read_text() for place in places]
    assert {found for text in texts for found in re.findall(r"(?<!-)transformers(>=[\d.]+)", text)} == {">=5.23"}
    assert all("transformers>=" in text for text in texts)


METRICS = {
    "t2v": {"R@1": 24.5, "R@5": 65.75, "R@10": 79.5, "MdR": 3.0, "MnR": 8.47},
    "v2t": {"R@1": 19.0, "R@5": 60.25, "R@10": 75.25, "MdR": 4.0, "MnR": 10.24},
}
ENVIRONMENT = {
    "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    "hardware": {"cpu": "AMD EPYC", "cpu_cores": 2, "threads": 2, "gpus": []},
    "git": "ec8b354d94fd1ca90ab27fce2b0689453bd41858",
}
TRAINED = ENVIRONMENT | {
    "selected_by": "R@1 on the validation split",
    "seed": 42,
    "precision": "fp32",
    "processes": 4,
    "seconds": {"training": 300.0},
    "test": METRICS,
    "test_size": {"captions": 400, "videos": 390},
    "recipe": {
        "model": {"clip": "openai/clip-vit-base-patch32", "checkpoint": None},
        "data": {"benchmark": "msrvtt", "repo_id": "friedrichor/MSR-VTT", "train_split": "train_9k"}
        | {"test_split": "test"},
        "train": {"epochs": 5, "batch_size": 32, "total_batch_size": None, "learning_rate": 1e-4}
        | {"clip_learning_rate_factor": 1e-3},
    },
}
EVALUATED = ENVIRONMENT | {"benchmark": "shapes", "split": "test", "captions": 8, "videos": 8, "metrics": METRICS}
EVALUATED["settings"] = {"benchmark_options": {}}


@pytest.fixture
def no_example(monkeypatch):
    monkeypatch.setattr(model_card, "_example", lambda *arguments: ("code\n", "output\n"))


def card_of(checkpoint, folder, results, **more) -> str:
    """Where a run wrote these results."""
    (folder / "results.json").write_text(results if isinstance(results, str) else json.dumps(results))
    return make_card(checkpoint, "someone/model", results=folder / "results.json", **more)


def test_the_example_is_run_and_shown_with_what_it_printed(checkpoint, tmp_path):
    videos = [write_video(tmp_path / name, 20) for name in ("one.mp4", "two.mp4")]
    card = make_card(checkpoint, "someone/model", query='a "red" ball', videos=videos)
    assert 'model="someone/model", trust_remote_code=True' in card
    assert str(checkpoint) not in card
    assert r'query = "a \"red\" ball"' in card
    assert 'videos = ["one.mp4", "two.mp4"]' in card
    printed = card.partition("```text\n")[2].partition("```")[0].splitlines()
    assert {line.partition(":")[0] for line in printed} == {"one.mp4", "two.mp4"}
    assert all("score" in line and "from" in line for line in printed)
    assert "No results were recorded" in card
    assert "No recipe was recorded" in card
    assert "this one is not." in card  # calibrated


@pytest.mark.slow
def test_without_videos_the_example_runs_on_rendered_clips(checkpoint):
    card = make_card(checkpoint, "someone/model")
    assert "rendered clips of the shapes benchmark" in card
    assert "first.mp4: score" in card
    assert "second.mp4: score" in card


@pytest.mark.slow
def test_an_example_that_fails_makes_no_card(checkpoint, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"(?s)example of the model card fails.*broken\.mp4"):
        make_card(checkpoint, "someone/model", query="a ball", videos=[tmp_path / "broken.mp4"])


@pytest.mark.parametrize("total", [None, 64])
def test_training_results_fill_card_and_metadata(checkpoint, no_example, tmp_path, total):
    recipe = TRAINED["recipe"] | {"train": TRAINED["recipe"]["train"] | {"total_batch_size": total}}
    card = card_of(checkpoint, tmp_path, TRAINED | {"recipe": recipe})
    assert "| text to video | 24.5 | 65.8 | 79.5 | 3.0 | 8.5 |" in card
    assert "400 captions, 390 videos" in card
    assert "MSR-VTT, split `train_9k`, from `openai/clip-vit-base-patch32`: 5 epochs, " in card
    assert f"batches of {total or 4 * 32} pairs" in card
    assert "chosen by R@1 on the validation split. Every query counts once" in card
    assert ENVIRONMENT["git"] in card
    data = ModelCard(card).data
    assert data.base_model == "openai/clip-vit-base-patch32"
    assert data.datasets == ["friedrichor/MSR-VTT"]
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "feature-extraction", "apache-2.0")
    assert {"text-to-video-retrieval", "video-text-retrieval", "custom_code"} <= set(data.tags)
    results = {result.metric_type: result for result in data.eval_results}
    assert results["t2v_R@1"].metric_value == 24.5
    assert results["v2t_MnR"].metric_value == 10.24
    assert results["t2v_R@1"].dataset_type == "friedrichor/MSR-VTT"
    assert len(results) == 10


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({"clip": "/home/someone/runs/clip", "checkpoint": None}, "from a checkpoint of its own (`clip`)"),
        ({"clip": None, "checkpoint": None}, "from random weights"),
    ],
)
def test_folders_of_the_run_stay_out_of_the_card(checkpoint, no_example, tmp_path, start, words):
    recipe = TRAINED["recipe"] | {"model": start}
    card = card_of(checkpoint, tmp_path, TRAINED | {"recipe": recipe})
    assert words in card
    assert "/home" not in card
    assert ModelCard(card).data.base_model is None


def test_results_chosen_on_the_test_set_are_labelled_and_stay_out_of_the_metadata(checkpoint, no_example, tmp_path):
    better = {direction: {**values, "R@1": 99.0} for direction, values in METRICS.items()}
    chosen = {"selected_by": "R@1 on the test split itself", "test": better}
    card = card_of(checkpoint, tmp_path, TRAINED | {"best_on_test": chosen}, base_model="a/b", license="mit")
    assert "| text to video, chosen on the test set | 99.0 |" in card
    data = ModelCard(card).data
    assert 99.0 not in [result.metric_value for result in data.eval_results]
    assert (data.base_model, data.license) == ("a/b", "mit")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((text, ": .*it is no results.json of glccl") for text in ("words", "[" * 100_000, "[]")),
        ('{"loss": 1}', " lacks 'recipe'"),
    ],
)
def test_results_that_are_none_are_named(checkpoint, no_example, tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"results\.json{message}"):
        card_of(checkpoint, tmp_path, content)


def test_evaluation_results_fill_it_too(checkpoint, no_example, tmp_path):
    card = card_of(checkpoint, tmp_path, EVALUATED)
    assert "8 captions, 8 videos" in card
    assert "shapes (rendered videos" in card
    assert ModelCard(card).data.datasets is None
    data = ModelCard(card_of(checkpoint, tmp_path, EVALUATED, dataset="someone/shapes")).data
    assert data.datasets == ["someone/shapes"]
    assert {result.dataset_type for result in data.eval_results} == {"someone/shapes"}


@pytest.mark.usefixtures("hub", "no_example")
def test_the_hub_accepts_the_card(checkpoint, tmp_path):
    card = ModelCard(card_of(checkpoint, tmp_path, TRAINED))
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    card.validate()
    with pytest.raises(ValueError, match="metadata"):
        ModelCard("no metadata").validate()
