"""Queries by example and of several parts: their scores are those of the definitions."""

import json
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from search_data import CAPTIONS, synthetic_records
from torch.nn.functional import normalize

from modeling_glccl import VideoDecodeError
from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.features_glccl import GLCCLVideoFeatures
from modeling_glccl.search import VideoIndex, candidates, searcher


@pytest.fixture
def still(tmp_path) -> Path:
    path = tmp_path / "still.png"
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 4), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def picture(path: Path) -> np.ndarray:
    """As a video of one frame."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))[None]


def features(model, processor, *videos, **span) -> GLCCLVideoFeatures:
    with torch.inference_mode():
        return model.get_video_features(**processor(videos=list(videos), **span))


def similarity(example: torch.Tensor, frames: torch.Tensor) -> float:
    """The naive twin: of [F, D] frames of an example and [N, D] of a clip."""
    best = [max(float(normalize(one, dim=0) @ normalize(other, dim=0)) for other in frames) for one in example]
    return sum(best) / len(best)


def expected_similarities(model, processor, example: torch.Tensor, paths) -> dict[str, float]:
    stored = {path: features(model, processor, path) for path in paths}
    return {path: similarity(example, video.frames[0][video.frame_mask[0]]) for path, video in stored.items()}


def scores(results) -> dict[str, float]:
    assert [result.score for result in results] == sorted((result.score for result in results), reverse=True)
    return {result.path: result.score for result in results}


def test_an_example_is_compared_frame_by_frame(shared, library, still, model, processor):
    paths = sorted(map(str, library.rglob("*.mp4")))
    for options, example in (
        ({"image": still}, features(model, processor, picture(still))),
        ({"video": paths[2]}, features(model, processor, paths[2])),
        ({"video": f"{paths[4]}@1-3.5"}, features(model, processor, paths[4], start=1, end=3.5)),
        ({"like": paths[1]}, features(model, processor, paths[1])),
    ):
        results = shared.search_like(moments=True, **options)
        wanted = expected_similarities(model, processor, example.frames[0], paths)
        if "like" in options:
            wanted.pop(paths[1])  # it would be the best
        assert scores(results) == pytest.approx(wanted, abs=2e-3)
        assert {result.measure for result in results} == {"similarity"}
        for result in results:
            assert result.start <= result.moment.start < result.moment.end <= result.end
            assert result.word_weights is None
    assert scores(shared.search_like(video=paths[2]))[paths[2]] == pytest.approx(1, abs=2e-3)


def test_padding_of_an_example_does_not_count(tmp_path, library, still, checkpoint):
    model, processor = load_checkpoint(checkpoint, mask_padding=False)
    processor.mask_padding = False
    index = VideoIndex.create(tmp_path / "my.index", model, processor)
    path = str(library / "v0.mp4")
    index.add([path, str(library / "v1.mp4")], progress=False)
    (row,) = index._store.rows(["frames", "num_frames", "frame_times"], f"video_id = '{path}'")
    assert (row["num_frames"], len(row["frame_times"])) == (4, 2)
    stored = torch.tensor(row["frames"]).float().view(4, -1)
    example = features(model, processor, picture(still)).frames[0, :1]
    assert scores(index.search_like(image=still))[path] == pytest.approx(similarity(example, stored), abs=2e-3)
    (other,) = index._store.rows(["frames"], f"video_id != '{path}'")
    expected = similarity(stored[:2], torch.tensor(other["frames"]).float().view(4, -1))
    assert [result.score for result in index.search_like(like=path)] == pytest.approx([expected], abs=2e-3)


def test_a_span_of_a_stored_video(index, model):
    records = synthetic_records(6, clips=3)
    records[0].video_id = "a@0-5"
    index._store.commit(records)
    frames = {record.video_id: [torch.tensor(clip.frames).float() for clip in record.clips] for record in records}
    times = np.concatenate([clip.frame_times for clip in records[1].clips])
    example = torch.cat(frames["video1"])[np.flatnonzero((times >= 20) & (times <= 40))]
    assert len(example) == 5  # of three clips
    results = index.search_like(like="video1@20-40")
    for result in results:
        wanted = [similarity(example, clip) for clip in frames[result.video_id]]
        assert result.score == pytest.approx(max(wanted), abs=2e-3)
        assert result.start == 20 * wanted.index(max(wanted))
    assert {result.video_id for result in results} == frames.keys() - {"video1"}
    assert {result.video_id for result in index.search_like(like="a@0-5")} == frames.keys() - {"a@0-5"}
    assert {result.video_id for result in index.search_like(like="a@0-5@20-40")} == frames.keys() - {"a@0-5"}


def test_the_shortlist_loses_little(index, monkeypatch):
    monkeypatch.setattr(searcher, "EXHAUSTIVE_CLIPS", 100)
    monkeypatch.setattr(candidates, "SHORTLIST", 300)
    index._store.commit(synthetic_records(2000))
    queries = [{"query": caption} for caption in CAPTIONS]
    queries += [{"like": f"video{number}"} for number in range(4)]
    queries += [{"query": CAPTIONS[0], "like": "video4"}, {"query": CAPTIONS[0], "not_": CAPTIONS[1]}]
    queries += [{"query": CAPTIONS[1], "and_": CAPTIONS[2]}]
    common = 0
    for options in queries:
        exact, found = (scores(index.search(**options, exhaustive=every)) for every in (True, False))
        both = exact.keys() & found.keys()
        assert {path: found[path] for path in both} == pytest.approx({path: exact[path] for path in both}, abs=1e-3)
        common += len(both)
    assert common >= 99  # of 110


def test_combined_scores_are_those_of_their_definition(shared, library, still, model, processor, monkeypatch):
    monkeypatch.setattr(model.config, "confidence_weights", [0.0] * 6)  # other queries have confidences
    assert shared.search(CAPTIONS[0], min_confidence=0.5)[0].confidence == 0.5
    paths = sorted(map(str, library.rglob("*.mp4")))
    with torch.inference_mode():
        logits = model(**processor(text=CAPTIONS, videos=paths)).logits_per_text.numpy()
    example = features(model, processor, picture(still)).frames[0]
    alike = np.array(list(expected_similarities(model, processor, example, paths).values()))
    image_score = alike * model.clip.logit_scale.exp().item()
    both = (logits[0] + logits[1]) / 2
    for options, wanted in (
        ({"and_": CAPTIONS[1]}, both),
        ({"and_": CAPTIONS[1:3]}, logits[:3].mean(axis=0)),
        ({"not_": CAPTIONS[3]}, logits[0] - np.maximum(0, logits[3] - 0.75 * logits[0])),
        ({"and_": CAPTIONS[1:2], "not_": CAPTIONS[2:4]}, both - np.maximum(0, logits[2:4] - 0.75 * both).sum(axis=0)),
        ({"image": still}, (logits[0] + image_score) / 2),
    ):
        results = shared.search(CAPTIONS[0], moments=True, **options)
        assert scores(results) == pytest.approx(dict(zip(paths, wanted, strict=True)), abs=0.06)
        assert {(result.measure, result.confidence) for result in results} == {("combined", None)}
        plain = {result.path: result.moment for result in shared.search(CAPTIONS[0], moments=True)}
        assert {result.path: result.moment for result in results} == plain  # of the first sentence
    assert np.abs(logits[3] - 0.75 * logits[0]).max() > 0.1  # the definitions differ
    batch = shared.search_batch(CAPTIONS[:2], not_=CAPTIONS[3])
    assert [scores(results) for results in batch] == [
        pytest.approx(scores(shared.search(caption, not_=[CAPTIONS[3]])), abs=1e-3) for caption in CAPTIONS[:2]
    ]


def test_filters_apply_to_examples(shared, library):
    results = shared.search_like(like=str(library / "v0.mp4"), folder=library / "more", sort="path")
    assert [Path(result.path).name for result in results] == ["v3.mp4", "v4.mp4"]


def test_examples_that_cannot_be_are_named(shared, library, still, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "empty.mp4").write_bytes(b"")
    cut = tmp_path / "cut.png"
    cut.write_bytes(still.read_bytes()[:200])
    path = str(library / "more" / "v4.mp4")
    for options, error, problem in (
        ({"image": tmp_path / "none.png"}, FileNotFoundError, r"none\.png: no such image"),
        ({"image": tmp_path / "text.png"}, ValueError, r"text\.png: cannot be read as an image"),
        ({"image": cut}, ValueError, r"cut\.png: cannot be read as an image"),
        ({"image": tmp_path}, ValueError, "is not a regular file"),
        ({"image": tmp_path / "pipe.png"}, ValueError, r"pipe\.png: is not a regular file"),
        ({"video": tmp_path / "none.mp4"}, VideoDecodeError, r"^[^\[]*none\.mp4"),
        ({"video": tmp_path / "empty.mp4"}, VideoDecodeError, r"^[^\[]*empty\.mp4: is empty"),
        ({"video": f"{path}@900-901"}, VideoDecodeError, r"v4\.mp4: no frame between"),
        ({"video": f"{path}@3-2"}, ValueError, r"v4\.mp4@3-2: a span is @start-end in seconds, and starts before"),
        ({"like": "none"}, ValueError, r"my\.index: has no video with the id 'none' \(like\)"),
        ({"like": "none@1-2"}, ValueError, r"has no video with the id 'none@1-2' \(like\)"),
        ({"like": f"{path}@900-901"}, ValueError, r"v4\.mp4@900-901: none of its 4 stored frames lies there"),
        ({}, ValueError, "nothing to search for"),
        ({"image": still, "min_confidence": 0.5}, ValueError, "calibrate|only searches with one sentence"),
    ):
        with pytest.raises(error, match=problem):
            shared.search_like(**options)
    with pytest.raises(ValueError, match="the query is empty"):
        shared.search("a dog", not_=" ")


@pytest.fixture
def search(run, shared):
    """Runs a search of the index."""
    return partial(run, "search", "--index", shared.path)


def test_examples_and_parts_on_the_command_line(search, shared, library, still, tmp_path):
    like = library / "v1.mp4"
    code, printed = search("--like", like, "--html", tmp_path / "page.html")
    assert code == 0
    assert "similarity (not GLCCL's)" in printed
    assert f"like {like}" in printed
    page = (tmp_path / "page.html").read_text()
    assert page.count("<article>") == 4
    assert "similarity (not GLCCL&#x27;s)" in page or "similarity (not GLCCL's)" in page
    _, printed = search("a dog", "--and", "snow", "--not", "two cars", "--not", "blocks", "--image", still)
    for text in ("a dog, and snow, not two cars, not blocks, like ", "combined score"):
        assert text in printed
    _, printed = search("--json", "--image", still, "-k", 2)
    expected = shared.search_like(2, image=still)
    found = json.loads(printed)
    assert [result["measure"] for result in found] == ["similarity"] * 2
    assert [result["score"] for result in found] == pytest.approx([result.score for result in expected])
    code, printed = search("--image", tmp_path / "none.png")
    assert (code, "none.png: no such image" in printed, "Traceback" in printed) == (1, True, False)


def test_queries_of_a_file(search, shared, library, still, tmp_path):
    file = tmp_path / "queries.jsonl"
    lines = [
        {"query": CAPTIONS[0]},
        {"query": CAPTIONS[1], "k": None, "and": None, "not": None, "ids": None, "no_words": None},
        {"query": CAPTIONS[0], "folder": str(library / "more"), "k": 1},
        {"query": CAPTIONS[0], "not": [CAPTIONS[1]], "sort": "path"},
        {"image": str(still), "max_duration": 3},
    ]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8-sig")  # as Windows may save it
    code, printed = search("--queries", file, "-k", 3)
    assert code == 0
    found = [json.loads(line) for line in printed.splitlines()]
    assert [line["query"] for line in found] == [*(line.get("query") for line in lines)]
    expected = [
        *shared.search_batch(CAPTIONS[:2], 3),
        shared.search(CAPTIONS[0], 1, folder=library / "more"),
        shared.search(CAPTIONS[0], 3, not_=CAPTIONS[1], sort="path"),
        shared.search_like(3, image=still, max_duration=3),
    ]
    for line, results in zip(found, expected, strict=True):
        assert [result["path"] for result in line["results"]] == [result.path for result in results]
        assert [result["score"] for result in line["results"]] == pytest.approx([r.score for r in results], abs=1e-3)
    for wrong, problem in (
        ("{", "Expecting property name"),
        ('["a dog"]', "is no object"),
        ('{"query": 5}', "query is 5; expected a text"),
        ('{"query": ' * 100_000, "maximum recursion depth exceeded"),
        ('{"query": "a \\ud800"}', "surrogates not allowed"),
        ('{"query": "a", "ids": [1, 2]}', "ids is [1, 2]; expected a text or a list of texts"),
        ('{"query": "a", "k": 1e400}', "k is inf; expected a whole number"),
        ('{"query": "a", "k": true}', "k is True; expected a whole number"),
        ('{"query": "a", "min_score": NaN}', "min_score is nan; expected a number"),
        ('{"query": "a", "no_words": 1}', "no_words is 1; expected true or false"),
        ('{"query": "a", "sort": []}', "sort is []; expected a text"),
        ('{"query": "a dog", "colour": "red"}', "'colour' is unknown; use "),
        ('{"query": " "}', "the query is empty"),
        ('{"query": "a dog", "ids": ["none"]}', "no video with the id 'none'"),
        ("{}", "nothing to search for"),
    ):
        file.write_text(f"{json.dumps(lines[0])}\n\n{wrong}\n{json.dumps(lines[1])}")
        code, printed = search("--queries", file)
        assert (code, f"{file}, line 3: " in printed, problem in printed) == (1, True, True)
    file.write_bytes(b"\xff")
    assert "queries.jsonl: is not UTF-8" in search("--queries", file)[1]
    for option in (("--html", "a.html"), ("--open",), ("--shot-list", "a.csv")):
        assert "--queries prints lines of JSON: leave out" in search("--queries", file, *option)[1]


def test_without_a_query_it_asks(search, monkeypatch, shared):
    typed = iter([CAPTIONS[0], "a" * 3000, CAPTIONS[1], "", CAPTIONS[0], ""])
    prompts = []
    monkeypatch.setattr("builtins.input", lambda prompt: prompts.append(prompt) or next(typed))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    loads = []
    load = VideoIndex._load
    monkeypatch.setattr(VideoIndex, "_load", lambda self: loads.append(id(self)) or load(self))
    code, printed = search("-k", 2)
    assert code == 0
    assert len(set(loads)) == 1
    assert "5 videos; a sentence a line" in printed
    for text in (CAPTIONS[0], "3,000 characters; at most", CAPTIONS[1]):
        assert text in printed

    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    assert "a sentence a line" not in search()[1]
    assert prompts == ["> "] * 4 + [""] * 2

    def end(_):
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    assert search("--json") == (0, "")
