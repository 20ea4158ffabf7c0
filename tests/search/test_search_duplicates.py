"""Near-duplicate videos, by all frames of all clips."""

import json
from itertools import combinations

import numpy as np
import pytest
from search_data import synthetic_records

from modeling_glccl.cli import main
from modeling_glccl.search import duplicates
from modeling_glccl.search.rendering import clock
from modeling_glccl.search.store import ClipFeatures, VideoRecord


def record(name: str, frames: np.ndarray) -> VideoRecord:
    """A video whose clips have up to four frames, as the tiny checkpoint's."""
    parts = np.split(frames.astype(np.float16), range(4, len(frames), 4))
    features = [ClipFeatures(20.0 * i, 20.0 * i + 30, np.arange(len(p)) * 7.5, p) for i, p in enumerate(parts)]
    return VideoRecord(name, f"/nowhere/{name}.mp4", sha256=name, duration=30.0 * len(parts), clips=features)


def unit(*vectors: np.ndarray) -> np.ndarray:
    frames = np.concatenate([np.atleast_2d(vector) for vector in vectors]).astype(np.float16).astype(np.float64)
    return frames / np.linalg.norm(frames, axis=1, keepdims=True)


def naive_score(one: np.ndarray, other: np.ndarray) -> float:
    """One pair of frames at a time."""
    total = 0.0
    for frames, others in ((one, other), (other, one)):
        weights = [1 / sum(frame @ same >= duplicates.SAME_PICTURE for same in frames) for frame in frames]
        nearest = [max(frame @ target for target in others) for frame in frames]
        total += sum(w * n for w, n in zip(weights, nearest, strict=True)) / sum(weights) / 2
    return total


def naive_groups(scores: dict[frozenset[str], float], threshold: float) -> set[frozenset[str]]:
    """All pairs of videos, merged until no two groups share one."""
    groups: set[frozenset[str]] = set()
    for pair, score in scores.items():
        if score >= threshold:
            touched = {group for group in groups if group & pair}
            groups = groups - touched | {pair.union(*touched)}
    return groups


@pytest.fixture(scope="module")
def library() -> list[VideoRecord]:
    """60 videos of two clips, copies of some with noise or trimmed, and films with copies."""
    rng = np.random.default_rng(1)
    records = synthetic_records(60, clips=2)
    for number in range(0, 40, 4):
        frames = np.concatenate([clip.frames for clip in records[number].clips])
        records.append(record(f"noisy{number}", frames + 0.2 * rng.standard_normal(frames.shape)))
        records.append(record(f"trimmed{number}", frames[1:]))
    film = np.repeat(3 * rng.standard_normal((20, 32)), 2, axis=0)
    return [*records, record("film", film), record("film again", film[2:])]


@pytest.fixture(scope="module")
def scores(library) -> dict[frozenset[str], float]:
    frames = {record.video_id: unit(*[clip.frames for clip in record.clips]) for record in library}
    return {frozenset(pair): naive_score(*map(frames.get, pair)) for pair in combinations(frames, 2)}


@pytest.mark.parametrize("threshold", [0.8, 0.9, 0.97])
def test_groups_are_those_of_all_pairs(index, library, scores, monkeypatch, threshold):
    index._store.commit(library)
    expected = naive_groups(scores, threshold)
    for block, clips, frames in ((512, 4096, 4096), (7, 5, 3)):
        for name, value in (("_BLOCK", block), ("_CLIPS", clips), ("_FRAMES", frames)):
            monkeypatch.setattr(duplicates, name, value)
        groups = index.duplicates(threshold)
        assert {frozenset(video.video_id for video in group) for group in groups} == expected
    assert expected
    for group in groups:
        for video in group:
            others = [scores[frozenset((video.video_id, other.video_id))] for other in group if other != video]
            assert video.score == pytest.approx(max(others), abs=1e-4)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_common_black_start_is_no_duplicate(index, share):
    """Weighing every frame alike, half a black start would lift the score by as much."""
    rng = np.random.default_rng(2)
    black = rng.standard_normal(32)
    videos = []
    for number in range(12):
        rest = rng.standard_normal((round(12 * (1 - share)), 32))
        start = black + 0.02 * rng.standard_normal((12 - len(rest), 32))
        videos.append(record(f"v{number}", 3 * np.concatenate([start, rest])))
    index._store.commit(videos)
    assert index.duplicates(0.75) == []
    copy = record("copy", np.concatenate([clip.frames for clip in videos[0].clips]))
    index._store.commit([copy])
    ((one, other),) = index.duplicates()
    assert {one.video_id, other.video_id} == {"v0", "copy"}
    assert one.score == pytest.approx(1, abs=1e-3)


def test_the_command(index, library, monkeypatch, capsys):
    monkeypatch.setattr("modeling_glccl.search.commands.VideoIndex.open", lambda path: index)
    assert main(["duplicates", "--index=my.index"]) == 0
    assert capsys.readouterr().out == "0 of 0 videos in 0 groups of near-duplicates\n"
    index._store.commit(library)
    groups = index.duplicates(0.9)
    assert main(["duplicates", "--index=my.index", "--threshold=0.9"]) == 0
    printed = capsys.readouterr().out
    best = groups[0][0]
    assert f"1.\n  {best.score:.3f}  {clock(best.duration):>9}  {best.path}\n" in printed
    assert f"of 82 videos in {len(groups)} groups" in printed
    assert main(["duplicates", "--index=my.index", "--threshold=0.9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [[vars(video) for video in group] for group in groups]
    assert main(["duplicates", "--index=my.index", "--threshold=1.5"]) == 1
    assert "threshold=1.5 must lie above 0" in capsys.readouterr().err
