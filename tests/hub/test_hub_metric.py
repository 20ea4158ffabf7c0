"""The `evaluate` module that lives on the Hub: loads offline and gives the package's numbers."""

import ast
import importlib.util
import os
import socket
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import HfApi
from models import random_ranking
from paths import REPOSITORY

from modeling_glccl.evaluation import retrieval_metrics

FOLDER = REPOSITORY / "hub" / "metrics" / "text_video_retrieval"


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    """Loaded with every connection refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the metric reached for the network"))
        return evaluate.load(str(FOLDER), cache_dir=str(tmp_path_factory.mktemp("cache")))


def flat(metrics):
    return {f"{direction}_{name}": value for direction, values in metrics.items() for name, value in values.items()}


@pytest.mark.parametrize(
    "case",
    [
        random_ranking([3, 1, 4, 1, 5, 9, 2, 6]),
        random_ranking([1, 2, 3], distractors=4),
        random_ranking([2] * 10, tied=True),
        random_ranking([1]),
    ],
    ids=["several captions", "distractors", "ties", "one video"],
)
def test_equals_the_package(metric, case):
    similarity, video_index = case
    found, expected = metric.compute(predictions=similarity, references=video_index), flat(retrieval_metrics(*case))
    assert list(found.items()) == list(expected.items())


def test_takes_tensors_lists_and_batches(metric):
    similarity, video_index = random_ranking([2, 1, 3, 1])
    expected = flat(retrieval_metrics(similarity, video_index))
    tensors = {"predictions": torch.from_numpy(similarity), "references": torch.from_numpy(video_index)}
    assert metric.compute(**tensors) == expected
    for start in range(0, len(similarity), 3):
        rows = slice(start, start + 3)
        metric.add_batch(predictions=similarity[rows].tolist(), references=video_index[rows].tolist())
    assert metric.compute() == expected


FROM_THE_HUB = """
import evaluate

metric = evaluate.load("someone/text_video_retrieval", module_type="metric")
print(metric.compute(predictions=[[0.9, 0.1], [0.8, 0.3], [0.2, 0.7]], references=[0, 0, 1])["v2t_MnR"])
"""


@pytest.mark.slow
def test_it_loads_by_the_name_of_its_space(hub, tmp_path):
    HfApi().create_repo("someone/text_video_retrieval", repo_type="space", space_sdk="gradio")
    HfApi().upload_folder(repo_id="someone/text_video_retrieval", repo_type="space", folder_path=FOLDER)
    environment = os.environ | hub.environment(tmp_path / "cache")
    command = [sys.executable, "-c", FROM_THE_HUB]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["1.0"]


def test_float32_ties_stay_ties(metric):
    """Scores that differ in float32 differ, those that do not are tied, as in the package."""
    similarity = np.array([[0.1, 0.1], [0.1, np.nextafter(np.float32(0.1), np.float32(1))]], "float32")
    assert metric.compute(predictions=similarity, references=[0, 1])["t2v_R@1"] == 50


@pytest.mark.parametrize(
    ("similarity", "video_index", "message"),
    [
        ([[0.0, float("nan")]], [0], r"predictions\[0, 1\] is NaN"),
        ([[0.0, 1.0], [0.0]], [0, 1], r"rows have \[1, 2\]"),
        ([[0.0, 1.0]], [2], r"0\.\.1"),
        ([[0.0, 1.0]], [0, 1], "Mismatch in the number"),
    ],
)
def test_bad_input_is_named(tmp_path, similarity, video_index, message):
    fresh = evaluate.load(str(FOLDER), cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match=message):
        fresh.compute(predictions=similarity, references=video_index)


def test_stands_alone():
    """A Space has this folder and requirements.txt, nothing else of the project."""
    listed = set((FOLDER / "requirements.txt").read_text().split())
    for node in ast.walk(ast.parse((FOLDER / "text_video_retrieval.py").read_text())):
        if isinstance(node, ast.Import):
            assert len(node.names) == 1, "evaluate's parser of imports reads one module a line"
            assert node.names[0].name in listed
        assert not isinstance(node, ast.ImportFrom)


def test_the_card_has_the_metadata_of_a_metric_space():
    _, header, _ = (FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert {"evaluate", "metric"} <= set(metadata["tags"])
    assert metadata["sdk"] == "gradio"
    assert (FOLDER / metadata["app_file"]).is_file()


def test_the_example_of_the_card_runs(capsys, monkeypatch):
    monkeypatch.chdir(FOLDER.parent.parent.parent)
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    exec(card.partition("```python\n")[2].partition("```")[0], {})
    assert capsys.readouterr().out.split() == ["100.0", "1.0"]


def test_the_space_computes_what_is_pasted():
    pytest.importorskip("gradio")
    spec = importlib.util.spec_from_file_location("metric_space", FOLDER / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    assert app.demo.fn("[[0.9, 0.1], [0.2, 0.7]]", "[0, 1]")["t2v_R@1"] == 100
