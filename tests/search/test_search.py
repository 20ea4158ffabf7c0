"""VideoIndex: what it finds, and what it costs to keep it up to date."""

import hashlib
import os
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from models import random_features
from peer_models import peer_model
from search_data import CAPTIONS, contents, counts, synthetic_records, update
from torch.nn.functional import normalize
from videos import write_video

from modeling_glccl import GLCCLModel, GLCCLProcessor, VideoDecodeError
from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.cli import main
from modeling_glccl.features_glccl import GLCCLTextFeatures
from modeling_glccl.search import IndexMismatchError, VideoIndex, candidates, clips, ingest, rendering, searcher, store
from modeling_glccl.search import index as index_module
from modeling_glccl.search.fingerprint import describe_model
from modeling_glccl.search.queries import Query
from modeling_glccl.search.ranking import encode_queries, exact_logits, one_frame_logits, prepare_text, proxy_vectors
from modeling_glccl.video_processing_glccl import GLCCLVideoProcessor


@pytest.fixture
def indexed(index, videos) -> VideoIndex:
    """The index of the videos."""
    update(index, videos)
    return index


@pytest.fixture
def long_video(tmp_path) -> Path:
    return write_video(tmp_path / "long.mp4", 130, fps=5)  # 26 seconds


@pytest.fixture
def index_of_clips(tmp_path, model, processor) -> VideoIndex:
    return VideoIndex.create(tmp_path / "my.index", model, processor, clip_length=10, clip_stride=6)


def forbid_encoding(index, monkeypatch):
    monkeypatch.setattr(index.model, "get_video_features", lambda *_: pytest.fail("a video was encoded"))


@pytest.mark.parametrize("mask_padding", [True, False])
def test_a_small_index_ranks_as_model_similarity(tmp_path, library, checkpoint, mask_padding):
    model, processor = load_checkpoint(checkpoint, mask_padding=mask_padding)
    processor.mask_padding = mask_padding
    index = VideoIndex.create(tmp_path / "my.index", model, processor)
    assert update(index, library) == {"added": 5}
    assert len(index) == 5
    paths = sorted(str(path) for path in library.rglob("*.mp4"))
    with torch.inference_mode():
        logits = model(**processor(text=CAPTIONS, videos=paths)).logits_per_text
    for query, expected, results in zip(CAPTIONS, logits, index.search_batch(CAPTIONS, k=9), strict=True):
        assert [result.path for result in results] == [paths[i] for i in expected.argsort(descending=True)]
        # features are kept in float16
        found = torch.tensor([result.score for result in results])
        torch.testing.assert_close(found, expected.sort(descending=True).values, atol=0.05, rtol=0.01)
        alone = index.search(query, k=2, moments=True)
        assert [result.path for result in alone] == [result.path for result in results[:2]]
    moments = {Path(result.path).name: result for result in index.search(CAPTIONS[0], moments=True)}
    assert len(moments["v0.mp4"].frame_times) == len(moments["v0.mp4"].frame_weights) == 2


def test_float32_and_bfloat16_are_one_model(tmp_path, library, checkpoint):
    """Scores, logits of up to some 20 here, differ by at most 0.2, and frames point where they did."""
    made = {}
    for precision in ("fp32", "bf16"):
        path = tmp_path / precision
        index = VideoIndex.create(path, *load_checkpoint(checkpoint), device="cpu", precision=precision)
        assert update(index, library) == {"added": 5}
        for reader in ("fp32", "bf16"):
            found = VideoIndex.open(path, device="cpu", precision=reader)
            made[precision, reader] = {
                result.video_id: result.score for result in found.search(CAPTIONS[0], moments=True)
            }
            assert found.model.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[reader]
        made[precision] = {name: clips[0][-1] for name, clips in contents(index).items()}
    for scores in (made["fp32", "bf16"], made["bf16", "fp32"], made["bf16", "bf16"]):
        assert scores == pytest.approx(made["fp32", "fp32"], abs=0.2)
    for name, frames in made["fp32"].items():
        assert torch.cosine_similarity(frames, made["bf16"][name], dim=0) > 0.999


def test_another_precision_than_the_two_is_refused(tmp_path, checkpoint, processor, model):
    index = VideoIndex.create(tmp_path / "my.index", model, processor)
    with pytest.raises(IndexMismatchError, match="another precision"):
        VideoIndex.open(tmp_path / "my.index", GLCCLModel.from_pretrained(checkpoint).half(), processor)
    exact = describe_model(model, processor, rounded=False)  # of an index that was made before weights were rounded
    index._store.about["model"] = exact
    assert index._search_with(model, processor).model is model
    with pytest.raises(IndexMismatchError, match="another precision"):
        index._search_with(GLCCLModel.from_pretrained(checkpoint, dtype=torch.bfloat16), processor)


@pytest.mark.parametrize("mask_padding", [True, False])
def test_frames_that_are_the_same_are_encoded_once(checkpoint, mask_padding, monkeypatch):
    """Slides A B A B and a still that is one of them, with one padded frame: two frames, or three with the padding."""
    model, _ = load_checkpoint(checkpoint, mask_padding=mask_padding)
    slides = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pixels = torch.stack([slides[[0, 1, 0, 1]], torch.cat([slides[[1, 1, 1]], torch.zeros(1, 3, 16, 16)])])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    with torch.inference_mode():
        expected = model.get_video_features(pixels, mask)
    encoded, encode = [], model._encode_frames
    counting = lambda frames, **outputs: encoded.append(len(frames)) or encode(frames, **outputs)  # noqa: E731
    monkeypatch.setattr(model, "_encode_frames", counting)
    batch = [
        (ingest.Job(store.VideoRecord(str(row), "")), clips.Clip(0, 1, 1, times, pixels[row], mask[row]))
        for row, times in enumerate(mask.numpy())
    ]
    ingest._encode(batch, model)
    assert encoded == [2 if mask_padding else 3]
    assert model._encode_frames is counting
    for (job, _), frames, counted in zip(batch, expected.frames, expected.frame_mask, strict=True):
        (clip,) = job.record.clips
        torch.testing.assert_close(torch.tensor(clip.frames), frames[counted].half(), atol=2e-3, rtol=2e-3)


def test_long_videos_do_not_crowd_out_the_others(index, monkeypatch):
    monkeypatch.setattr(searcher, "EXHAUSTIVE_CLIPS", 100)
    monkeypatch.setattr(candidates, "SHORTLIST", 60)
    monkeypatch.setattr(candidates, "CANDIDATES", 20)
    index._store.commit(synthetic_records(3, clips=200))
    index._store.commit(synthetic_records(9, seed=1, name="short"))
    results = index.search(CAPTIONS[0], k=12)
    assert len({result.video_id for result in results}) == 12
    exact = {result.video_id: result.score for result in index.search(CAPTIONS[0], k=12, exhaustive=True)}
    for result in results:
        # of a film the best of five proposed clips counts
        tolerance = 1e-3 if result.video_id.startswith("short") else 2
        assert result.score == pytest.approx(exact[result.video_id], abs=tolerance)


def test_only_new_and_changed_videos_are_encoded(indexed, videos, monkeypatch):
    with monkeypatch.context() as context:
        forbid_encoding(indexed, context)
        assert update(indexed, videos) == {"unchanged": 5}
        os.utime(videos / "v1.mp4", (1, 1))  # touched: same content
        assert update(indexed, videos) == {"unchanged": 5}
    before = contents(indexed)
    write_video(videos / "v1.mp4", 40, fps=5)
    write_video(videos / "new.mkv", 9, fps=5)
    assert update(indexed, videos) == {"changed": 1, "added": 1, "unchanged": 4}
    after = contents(indexed)
    changed = str(videos / "v1.mp4")
    assert len(indexed) == 6
    assert after.keys() - before.keys() == {str(videos / "new.mkv")}
    assert after[changed][0][1] != before[changed][0][1]
    assert indexed.search(CAPTIONS[0], k=99)[0].score == indexed.search(CAPTIONS[0], k=99, exhaustive=True)[0].score


def test_a_long_run_keeps_its_lookups_fast_and_merges_its_files(index, videos, monkeypatch):
    monkeypatch.setattr(ingest, "_COMMIT_VIDEOS", 1)
    monkeypatch.setattr(ingest, "_INDEX_COMMITS", 2)
    monkeypatch.setattr(store, "_INDEXED_ROWS", 1)
    monkeypatch.setattr(store, "_FRAGMENTS", 4)
    fragments, indexed = [], []
    compact = store.Store.compact

    def noted_compact(self, **options):
        compact(self, **options)
        table = self.open_clips()
        fragments.append(table.stats()["fragment_stats"]["num_fragments"])
        indexed.append({column: found.num_indexed_rows for found in table.list_indices() for column in found.columns})

    monkeypatch.setattr(store.Store, "compact", noted_compact)
    reader = index.search_batch  # has read the clips of before
    assert reader(CAPTIONS)[0] == []
    assert update(index, videos) == {"added": 5}
    assert fragments == [2, 4, 1]  # in the middle of the run only the indexes are made
    assert indexed == [{"video_id": count, "video_key": count, "size": count} for count in (2, 4, 5)]
    assert update(index, videos) == {"unchanged": 5}
    assert [len(results) for results in reader(CAPTIONS)] == [5] * 4


def test_moved_and_copied_videos_are_recognised_by_content(indexed, videos, monkeypatch):
    before = contents(indexed)
    (videos / "v0.mp4").rename(videos / "more" / "renamed.mp4")
    shutil.copyfile(videos / "v1.mp4", videos / "copy.mp4")
    # Two that changed places, and two with the content of one that is gone.
    (videos / "v2.mp4").rename(videos / "between")
    (videos / "more" / "v3.mp4").rename(videos / "v2.mp4")
    (videos / "between").rename(videos / "more" / "v3.mp4")
    shutil.copyfile(videos / "more" / "v4.mp4", videos / "a.mp4")
    (videos / "more" / "v4.mp4").rename(videos / "b.mp4")
    forbid_encoding(indexed, monkeypatch)
    assert update(indexed, videos) == {"moved": 3, "copied": 3, "unchanged": 1}
    after = contents(indexed)
    sources = {"more/renamed.mp4": "v0.mp4", "copy.mp4": "v1.mp4", "v1.mp4": "v1.mp4", "v2.mp4": "more/v3.mp4"}
    sources |= {"more/v3.mp4": "v2.mp4", "a.mp4": "more/v4.mp4", "b.mp4": "more/v4.mp4"}
    assert after.keys() == {str(videos / name) for name in sources}
    for name, source in sources.items():
        assert torch.equal(after[str(videos / name)][0][-1], before[str(videos / source)][0][-1])
    assert len(indexed.search(CAPTIONS[0], k=99)) == len(indexed) == 7


def test_a_commit_killed_before_its_last_step_leaves_an_index_that_works(indexed, videos, monkeypatch):
    """A file takes over the name of another one, whose row has to go."""
    (videos / "v0.mp4").rename(videos / "v1.mp4")
    with monkeypatch.context() as context:
        open_clips = store.Store.open_clips

        def killed(store):
            table = open_clips(store)
            context.setattr(table, "delete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            return table

        context.setattr(store.Store, "open_clips", killed)
        with pytest.raises(KeyboardInterrupt):
            update(indexed, videos)
    assert None in contents(indexed)  # the row that was on its way out
    opened = VideoIndex.open(indexed.info()["path"], indexed.model, indexed.processor)
    (videos / "v2.mp4").unlink()
    assert update(opened, videos, remove_missing=True) == {"unchanged": 3, "removed": 1}
    assert len(opened.search(CAPTIONS[0])) == len(opened) == 3
    write_video(videos / "more" / "v4.mp4", 9, fps=5)
    (videos / "v1.mp4").rename(videos / "more" / "v3.mp4")
    assert update(opened, videos) == {"changed": 1, "moved": 1}
    assert None not in contents(opened)


def test_pipes_and_names_that_are_not_utf_8_are_recorded_and_the_rest_goes_on(index, videos):
    bad = os.fsdecode(os.fsencode(videos) + b"/caf\xe9.mp4")
    shutil.copyfile(videos / "v0.mp4", bad)
    os.mkfifo(videos / "pipe.mp4")
    (videos / "gone.mp4").symlink_to(videos / "nowhere")
    (videos / "folder.mp4").mkdir()
    shutil.copyfile(videos / "v1.mp4", videos / "._v1.mp4")
    for found in ({"added": 5, "failed": 3}, {"unchanged": 8}):
        assert update(index, videos, remove_missing=True) == found
        assert index.errors() == {
            f"{videos}/caf\\xe9.mp4": f"{videos}/caf\\xe9.mp4: its name is not UTF-8; rename it",
            f"{videos}/gone.mp4": f"{videos}/gone.mp4: is not a regular file but a broken link",
            f"{videos}/pipe.mp4": f"{videos}/pipe.mp4: is not a regular file",
        }
    os.rename(bad, videos / "café.mp4")
    assert update(index, videos, remove_missing=True) == {"copied": 1, "unchanged": 7, "removed": 1}
    assert counts(index.add([bad], progress=False)) == {"failed": 1}


def test_a_file_of_the_24th_century_stops_nothing(index, videos):
    """Its nanoseconds are more than an index can hold, which end in the year 2262."""
    os.utime(videos / "v1.mp4", (10_400_000_000, 10_400_000_000))
    assert index.update(videos).added == 5
    assert index.update(videos).unchanged == 5
    (result,) = index.search(CAPTIONS[0], ids=str(videos / "v1.mp4"))
    assert rendering.results_json([result])[0]["date"].startswith("2262-04-1")


def test_a_file_has_one_name_however_its_folder_is_written(index, videos, monkeypatch):
    monkeypatch.chdir(videos)
    assert index.update("../videos").added == 5
    assert index.update(f"more/../../{videos.name}").unchanged == 5
    assert index.add(["more/../v0.mp4"]).unchanged == 1
    assert len(index.search(CAPTIONS[0], folder="../videos/more")) == 2


def test_many_threads_load_the_model_once(shared, monkeypatch):
    opened, loads = VideoIndex.open(shared.path), []
    load = index_module.load_checkpoint

    def slow_load(*arguments, **options):
        loads.append(arguments)
        time.sleep(0.2)
        return load(*arguments, **options)

    monkeypatch.setattr(index_module, "load_checkpoint", slow_load)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(opened.search, CAPTIONS))
    assert len(loads) == 1
    assert [[result.path for result in results] for results in found] == [
        [result.path for result in results] for results in shared.search_batch(CAPTIONS)
    ]


def test_an_index_that_was_moved_while_it_is_open(indexed, videos, tmp_path):
    (tmp_path / "my.index").rename(tmp_path / "moved.index")
    for use in (lambda: indexed.search("a dog"), lambda: update(indexed, videos), lambda: indexed.remove("v0.mp4")):
        with pytest.raises(FileNotFoundError, match=r"my\.index: the index is no longer there"):
            use()
    assert not (tmp_path / "my.index").exists()
    assert len(VideoIndex.open(tmp_path / "moved.index")) == 5


@pytest.mark.parametrize("kept", ["nothing", "clips", "clips and half of about", "half of clips"])
def test_a_creation_that_was_cut_short_is_made_good(index, tmp_path, model, processor, videos, kept):
    """What a kill or a full disk leaves of a table that is being made: its folder without a finished version."""
    folder = tmp_path / "my.index"
    for table in ("about", "clips") if kept in ("nothing", "half of clips") else ("about",):
        shutil.rmtree(folder / f"{table}.lance")
    if "half" in kept:
        half = folder / f"{'about' if 'about' in kept else 'clips'}.lance" / "data"
        half.mkdir(parents=True)
        (half / "0.lance").write_bytes(b"half")
    with pytest.raises(FileNotFoundError, match="holds no index"):
        VideoIndex.open(folder)
    assert update(VideoIndex.create(folder, model, processor), videos) == {"added": 5}


def test_clips_whose_settings_are_lost_are_not_written_over(indexed, videos, tmp_path, model, processor):
    shutil.rmtree(tmp_path / "my.index" / "about.lance")
    with pytest.raises(ValueError, match="holds 5 clips"):
        VideoIndex.create(tmp_path / "my.index", model, processor)
    assert len(indexed) == 5


def test_videos_are_committed_after_a_while_however_few(index, monkeypatch):
    """A clock that moves on by 10 seconds a look: the bound of 30 is passed at every fourth video."""
    clock, commits = iter(range(0, 10_000, 10)), []
    commit = store.Store.commit
    monkeypatch.setattr(ingest, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(
        store.Store, "commit", lambda store, records: commits.append(len(records)) or commit(store, records)
    )
    jobs = [ingest.Job(record) for record in synthetic_records(10)]
    ingest.ingest(index._store, iter(jobs), iter, 10, Counter(), progress=False)
    assert commits == [4, 4, 2]
    assert len(index) == 10


def test_what_cannot_be_is_refused(index, library, tmp_path, model, processor):
    folder, new = tmp_path / "folder", partial(VideoIndex.create, tmp_path / "new.index")
    folder.mkdir()
    for error, problem, call in (
        (ValueError, "is empty", lambda: index.search("  ")),
        (ValueError, "2,001 characters; at most 2,000", lambda: index.search("a" * 2001)),
        (ValueError, "k=0", lambda: index.search("a dog", k=0)),
        (ValueError, "is a folder", lambda: index.add(library)),
        (ValueError, "num_workers=0 .*must be 1 or more", lambda: index.update(library, num_workers=0)),
        (ValueError, "batch_size=0 .*must be 1 or more", lambda: index.update(library, batch_size=0)),
        (ValueError, "0 < stride <= length", lambda: new(model, processor, clip_length=10, clip_stride=0)),
        (ValueError, "0 < stride <= length", lambda: new(model, processor, clip_length=10, clip_stride=11)),
        (ValueError, "0 < stride <= length", lambda: new(model, processor, clip_length=-1, clip_stride=-2)),
        (ValueError, "GLCCL's interaction, and XCLIPModel has another", lambda: new(peer_model("xclip"), processor)),
        (ValueError, "both model and processor", lambda: VideoIndex.open(index.path, model)),
        (FileNotFoundError, "no such index", lambda: VideoIndex.open(tmp_path / "none")),
        (FileNotFoundError, "holds no index", lambda: VideoIndex.open(folder)),
        (FileExistsError, "there is an index already", lambda: VideoIndex.create(index.path, model, processor)),
    ):
        with pytest.raises(error, match=problem):
            call()
    assert not (tmp_path / "new.index").exists()
    assert index.search("a dog") == []


def test_removed_files_are_dropped_on_request_unless_all_are_gone(indexed, videos):
    (videos / "v0.mp4").unlink()
    assert update(indexed, videos) == {"unchanged": 4}
    assert len(indexed) == 5
    assert update(indexed, videos, remove_missing=True) == {"unchanged": 4, "removed": 1}
    assert len(indexed.search(CAPTIONS[0])) == len(indexed) == 4
    assert indexed.remove([str(videos / "v1.mp4"), "unknown"]) == 1
    assert len(indexed.search(CAPTIONS[0])) == len(indexed) == 3
    shutil.rmtree(videos)
    videos.mkdir()
    with pytest.raises(ValueError, match="no videos there"):
        indexed.update(videos, remove_missing=True, progress=False)
    assert len(indexed) == 3


def test_files_are_hashed_when_their_turn_comes(index, videos, monkeypatch):
    """Neither the first decoding nor the caller ever waits for the content of other files."""
    steps = []

    def noting(step, function):
        def noted(*arguments):
            assert threading.current_thread() is not threading.main_thread()
            steps.append(step)
            return function(*arguments)

        return noted

    monkeypatch.setattr(ingest.hashlib, "file_digest", noting("hash", hashlib.file_digest))
    monkeypatch.setattr(ingest, "read_clips", noting("decode", ingest.read_clips))
    assert update(index, videos) == {"added": 5}
    assert steps == ["hash", "decode"] * 5


def test_content_that_another_process_dropped_meanwhile_is_encoded(indexed, videos, monkeypatch):
    (videos / "v0.mp4").rename(videos / "renamed.mp4")
    monkeypatch.setattr(store.Store, "read", lambda *_: None)
    assert update(indexed, videos) == {"added": 1, "unchanged": 4}
    assert len(indexed) == 6


def test_a_model_that_moved_is_told_to_the_index(index, videos, tmp_path, checkpoint):
    """The message says what to do, and once it is done the index knows the new place."""
    old, new, path = tmp_path / "old", tmp_path / "new", tmp_path / "own.index"
    shutil.copytree(checkpoint, old)
    found = VideoIndex.create(path, *load_checkpoint(old))
    update(found, videos)
    old.rename(new)
    opened = VideoIndex.open(path)
    assert len(opened) == 5
    with pytest.raises(FileNotFoundError, match=f"{old}: no such folder.* glccl index .* --model WHERE_IT_IS"):
        opened.search("a dog")
    assert main(["index", str(videos), "--index", str(path), "--model", str(new)]) == 0
    assert VideoIndex.open(path).search("a dog") == found.search("a dog")
    assert VideoIndex.open(path).info()["checkpoint"] == str(new)


def test_clips_that_do_not_decode_are_listed_and_retried(index_of_clips, long_video, monkeypatch):
    index, path = index_of_clips, long_video
    read = GLCCLVideoProcessor.windows

    def damaged(self, video, windows):
        for window, batch in zip(windows, read(self, video, windows), strict=True):
            yield VideoDecodeError("damaged") if window[0] == 6 else batch
        if len(windows) > 1:
            raise VideoDecodeError("changed")

    with monkeypatch.context() as context:
        context.setattr(GLCCLVideoProcessor, "windows", damaged)
        assert counts(index.add(path, progress=False)) == {"added": 1}
    assert index.errors() == {str(path): "6.0-16.0 s: damaged; changed"}
    assert len(contents(index)[str(path)]) == 3
    assert counts(index.add(path, progress=False)) == {"unchanged": 1}
    assert counts(index.add(path, progress=False, retry_failed=True)) == {"added": 1}
    assert index.errors() == {}
    assert len(contents(index)[str(path)]) == 4


def test_own_ids_and_single_files(index, videos):
    assert counts(index.add({"first": videos / "v0.mp4", "it's": videos / "v1.mp4"}, progress=False)) == {"added": 2}
    assert counts(index.add(videos / "more" / "v3.mp4", progress=False)) == {"added": 1}
    assert {result.video_id for result in index.search("a dog")} == {"first", "it's", str(videos / "more" / "v3.mp4")}
    assert index.remove("it's") == 1


def test_unreadable_videos_are_recorded_and_stop_nothing(index, videos):
    (videos / "empty.mp4").write_bytes(b"")
    content = (videos / "v2.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(content[: len(content) // 2])
    assert update(index, videos) == {"added": 5, "failed": 2}
    errors = index.errors()
    assert "is empty (0 bytes)" in errors[str(videos / "empty.mp4")]
    assert "moov" in errors[str(videos / "cut.mp4")]
    assert len(index) == len(index.search("a dog", k=99)) == 5
    assert index.info()["failed"] == 2
    assert update(index, videos) == {"unchanged": 7}
    assert update(index, videos, retry_failed=True) == {"unchanged": 5, "failed": 2}
    (videos / "cut.mp4").write_bytes(content + b"now whole")
    assert update(index, videos) == {"changed": 1, "unchanged": 6}
    assert set(index.errors()) == {str(videos / "empty.mp4")}
    (videos / "v0.mp4").write_bytes(b"was a video")
    assert update(index, videos) == {"failed": 1, "unchanged": 6}
    assert len(index) == len(index.search("a dog", k=99)) == 5
    assert counts(index.add([videos / "none.mp4"], progress=False)) == {"failed": 1}
    assert "No such file" in index.errors()[str(videos / "none.mp4")]


def test_videos_that_the_model_cannot_encode_do_not_stop_the_others(index, videos, monkeypatch):
    encode = index.model.get_video_features

    def failing(pixels, mask):
        if (mask.sum(dim=1) == 2).any():  # v0 is the only one of two frames
            raise ValueError("frame features are not finite")
        return encode(pixels, mask)

    monkeypatch.setattr(index.model, "get_video_features", failing)
    assert update(index, videos) == {"added": 4, "failed": 1}
    assert "not finite" in index.errors()[str(videos / "v0.mp4")]


def test_long_videos_are_cut_into_overlapping_clips(index_of_clips, long_video, model, processor):
    index, path = index_of_clips, long_video
    index.add(path, progress=False)
    stored = contents(index)[str(path)]
    assert [(clip[3], clip[4]) for _, clip in sorted(stored.items())] == [(0, 10), (6, 16), (12, 22), (18, 26)]
    logits = {}
    with torch.inference_mode():
        for clip in stored.values():
            end = clip[4] if clip[4] < 26 else None
            frames = model.get_video_features(**processor(videos=[str(path)], start=clip[3], end=end)).frames
            torch.testing.assert_close(clip[5].view(4, 32), frames[0], atol=0.02, rtol=0.01)
            inputs = processor(text=CAPTIONS[:1], videos=[str(path)], start=clip[3], end=end)
            logits[clip[3], clip[4]] = model(**inputs).logits_per_text.item()
    (result,) = index.search(CAPTIONS[0], moments=True)
    assert (len(index), index.info()["clips"]) == (1, 4)
    assert (result.start, result.end) == max(logits, key=logits.get)
    assert result.score == pytest.approx(max(logits.values()), abs=0.05)
    assert result.start <= result.moment.start < result.moment.end <= result.end
    assert result.start <= result.frame_times.min() < result.frame_times.max() < result.end  # seconds in the video
    assert result.duration == pytest.approx(26)
    index.add(write_video(path, 60, fps=5), progress=False)  # 12 seconds: two clips are left
    assert len(contents(index)[str(path)]) == 2


def test_the_last_clip_reads_to_the_end_of_the_file(long_video, processor, monkeypatch):
    """The end that is known of a file is rounded, or declared too early; what comes after it belongs to the clip."""
    spans, read = [], GLCCLVideoProcessor.windows

    def noting(self, video, windows):
        spans.extend(windows)
        return read(self, video, windows)

    monkeypatch.setattr(GLCCLVideoProcessor, "windows", noting)
    found = clips.read_clips(str(long_video), processor, clips.ClipSettings(10, 6), [])
    assert [(clip.start, clip.end) for clip in found] == [(0, 10), (6, 16), (12, 22), (18, 26)]
    assert spans == [(0, 10), (6, 16), (12, 22), (18, None)]


def test_another_model_is_refused_with_the_reason(shared, model, processor, checkpoint):
    path = shared.path
    other = GLCCLModel.from_pretrained(checkpoint)
    with torch.no_grad():
        other.temporal.position_embedding.weight[0, 0] += 1
    with pytest.raises(IndexMismatchError, match="weights are others"):
        VideoIndex.open(path, other, processor)
    more_frames = GLCCLProcessor.from_pretrained(checkpoint)
    more_frames.video_processor.max_frames = 6
    with pytest.raises(IndexMismatchError, match="max_frames is 6 instead of 4"):
        VideoIndex.open(path, model, more_frames)
    other_loss = GLCCLModel.from_pretrained(checkpoint, csc_weight=0.0, csc_variant="hard")
    assert len(VideoIndex.open(path, other_loss, processor)) == 5


def test_moments_follow_the_frame_weights(shared, model, processor):
    for result in shared.search(CAPTIONS[1], moments=True):
        with torch.inference_mode():
            text = model.get_text_features(**processor(text=CAPTIONS[1]))
            video = model.get_video_features(**processor(videos=[result.path]))
            weights = model.frame_weights(text, video)
        seen = len(result.frame_times)
        for stored, expected in (
            (result.frame_weights, weights.sentence[0, 0, :seen]),
            (result.word_weights, weights.words[0, 0, :, :seen]),
        ):
            torch.testing.assert_close(torch.tensor(stored), expected, atol=0.01, rtol=0.01)
        assert result.moment.start <= result.moment.peak <= result.moment.end
        assert result.moment.peak in result.frame_times


def test_one_frame_logits_are_those_of_videos_of_one_frame(model):
    text, video = random_features([3, 7, 5], [1] * 6)
    pooled = normalize(video.frames[:, 0], dim=-1)  # of the only frame
    for i, row in enumerate(model.similarity(text, video)):
        one = GLCCLTextFeatures(*(values[i : i + 1] for values in text.to_tuple()))
        torch.testing.assert_close(one_frame_logits(model, one, pooled), row, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("condition", ["", "mtime_ns >= 0", "video_id LIKE 'video1_'"])
def test_the_scan_of_vectors_in_memory_is_that_of_the_stored_ones(index, condition):
    index._store.commit(synthetic_records(100))
    query = Query(encode_queries(index.model, index.processor, CAPTIONS[:1]))
    rows = list(index._store.rows(["video_key", "pooled"], condition or "true"))
    with torch.inference_mode():
        vector = proxy_vectors(index.model, query.parts[0])[0]
        expected = {row["video_key"]: float(torch.tensor(row["pooled"]).float() @ vector) for row in rows}
    snapshot = index._load().snapshot()
    found = (snapshot.filtered(condition) if condition else snapshot).nearest(index.model, query, 100)
    assert dict(zip(found[1].tolist(), found[2].tolist(), strict=True)) == pytest.approx(expected, abs=0.01)


def test_what_is_in_memory_is_one_piece_from_which_rows_are_taken_at_once(index, monkeypatch):
    monkeypatch.setattr(candidates, "_MANY_ROWS", 2)
    index._store.commit(synthetic_records(6))
    snapshot = index._load().snapshot()
    paths = snapshot.held["path"]
    assert (len(paths), paths.num_chunks, paths.type) == (6, 1, "large_string")  # of others 2 GB cannot be taken from
    rows = snapshot.take(torch.tensor([5, 0]).numpy(), ["path", "num_frames"])
    assert rows["path"].to_pylist() == [paths[5].as_py(), paths[0].as_py()]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_frames_that_cancel_each_other_spoil_no_search(index, monkeypatch):
    monkeypatch.setattr(searcher, "EXHAUSTIVE_CLIPS", 0)
    records = synthetic_records(3, frames=2)
    for record in records:
        record.clips[0].frames[1] = -record.clips[0].frames[0]
    index._store.commit(records)
    assert {result.video_id for result in index.search(CAPTIONS[0])} == {"video0", "video1", "video2"}


@pytest.mark.parametrize("width", [4, 33, 100])
def test_the_scan_in_memory_takes_vectors_of_any_width(index, width, monkeypatch):
    monkeypatch.setitem(index._store.about, "width", width)
    path = Path(index.path).with_name("other.index")
    other = store.Store.create(path, index._store.about)
    other.commit(synthetic_records(50, width=width))
    snapshot = candidates.Snapshot(other.open_clips(), width)
    stored = torch.from_numpy(snapshot.pooled[:, :width] * snapshot.scales[:, None])
    torch.testing.assert_close(snapshot.vectors()[1].float(), stored, atol=1e-3, rtol=0)
    vector = torch.randn(1, 2 * width).bfloat16()[:, :width]  # what follows it in memory shall not be read
    monkeypatch.setattr(candidates, "proxy_vectors", lambda model, part: vector)
    monkeypatch.setattr(candidates, "one_frame_logits", lambda model, part, pooled: (pooled @ vector.float().T)[:, 0])
    found = snapshot.nearest(index.model, Query(encode_queries(index.model, index.processor, CAPTIONS[:1])), 50)
    expected = (stored @ vector.float().T)[:, 0]
    torch.testing.assert_close(torch.from_numpy(found[2]), expected, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("guided", [(True, True), (False, True), (True, False)])
def test_exact_logits_are_those_of_the_model(model, monkeypatch, guided):
    monkeypatch.setattr(model.interaction.config, "glim_global", guided[0])
    monkeypatch.setattr(model.interaction.config, "glim_local", guided[1])
    text, video = random_features([3, 7, 5], [4, 1, 3, 2])
    lengths = video.frame_mask.sum(dim=1).numpy()
    frames = video.frames.float().numpy()
    alone = [prepare_text(model, text.select([row]).trim()) for row in range(3)]
    found = torch.stack([exact_logits(model, one, frames, lengths) for one in alone])
    torch.testing.assert_close(found, model.similarity(text, video), atol=1e-4, rtol=1e-4)
