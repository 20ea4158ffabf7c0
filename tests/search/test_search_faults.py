"""An index under several writers, readers during writes, and a full disk."""

import errno
import json
import os
import shutil
import time
from pathlib import Path
from unittest.mock import Mock

import lancedb
import pyarrow as pa
import pytest
from search_data import assert_same_contents, contents, synthetic_records
from search_worker import Worker, together
from videos import write_video

from modeling_glccl.search import VideoIndex
from modeling_glccl.search.store import Store


@pytest.fixture(scope="module")
def many_videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for i in range(24):
        write_video(folder / f"v{i:02}.mp4", 30 + 3 * i, fps=5)
    (folder / "v99.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def built_in_peace(tmp_path_factory, many_videos, model, processor) -> VideoIndex:
    index = VideoIndex.create(tmp_path_factory.mktemp("peace") / "my.index", model, processor)
    index.update(many_videos, progress=False)
    return index


def test_two_processes_add_at_once_while_another_searches(
    tmp_path, checkpoint, many_videos, built_in_peace, model, processor
):
    path = tmp_path / "my.index"
    VideoIndex.create(path, model, processor)
    start = together(2)
    writers = [Worker(path, checkpoint, many_videos, tmp_path / f"notes{i}", start=start) for i in range(2)]
    reader = VideoIndex.open(path, model, processor)
    sizes = []
    while any(writer.process.is_alive() for writer in writers):
        found = reader.search("black and white blocks", k=50, moments=True)
        assert len({result.video_id for result in found}) == len(found)
        sizes.append(len(found))
        time.sleep(0.01)
    assert [writer.process.exitcode for writer in writers] == [0, 0]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 2  # it searched between the commits
    assert all(writer.acknowledged() for writer in writers)
    assert len(reader.search("black and white blocks", k=50)) == len(reader) == 24
    assert_same_contents(reader, built_in_peace)


def test_writers_that_find_the_same_changes_agree(tmp_path, index):
    """A writer that comes second with a video neither doubles nor undoes what the first has written."""
    first, second = synthetic_records(3), synthetic_records(3)
    assert [record.video_id for record in index._store.commit(first)] == ["video0", "video1", "video2"]
    assert Store(tmp_path / "my.index").commit(second) == []
    second[0].sha256, second[0].clips = "changed", second[1].clips
    assert [record.video_id for record in Store(tmp_path / "my.index").commit(second)] == ["video0"]
    assert len(contents(index)) == len(index) == 3


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("LanceError(IO): Generic LocalFileSystem error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_said_and_leaves_the_index_intact(index, library, monkeypatch, error):
    """Simulated: LanceDB's add raises what it raises on a full disk."""
    index._store.commit(synthetic_records(3))
    open_clips = Store.open_clips

    def full(store):
        table = open_clips(store)
        monkeypatch.setattr(table, "add", Mock(side_effect=error))
        return table

    with monkeypatch.context() as context:
        context.setattr(Store, "open_clips", full)
        with pytest.raises(OSError, match=r"no space left for the index .*my\.index: what was .* is intact"):
            index.update(library, progress=False)
    assert len(index.search("a dog")) == len(index) == 3
    index.update(library, progress=False)
    assert len(index.search("a dog")) == len(index) == 8


@pytest.fixture
def path(shared, tmp_path) -> Path:
    """Of an index of five videos that a test may damage."""
    return Path(shutil.copytree(shared.path, tmp_path / "my.index"))


@pytest.mark.parametrize("change", ["gone", "cut", "empty", "other"])
@pytest.mark.parametrize("table", ["clips", "about"])
def test_a_damaged_file_is_one_error_that_names_the_index(path, model, processor, table, change):
    for file in (path / f"{table}.lance" / "data").iterdir():
        content = {"cut": file.read_bytes()[:-40], "empty": b"", "other": b"no table" * 100}.get(change)
        file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}: a file of the index is damaged or gone"):
        VideoIndex.open(path, model, processor).search("a dog")


def test_without_its_newest_description_an_index_does_not_open_as_it_was_before(path, model, processor):
    (newest, *_) = sorted((path / "clips.lance" / "_versions").glob("*.manifest"))
    newest.unlink()
    with pytest.raises(ValueError, match=f"a file of the index is damaged or gone .*{newest.name} is gone"):
        VideoIndex.open(path, model, processor)
    for content in (b"", b"[]", b'{"clips.lance": 3}', b"\xff"):
        (path / "newest.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"newest.json: is damaged .*; if all else is whole, delete it"):
            VideoIndex.open(path, model, processor)


def test_a_wrong_length_in_a_file_of_deleted_rows_does_not_end_the_process(path, model, processor):
    index = VideoIndex.open(path, model, processor)
    index.remove(index.videos()[0]["video_id"])
    (file,) = (path / "clips.lance" / "_deletions").iterdir()
    content = bytearray(file.read_bytes())
    content[388:392] = b"\x7f\0\0\0"  # LanceDB would ask for 512 GB, in vain
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}: a file of the index is damaged or gone .*{file.name} is damaged"):
        VideoIndex.open(path, model, processor)


def test_an_index_makes_nobody_read_what_lies_elsewhere(path, model, processor, tmp_path):
    """A list of checksums may name any path, such as that of a device without an end."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"other bytes than those of the checksum")
    listed = path / "newest.json"
    listed.write_text(json.dumps(json.loads(listed.read_text()) | {str(elsewhere): 1, "../elsewhere": 1}))
    assert len(VideoIndex.open(path, model, processor)) == 5


def test_a_file_that_vanishes_while_they_are_listed_does_not_count(index, monkeypatch):
    size, walk = index.info()["bytes"], os.walk
    assert size == sum(path.stat().st_size for path in Path(index.path).rglob("*") if path.is_file())

    def listed(top):
        return ((folder, folders, [*names, "merged.lance"]) for folder, folders, names in walk(top))

    monkeypatch.setattr(os, "walk", listed)
    assert index.info()["bytes"] == size


def test_times_that_no_moment_has_are_refused(path, model, processor):
    index = VideoIndex.open(path, model, processor)
    index._store.open_clips().update(values={"start": 1e9})
    with pytest.raises(ValueError, match=r"my\.index: the times of .* are damaged"):
        index.search("a dog", moments=True)


@pytest.mark.parametrize(
    "wrong", [{"width": 31}, {"max_frames": "4"}, {"model": None}, {"clip_stride": 1e30}, {"processor": [1]}]
)
def test_an_index_that_describes_itself_wrongly_is_refused(index, wrong):
    path = index.info()["path"]
    about = index._store.about
    content = json.dumps({**about, "model": about["model"] | wrong} if "processor" in wrong else about | wrong)
    lancedb.connect(path).create_table("about", pa.table({"json": [content]}), mode="overwrite")
    with pytest.raises(ValueError, match=f"{path}: a file of the index is damaged or gone .*{next(iter(wrong))}"):
        VideoIndex.open(path)
