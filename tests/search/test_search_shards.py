"""An index of shards, compared with its naive twin: one index of the same videos."""

import os
import secrets
import shutil
import sys
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import pytest
from search_data import CAPTIONS, synthetic_records, write_cues
from videos import write_video

from modeling_glccl.cli import main
from modeling_glccl.library import Library, SearchRequest
from modeling_glccl.search import VideoIndex, candidates
from modeling_glccl.search.shards import Shard, take_snapshot


def filled(path, model, processor, shards: int) -> VideoIndex:
    """900 videos of one clip and 12 of 6, with copies of some; and words: "ball" in every third video."""
    index = VideoIndex.create(path, model, processor, shards=shards)
    shape = {"frames": processor.video_processor.max_frames, "width": model.config.width}
    records = synthetic_records(900, **shape) + synthetic_records(12, clips=6, seed=1, name="long", **shape)
    records += [
        type(one)(**{**vars(one), "video_id": f"copy of {one.video_id}", "path": f"/nowhere/copy/{one.video_id}.mp4"})
        for one in records[:40]
    ]
    for number, record in enumerate(records):
        record.mtime_ns, record.size = number * 10**9, number
    for start in range(0, len(records), 256):
        index._store.commit(records[start : start + 256])
    said = {}
    for number, record in enumerate(records[::3]):
        texts = {5.0: "a red ball", 22.0: "the ball " * (number % 3 + 1), 24.0: "a dog in the snow"}
        said[record.video_id] = [(start, start + 2, text) for start, text in texts.items()]
    write_cues(index, said)
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
    {"min_confidence": 1e-9, "k": 5},
]


def found_by(index: VideoIndex, searches=SEARCHES) -> list:
    asked = [{"query": CAPTIONS[number % len(CAPTIONS)], **options} for number, options in enumerate(searches)]
    found = [asdict(result) for options in asked for result in index.search(**options)]
    return [
        {name: value.tolist() if hasattr(value, "tolist") else value for name, value in row.items()} for row in found
    ]


@pytest.fixture(autouse=True)
def small_shortlists(monkeypatch, model):
    monkeypatch.setattr(model.config, "confidence_weights", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    monkeypatch.setattr(candidates, "SHORTLIST", 300)
    monkeypatch.setattr(candidates, "CANDIDATES", 60)


@pytest.mark.parametrize("shards", [1, 5])
def test_shards_find_what_one_index_finds(whole, tmp_path, model, processor, shards):
    index = filled(tmp_path / "index", model, processor, shards)
    assert found_by(index) == found_by(whole)
    assert as_lists(index.duplicates(0.9)) == as_lists(whole.duplicates(0.9))
    assert (len(index), index.videos(), index.info()["clips"]) == (len(whole), whole.videos(), whole.info()["clips"])
    with pytest.raises(ValueError, match=r"no video passes the filter"):
        index.search(CAPTIONS[0], min_duration=1e6)
    with pytest.raises(ValueError, match=r"where='nothing = 1'"):
        index.search(CAPTIONS[0], where="nothing = 1")


def test_a_shard_without_a_clip_that_passes_is_searched_with_the_others(tmp_path, model, processor):
    index = VideoIndex.create(tmp_path / "index", model, processor, shards=3)
    index._store.commit(synthetic_records(1, clips=600))  # one long video, so two shards have nothing
    assert [result.video_id for result in index.search(CAPTIONS[0])] == ["video0"]
    assert [result.video_id for result in index.search(CAPTIONS[0], min_duration=1)] == ["video0"]


def test_what_is_lent_to_actors_is_all_that_they_ask_of_a_model(whole, model, monkeypatch):
    pytest.importorskip("ray")
    from modeling_glccl.search import ray_engine

    monkeypatch.setattr(ray_engine.ray, "put", lambda lent: lent)
    shards = object.__new__(ray_engine.RayShards)
    shards._lent = None, None
    snapshot = take_snapshot(whole._store)
    for query in (*whole.encode([CAPTIONS[0]]), *whole.encode([None], like="video3")):
        found, lent = snapshot.nearest(model, query, 20), snapshot.nearest(*shards.lend(model, query), 20)
        assert [values.tolist() for values in found] == [values.tolist() for values in lent]


def as_lists(groups) -> list:
    return [[(video.video_id, pytest.approx(video.score, abs=1e-5)) for video in group] for group in groups]


def shard_of(index: VideoIndex) -> dict[str, list[int]]:
    """Video id -> the shards that have rows of it, by looking into each."""
    found = {}
    for number in range(index.info()["shards"]):
        for row in Shard(f"{index.path}/shard-{number:04}", None).rows(["video_id"], "clip = 0"):
            found.setdefault(row["video_id"], []).append(number)
    return found


def test_files_that_change_and_move_stay_in_their_shard_and_are_there_once(videos, tmp_path, model, processor):
    write_video(videos / "v5.mp4", 70, fps=5)
    indexes = [VideoIndex.create(tmp_path / f"{n}.index", model, processor, shards=n) for n in (0, 3)]
    subtitles = "1\n00:00:00,500 --> 00:00:01,500\na red ball\n"

    def same(*changed: str) -> None:
        whole, sharded = [index.update(videos, remove_missing=True, progress=False) for index in indexes]
        assert asdict(whole) | {"seconds": 0} == asdict(sharded) | {"seconds": 0}
        assert {name for name, count in asdict(sharded).items() if count} == {*changed, "seconds"}
        assert found_by(indexes[1], SHORT) == found_by(indexes[0], SHORT)
        assert all(len(shards) == 1 for shards in shard_of(indexes[1]).values())
        assert indexes[1].errors() == indexes[0].errors()

    (videos / "v1.srt").write_text(subtitles)
    (videos / "no.mp4").write_bytes(b"no video")
    same("added", "subtitled", "failed")
    before = shard_of(indexes[1])
    same("unchanged")
    (videos / "v1.mp4").rename(videos / "moved.mp4")
    (videos / "v1.srt").rename(videos / "moved.srt")
    shutil.copy(videos / "v0.mp4", videos / "copy.mp4")
    write_video(videos / "v2.mp4", 50, fps=5)
    same("unchanged", "moved", "copied", "changed")
    after = shard_of(indexes[1])
    assert after[str(videos / "moved.mp4")] == before[str(videos / "v1.mp4")]
    assert after[str(videos / "v2.mp4")] == before[str(videos / "v2.mp4")]
    (videos / "v0.mp4").rename(videos / "v5.mp4")  # in the place of another
    (videos / "copy.mp4").unlink()
    same("unchanged", "moved", "removed")
    assert indexes[1].remove([str(videos / "moved.mp4"), str(videos / "v5.mp4")]) == 2
    assert len(indexes[1]) == len(indexes[0]) - 2
    with pytest.raises(ValueError, match=r"holds no words"):
        indexes[1].search(words="ball")


SHORT = [{"k": 20, "moments": True}, {"query": None, "words": "ball"}]


def test_a_kill_between_two_shards_doubles_nothing(videos, tmp_path, model, processor, monkeypatch):
    """A file takes the place of another one that lies in another shard."""
    index = VideoIndex.create(tmp_path / "my.index", model, processor, shards=9)
    index.update(videos, progress=False)
    shards = shard_of(index)
    one, other = next((a, b) for a, b in combinations(shards, 2) if shards[a] != shards[b])
    os.rename(one, other)
    write, calls = Shard.write, []

    def killed(*arguments):
        calls.append(write(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(Shard, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        index.update(videos, progress=False)
    assert {result.video_id for result in index.search("a dog")} <= {str(path) for path in videos.rglob("*.mp4")}
    monkeypatch.setattr(Shard, "write", write)
    index.update(videos, progress=False)
    twin = VideoIndex.create(tmp_path / "twin.index", model, processor)
    twin.update(videos, progress=False)
    assert found_by(index, SHORT[:1]) == found_by(twin, SHORT[:1])


def test_the_commands_take_shards(shared, library, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    one, outputs = shared.path, []
    for options in (["--model", str(checkpoint)], []):
        assert main(["index", str(library), "--index", "two", "--shards", "2", *options]) == 0
    capsys.readouterr()
    for name, folder in ((one, "cut one"), ("two", "cut two")):
        for command in (
            ["search", "a dog", "--json"],
            ["search", "--like", str(library / "v1.mp4"), "--json"],
            ["duplicates", "--threshold", "0.5"],
            ["index", "--errors"],
        ):
            assert main([*command, "--index", name]) == 0
        outputs.append(capsys.readouterr().out)
        assert main(["cut", "a dog", "--index", name, "-k", "2", "--output", folder]) == 0
        capsys.readouterr()
    assert outputs[0] == outputs[1]
    assert len(os.listdir("cut one")) == 2
    assert sorted(os.listdir("cut one")) == sorted(os.listdir("cut two"))
    assert main(["index", str(library), "--index", one, "--shards", "2"]) == 1
    assert f"--shards 2: {one} was made with 0" in capsys.readouterr().err
    assert main(["serve", "--index", one, "--engine", "ray"]) == 1
    assert f"{one}: engine='ray' searches shards, and it has none" in capsys.readouterr().err


def test_a_shard_that_is_gone_is_named(videos, tmp_path, model, processor):
    index = VideoIndex.create(tmp_path / "my.index", model, processor, shards=2)
    index.update(videos, progress=False)
    (newest, *_) = sorted(
        Path(index.path).glob("shard-*/clips.lance/_versions/*.manifest"), key=lambda path: path.name
    )
    content = newest.read_bytes()
    newest.unlink()
    with pytest.raises(ValueError, match=f"{newest.name} is gone"):
        VideoIndex.open(index.path, model, processor)
    newest.write_bytes(content)
    shutil.rmtree(tmp_path / "my.index" / "shard-0001")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"my\.index/shard-0001: the shard is gone; bring it back"):
            VideoIndex.open(index.path, model, processor)
        (tmp_path / "my.index" / "shard-0001").mkdir(exist_ok=True)  # empty


def test_a_shard_in_the_place_of_another_is_refused(videos, tmp_path, model, processor):
    index = VideoIndex.create(tmp_path / "my.index", model, processor, shards=2)
    other = VideoIndex.create(tmp_path / "other.index", model, processor, shards=2)
    shard = tmp_path / "my.index" / "shard-0001"
    for source in (Path(index.path, "shard-0000"), Path(other.path, "shard-0001"), Path(other.path)):
        shutil.rmtree(shard)
        shutil.copytree(source, shard)
        with pytest.raises(ValueError, match="shard-0001: is another shard, or another index's"):
            VideoIndex.open(index.path, model, processor)


def test_no_shards_or_too_many_are_refused(tmp_path, model, processor):
    for shards in (-1, 1001):
        with pytest.raises(ValueError, match=f"shards={shards} must lie in 0..1000"):
            VideoIndex.create(tmp_path / "my.index", model, processor, shards=shards)


class MortalShard(Shard):
    """Ends its process once where a file beside its tables says so."""

    def _end(self, name: str) -> None:
        note = Path(self.uri) / "end"
        if note.exists() and note.read_text() == name:
            note.unlink()
            os._exit(1)

    def ask(self, version, condition, name, *arguments):
        self._end(name)
        return super().ask(version, condition, name, *arguments)

    def write(self, rows, replaces):
        super().write(rows, replaces)
        self._end("write")


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        ray.init(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield ray
        ray.shutdown()


@pytest.fixture
def mortal(cluster, monkeypatch):
    from modeling_glccl.search import ray_engine

    monkeypatch.setattr(ray_engine, "Shard", MortalShard)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 5])
def test_actors_find_what_one_index_finds_though_one_dies(mortal, whole, tmp_path, model, processor, shards):
    path = filled(tmp_path / "index", model, processor, shards).path
    index = VideoIndex.open(path, model, processor, engine="ray")
    assert found_by(index) == found_by(whole)
    for name in ("nearest", "take") if shards == 5 else ():
        note = Path(path) / f"shard-{shards // 2:04}" / "end"
        note.write_text(name)
        assert found_by(index, SEARCHES[:2]) == found_by(whole, SEARCHES[:2])
        assert not note.exists()
    with pytest.raises(ValueError, match=r"where='nothing = 1': [^\n]+$"):
        index.search(CAPTIONS[0], where="nothing = 1")
    request = SearchRequest(query=CAPTIONS[0], k=40, folder="copy")
    answers = [Library(each, str(tmp_path)).search(request) for each in (index, whole)]
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_actors_write_every_row_once_though_one_dies(mortal, videos, tmp_path, model, processor):
    whole = VideoIndex.create(tmp_path / "whole.index", model, processor)
    whole.update(videos, progress=False)
    index = VideoIndex.create(tmp_path / "my.index", model, processor, shards=3)
    notes = [Path(index.path) / f"shard-{number:04}" / "end" for number in range(3)]
    for note in notes:
        note.write_text("write")
    assert index.update(videos, engine="ray", num_workers=1, progress=False).added == 5
    assert not all(note.exists() for note in notes)
    assert found_by(index, SHORT[:1]) == found_by(whole, SHORT[:1])
    assert all(len(shards) == 1 for shards in shard_of(index).values())
    assert index.update(videos, engine="ray", num_workers=1, progress=False).unchanged == 5
