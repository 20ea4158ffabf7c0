"""The trained model of the repository finds what it should: decoder, processor, encoders and scores together."""

import json
from pathlib import Path

import pytest
from paths import REPOSITORY
from remote_code import run_without_package
from safetensors import safe_open

from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.cli import main
from modeling_glccl.data import load_benchmark
from modeling_glccl.evaluation import evaluate, retrieval_metrics
from modeling_glccl.evaluation.evaluate_checkpoint import baselines
from modeling_glccl.model_card import make_card
from modeling_glccl.publish import collect

CHECKPOINT = REPOSITORY / "hub" / "models" / "glccl-shapes"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """The first 100 test videos, among them 75 hard twins."""
    folder = tmp_path_factory.mktemp("shapes")
    return load_benchmark("shapes", folder, num_train=0, num_validation=0, num_test=100)


def test_the_trained_model_retrieves(videos):
    metrics = evaluate(*load_checkpoint(CHECKPOINT), videos, progress=False).metrics
    # 77 and 67. With swapped colours, no normalisation, half of the video, words out of order, uniform frame weights
    # or one of the four scores alone it is 13 to 65 and 15 to 55.
    assert metrics["t2v"]["R@1"] >= 70, metrics
    assert metrics["v2t"]["R@1"] >= 60, metrics


def test_zero_shot_is_better_than_mean_pooling(videos):
    model, processor = load_checkpoint(CHECKPOINT / "clip")
    result = evaluate(model, processor, videos, progress=False, also=baselines(model))
    pooled = retrieval_metrics(result.also["mean pooling"], result.video_index)
    for direction, metrics in result.metrics.items():
        assert metrics["R@1"] > pooled[direction]["R@1"] > 5, (metrics, pooled)


def test_the_checkpoint_is_small_and_says_nothing_of_where_it_was_made():
    files = [file for file in CHECKPOINT.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 4e6
    assert {file.suffix for file in files} == {".json", ".md", ".safetensors", ".yaml"}
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as weights:
                assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}  # noqa: SIM118
        elif file.name != "tokenizer.json":  # its vocabulary has any characters
            text = file.read_text(encoding="utf-8")
            assert not [place for place in ('"/', " /", "`/", "'/", "/tmp", "/home", ":\\\\") if place in text], file


def test_the_card_has_the_metrics_of_results_json():
    test = json.loads((CHECKPOINT / "results.json").read_text())["test"]
    card = (CHECKPOINT / "README.md").read_text()
    for metrics in test.values():
        assert f" | {metrics['R@1']:.1f} | {metrics['R@5']:.1f} | {metrics['R@10']:.1f} |" in card


def test_the_card_says_what_its_template_says(monkeypatch):
    monkeypatch.setattr("modeling_glccl.model_card._example", lambda *arguments: ("", ""))
    card, made = (CHECKPOINT / "README.md").read_text(), make_card(CHECKPOINT, "owner/glccl-shapes")
    assert card.partition("## Training")[2].strip() == made.partition("## Training")[2].strip()
    assert "no score says that no video fits" in card
    assert "this one is calibrated." in card


def test_publishing_adds_the_code_and_the_name_on_the_hub(capsys):
    code = {"modeling_glccl.py", "pipeline_glccl.py", "processing_glccl.py", "towers_glccl.py"}
    assert code < collect(CHECKPOINT).keys()
    assert main(["publish", str(CHECKPOINT), "someone/finder"]) == 0
    printed = capsys.readouterr().out
    assert "left out  clip/" in printed
    assert 'model="someone/finder"' in printed
    assert "owner/" not in printed


LOAD = """
import sys
from transformers import pipeline

pipe = pipeline("text-video-retrieval", model=sys.argv[1], trust_remote_code=True)
print(pipe("a green heart bounces", videos=sys.argv[2:])[0]["index"])
"""


@pytest.mark.slow
def test_what_is_published_works_where_the_package_is_not(videos, tmp_path):
    for name, source in collect(CHECKPOINT).items():
        (tmp_path / name).write_bytes(source.read_bytes() if isinstance(source, Path) else source)
    (tmp_path / "client").mkdir()
    rows = (3, 50, 60, 70)
    printed = run_without_package(
        LOAD, tmp_path / "client", str(tmp_path), *(videos[row]["video"]["path"] for row in rows)
    )
    assert printed.split()[-1] == "0"
