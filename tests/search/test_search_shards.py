"""An index of shards, compared with its naive twin: one index of the same videos."""

from dataclasses import asdict

import pytest
from search_data import CAPTIONS, synthetic_records

from modeling_glccl.search import VideoIndex, candidates

pytest_plugins = ["search_fixtures"]


def filled(path, model, processor, shards: int) -> VideoIndex:
    """900 videos of one clip and 12 of 6, with copies of some; and words: "ball" in every third video."""
    index = VideoIndex.create(path, model, processor, shards=shards)
    shape = {"frames": processor.video_processor.max_frames, "width": model.config.width}
    records = synthetic_records(900, **shape) + synthetic_records(12, clips=6, seed=1, name="long", **shape)
    records += [type(one)(**{**vars(one), "video_id": f"copy of {one.video_id}"}) for one in records[:40]]
    for number, record in enumerate(records):
        record.mtime_ns, record.size = number * 10**9, number
    for start in range(0, len(records), 256):
        index._store.commit(records[start : start + 256])
    words = {}
    keys = {row["video_id"]: row["video_key"] for row in index._store.videos(["video_id", "video_key"])}
    for number, record in enumerate(records[::3]):
        cues = [(5.0, "a red ball"), (22.0, "the ball " * (number % 3 + 1)), (24.0, "a dog in the snow")]
        rows = [{"cue": 0}] + [
            {"cue": cue, "start": start, "end": start + 2, "text": text} for cue, (start, text) in enumerate(cues, 1)
        ]
        words[keys[record.video_id]] = [{"video_key": keys[record.video_id], "error": "", **row} for row in rows]
    index._store.write_words(words)
    return index


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model, processor) -> VideoIndex:
    return filled(tmp_path_factory.mktemp("whole") / "index", model, processor, 0)


SEARCHES = [
    {},
    {"k": 50, "moments": True},
    {"k": 40, "like": "video3"},
    {"like": "long4@30-60", "and_": ["two cars drive by"], "not_": ["a man cooks pancakes"]},
    {"where": "clip > 1", "k": 30},
    {"where": "size % 3 = 0", "min_duration": 20, "sort": "path"},
    {"ids": [f"video{number}" for number in range(700)], "sort": "date", "k": 20},
    {"folder": "/nowhere", "since": "1970-01-01T00:05+00:00", "min_score": 0.0},
    {"words": "ball", "k": 30},
    {"words": "red ball", "query": None, "k": 30},
    {"exhaustive": True, "k": 60},
]


def found_by(index: VideoIndex, searches=SEARCHES) -> list:
    asked = [{"query": CAPTIONS[number % len(CAPTIONS)], **options} for number, options in enumerate(searches)]
    found = [asdict(result) for options in asked for result in index.search(**options)]
    return [
        {name: value.tolist() if hasattr(value, "tolist") else value for name, value in row.items()} for row in found
    ]


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_shards_find_what_one_index_finds(whole, tmp_path, model, processor, shards, monkeypatch):
    monkeypatch.setattr(candidates, "SHORTLIST", 300)
    monkeypatch.setattr(candidates, "CANDIDATES", 60)
    index = filled(tmp_path / "index", model, processor, shards)
    assert found_by(index) == found_by(whole)
