"""Indexes of synthetic features for the search tests."""

from pathlib import Path

import numpy as np
import torch

from modeling_glccl.search import IngestReport, VideoIndex
from modeling_glccl.search.store import ClipFeatures, VideoRecord

CAPTIONS = ["a dog in the snow", "two cars drive by", "a man cooks pancakes", "black and white blocks"]


def synthetic_records(
    count: int, frames: int = 4, width: int = 32, clips: int = 1, seed: int = 0, name: str = "video"
) -> list[VideoRecord]:
    """Videos whose frames vary around a subject of their own, which varies around one of 50 topics."""
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((50, width))
    records = []
    for number in range(count):
        subject = topics[rng.integers(50)] + rng.standard_normal(width)
        features = 3 * (subject + 0.5 * rng.standard_normal((clips, frames, width)))
        records.append(
            VideoRecord(
                video_id=f"{name}{number}",
                path=f"/nowhere/{name}{number}.mp4",
                sha256=f"{name}{number}",
                duration=20.0 * clips + 10,
                clips=[
                    ClipFeatures(
                        20.0 * i, 20.0 * i + 30, 20.0 * i + np.arange(frames) * 7.5, values.astype(np.float16)
                    )
                    for i, values in enumerate(features)
                ],
            )
        )
    return records


def contents(index: VideoIndex) -> dict[str, tuple]:
    """Video id -> what is known about it, features per clip included; raises where a clip is there twice."""
    found: dict[str, dict[int, tuple]] = {}
    for row in index._store.open_clips().search().to_list():
        clips = found.setdefault(row["video_id"], {})
        assert row["clip"] not in clips, f"{row['video_id']} clip {row['clip']} is there twice"
        features = None if row["frames"] is None else torch.tensor(row["frames"])
        clips[row["clip"]] = (row["path"], row["sha256"], row["status"], row["start"], row["end"], features)
    return found


def assert_same_contents(index: VideoIndex, expected: VideoIndex) -> None:
    found, wanted = contents(index), contents(expected)
    assert found.keys() == wanted.keys()
    for video_id, clips in wanted.items():
        assert found[video_id].keys() == clips.keys(), video_id
        for clip, (*values, features) in clips.items():
            *found_values, found_features = found[video_id][clip]
            assert found_values == values
            if features is not None:
                torch.testing.assert_close(found_features, features, atol=5e-3, rtol=5e-3)


def update(index: VideoIndex, folder: Path, **options) -> dict[str, int]:
    """Brings an index up to date; the counts of the report that are not 0."""
    return counts(index.update(folder, progress=False, num_workers=1, **options))


def counts(report: IngestReport) -> dict[str, int]:
    return {name: count for name, count in vars(report).items() if count and name != "seconds"}


def write_cues(index: VideoIndex, said: dict[str, list[tuple[float, float, str]]]) -> None:
    """Puts start, end and text of what is said in some videos into an index, as if it had been read from files."""
    keys = {row["video_id"]: row["video_key"] for row in index._store.videos(["video_id", "video_key"])}
    rows = {}
    for video_id, cues in said.items():
        state = {"video_key": keys[video_id], "cue": 0, "error": ""}
        spoken = [{"start": start, "end": end, "text": text} for start, end, text in cues]
        rows[keys[video_id]] = [state, *(state | {"cue": cue} | words for cue, words in enumerate(spoken, 1))]
    index._store.write_words(rows)
