"""Confidences of search results: features, calibration, the way through a checkpoint, an index and the commands."""

import json
import shutil
from typing import Any, cast

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from models import tiny_config
from search_data import synthetic_records
from transformers import CLIPConfig

from modeling_glccl import GLCCLConfig
from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.cli import main
from modeling_glccl.confidence import FOLLOWING, confidence_features, confidences, fit_confidence
from modeling_glccl.data import load_benchmark
from modeling_glccl.evaluation.calibrate import calibrate_checkpoint, score_captions
from modeling_glccl.features_glccl import GLCCLVideoFeatures
from modeling_glccl.search.candidates import frames_of
from modeling_glccl.search.ranking import encode_queries

pytest_plugins = ["search_fixtures"]

QUERY = "a dog in the snow"
WEIGHTS = [-1.0, 0.05, -0.1, 0.2, 0.3, 0.7]


def expected_confidences(four, logits, k):
    """The naive twin: four scores [V, 4] and logits [V] of all videos -> position and confidence of the k best."""
    order = sorted(range(len(logits)), key=lambda video: -logits[video])
    found = []
    for rank, video in enumerate(order[:k]):
        following = [logits[other] for other in order[rank + 1 : rank + 1 + 20]]
        distance = logits[video] - sum(following) / len(following) if following else 0.0
        value = WEIGHTS[0] + sum(w * x for w, x in zip(WEIGHTS[1:], [*four[video], distance], strict=True))
        found.append((video, 1 / (1 + np.exp(-value))))
    return found


@pytest.mark.parametrize(("videos", "k"), [(1, 1), (5, 5), (30, 10), (30, 30)])
def test_confidences_equal_the_twin(videos, k):
    four = np.random.default_rng(videos).normal(size=(videos, 4))
    logits = four.mean(axis=1)
    expected = expected_confidences(four, logits, k)
    best = np.argsort(-logits)
    found = confidences(WEIGHTS, four[best[:k]].T, logits[best][: k + FOLLOWING])
    assert best[:k].tolist() == [video for video, _ in expected]
    np.testing.assert_allclose(found, [confidence for _, confidence in expected], atol=1e-12)


def synthetic_scores(seed: int, captions: int = 400) -> np.ndarray:
    """[4, A, A]: noise, of which the diagonal, the right videos, lies higher; easy and hard captions."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(4, captions, captions))
    scores[:, range(captions), range(captions)] += rng.normal(3.5, 1, size=captions)
    return 5 * scores + 10


def test_calibration_recovers_probabilities():
    """On other captions than those of the fit, half of whose videos are not there."""
    weights = fit_confidence(synthetic_scores(0), np.arange(400))
    scores, there, found = synthetic_scores(1), np.arange(400) % 2 == 0, []
    logits = scores.mean(axis=0)
    for caption in range(400):
        videos = np.flatnonzero(there)
        best = videos[np.argsort(-logits[caption, videos])]
        found.append(confidences(weights, scores[:, caption, best[:1]], logits[caption, best])[0])
    found = np.array(found)
    assert found[there].mean() > found[~there].mean() + 0.4
    bins = (10 * found).astype(int).clip(max=9)
    error = np.mean([abs(there[bins == b].mean() - found[bins == b].mean()) for b in bins])
    assert error < 0.07


def test_twins_are_taken_out_together():
    """Of twins one cannot be told from the other, so where one stays in the library nothing shows that it left."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4, 60, 30))
    for caption in range(60):
        twins = caption // 4 * 2
        scores[:, caption, twins : twins + 2] += 8
    video_index = np.arange(60) // 2
    features = confidence_features(np.full((4, 1), 8.0), np.array([8.0] + [0.0] * 20))
    together, apart = (
        np.array(fit_confidence(scores, video_index, groups)) for groups in (np.arange(30) // 2, np.arange(30))
    )
    sure, unsure = (weights[0] + features[0] @ weights[1:] for weights in (together, apart))
    assert sure > 3
    assert unsure < 1


def test_what_cannot_be_calibrated_is_said(tmp_path):
    cast(CLIPConfig, tiny_config().clip_config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a folder with a GLCCL model"):
        calibrate_checkpoint(tmp_path, "shapes")
    scores = np.zeros((4, 3, 3))
    with pytest.raises(ValueError, match="3 videos of one group"):
        fit_confidence(scores, np.arange(3), np.zeros(3))
    scores[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fit_confidence(scores, np.arange(3))


def test_weights_travel_with_the_configuration(tmp_path):
    tiny_config(confidence_weights=WEIGHTS).save_pretrained(tmp_path)
    assert GLCCLConfig.from_pretrained(tmp_path).confidence_weights == WEIGHTS
    assert tiny_config().confidence_weights is None
    for wrong in ([1.0], [*WEIGHTS[:5], float("nan")]):
        with pytest.raises(StrictDataclassError, match="must be 6 finite numbers"):
            tiny_config(confidence_weights=wrong)


@pytest.fixture
def calibrated(model, monkeypatch):
    monkeypatch.setattr(model.config, "confidence_weights", WEIGHTS)
    return model


@pytest.mark.parametrize("count", [12, 700])  # all scored exactly, and candidates
def test_a_search_returns_the_confidences_of_the_twin(index, calibrated, processor, count):
    index._store.commit(synthetic_records(count))
    found = index.search(QUERY, k=5, moments=True)
    (text,) = encode_queries(calibrated, processor, [QUERY])
    clips = index._load().snapshot().take(np.arange(count), ["frames", "num_frames", "video_id"])
    frames, lengths = frames_of(clips, calibrated.config.width)
    mask = torch.arange(frames.shape[1]) < torch.from_numpy(lengths)[:, None]
    with torch.inference_mode():
        scores = calibrated.get_scores(text, GLCCLVideoFeatures(frames=torch.tensor(frames), frame_mask=mask))
    four, logits = torch.cat(scores.to_tuple()).T.double().numpy(), scores.logits[0].double().numpy()
    expected = expected_confidences(four, logits, 5)
    assert [result.video_id for result in found] == [clips["video_id"][place].as_py() for place, _ in expected]
    confidence = [result.confidence for result in found]
    np.testing.assert_allclose(confidence, [value for _, value in expected], atol=1e-3)
    assert [result.confidence for result in index.search(QUERY, k=2)] == pytest.approx(confidence[:2], abs=1e-6)


def test_min_confidence_leaves_out_what_has_less_and_keeps_the_order(index, request):
    index._store.commit(synthetic_records(12))
    assert [result.confidence for result in index.search(QUERY, k=3)] == [None] * 3
    with pytest.raises(ValueError, match=r"not calibrated.*glccl calibrate .*checkpoint --benchmark NAME"):
        index.search(QUERY, min_confidence=0.5)
    request.getfixturevalue("calibrated")
    results = index.search(QUERY, k=8)
    least = sorted(result.confidence for result in results)[4]
    kept = [result.video_id for result in results if result.confidence >= least]
    assert len(kept) == 4
    assert [result.video_id for result in index.search(QUERY, k=8, min_confidence=least)] == kept
    assert index.search_batch([QUERY, "a cat"], min_confidence=1.0) == [[], []]
    with pytest.raises(ValueError, match=r"min_confidence=50 must lie in 0..1"):
        index.search(QUERY, min_confidence=50)


def test_from_calibration_to_a_search_that_finds_nothing(checkpoint, videos, tmp_path, monkeypatch, capsys):
    """An index made before the calibration goes on working, and has confidences."""
    folder, before = tmp_path / "model", json.loads((checkpoint / "config.json").read_text())
    shutil.copytree(checkpoint, folder)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["index", str(videos), "--index=my.index", f"--model={folder}"]) == 0
    assert main(["search", "a dog", "--index=my.index", "--min-confidence=0.5"]) == 1
    assert f"glccl calibrate {folder} --benchmark" in capsys.readouterr().err
    options = ["--set=num_train=0", "--set=num_validation=12", "--set=num_test=0", "--set=image_size=16"]
    options += [f"--data-dir={tmp_path / 'data'}", "--num-workers=0"]
    assert main(["calibrate", str(folder), "--benchmark=shapes", *options]) == 0
    assert "from 12 captions of shapes validation" in capsys.readouterr().out
    after = json.loads((folder / "config.json").read_text())
    assert len(after.pop("confidence_weights")) == 6
    assert after == {name: value for name, value in before.items() if name != "confidence_weights"}

    settings: dict[str, Any] = {"num_train": 0, "num_validation": 12, "num_test": 0, "image_size": 16}
    dataset = load_benchmark("shapes", data_dir=tmp_path / "data", split="validation", **settings)
    result, scores, groups = score_captions(*load_checkpoint(folder), dataset, batch_size=1, progress=False)
    assert result.similarity is not None
    np.testing.assert_allclose(scores.mean(axis=0), result.similarity, atol=1e-4)  # of blocks of 8 captions
    assert groups.tolist() == [0] * 4 + [1] * 4 + [2] * 4

    values = json.loads((folder / "config.json").read_text())
    for constant, printed in ((50.0, ["confidence", "100%"]), (-50.0, ["probably nothing fits", "0%"])):
        (folder / "config.json").write_text(json.dumps(values | {"confidence_weights": [constant] + 5 * [0.0]}))
        assert main(["search", "a dog", "--index=my.index", "--html=page.html"]) == 0
        out = capsys.readouterr().out
        assert all(text in out for text in printed)
        page = (tmp_path / "page.html").read_text()
        assert f"confidence {constant > 0:.0%}" in page
        assert ("probably nothing fits" in page) == (constant < 0)
    assert main(["search", "a dog", "--index=my.index", "--min-confidence=0.5"]) == 0
    assert "nothing fits: no video has a confidence of 0.5" in capsys.readouterr().out
    assert main(["search", "a dog", "--index=my.index", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["confidence"] == pytest.approx(0, abs=1e-6)
