"""Cached frames give the batches that decoding the videos every time gives, and are never stale or half-written."""

import json
import os
import pickle
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from launched import CONTEXT
from torch.utils.data import DataLoader
from videos import write_video

from modeling_glccl import GLCCLVideoProcessor
from modeling_glccl import video_processing_glccl as video_processing
from modeling_glccl.data import frame_cache
from modeling_glccl.data.frame_cache import with_frame_cache
from modeling_glccl.video_streams_glccl import VideoDecodeError

PROCESSOR = GLCCLVideoProcessor(size=32, crop_size=32, max_frames=4)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Paths of five videos of different length; the last has fewer frames than are taken."""
    folder = tmp_path_factory.mktemp("videos")
    return [str(write_video(folder / f"{n}.mp4", n)) for n in (40, 30, 20, 10, 3)]


@pytest.fixture
def decoded(monkeypatch):
    """The sources that are decoded in this process, as they are decoded."""
    sources, decode_video = [], video_processing.decode_video

    def spy(source, *args, **kwargs):
        sources.append(source)
        return decode_video(source, *args, **kwargs)

    monkeypatch.setattr(video_processing, "decode_video", spy)
    return sources


def cache(rows, folder, processor=PROCESSOR, **options):
    return with_frame_cache(rows, processor, folder, **{"format": "raw", "progress": False, **options})


def dataset(paths, **columns):
    return Dataset.from_dict({"video": paths, "caption": [f"caption {i}" for i in range(len(paths))], **columns})


def batch_by_decoding(rows, processor=PROCESSOR):
    """The naive twin: decodes every row."""
    windows = {name: [row.get(name) for row in rows] for name in ("start", "end")}
    return processor([row["video"] for row in rows], **windows)


def assert_equal_batches(cached, rows, processor=PROCESSOR):
    batch = processor([row["video"] for row in cached])
    expected = batch_by_decoding(rows, processor)
    assert batch.keys() == expected.keys()
    for name in batch:
        assert torch.equal(batch[name], expected[name]), name


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 32, "crop_size": 32},
        {"size": 37, "crop_size": 32},
        {"size": 32, "crop_size": 31, "keep_aspect_ratio": False, "resample": 2},
        {"size": 40, "crop_size": 37, "sampling": "release"},
        {"size": 32, "crop_size": 32, "pad_to_max_frames": True, "image_mean": [0.1, 0.2, 0.3]},
    ],
)
def test_raw_frames_equal_decoding_bit_by_bit(tmp_path, videos, settings):
    processor = GLCCLVideoProcessor(max_frames=4, **settings)
    whole = [None] * len(videos)
    rows = dataset([*videos, videos[0], videos[0]], start=[*whole, 0.0, 0.4], end=[*whole, 0.5, 1.2])
    cached = cache(rows, tmp_path, processor)
    assert cached.column_names == ["caption", "video"]
    assert_equal_batches(cached, rows, processor)


@pytest.mark.parametrize("real", [False, True])
def test_jpeg_is_within_the_documented_error(tmp_path, videos, real, request):
    if real:
        folder = request.getfixturevalue("reference_dir") / "data" / "videos"
        videos = sorted(map(str, folder.glob("*.mp4")))[:4]
    side = 224 if real else 32
    processor = GLCCLVideoProcessor(side, side, image_mean=[0.0] * 3, image_std=[1 / 255] * 3, max_frames=4)
    rows = dataset(videos)
    batch = processor(with_frame_cache(rows, processor, tmp_path, progress=False)[:]["video"])
    expected = batch_by_decoding(rows, processor)
    assert torch.equal(batch["padding_mask_videos"], expected["padding_mask_videos"])
    error = (batch["pixel_values_videos"] - expected["pixel_values_videos"]).abs()
    assert 0 < error.mean() < (1.2 if real else 1.5)
    assert error.max() < 24 or not real


def test_each_video_is_decoded_once_for_all_its_captions_and_never_again(tmp_path, videos, decoded):
    rows = dataset([videos[1], videos[0], videos[1], videos[0]])
    cached = cache(rows, tmp_path)
    assert decoded == [videos[1], videos[0]]
    decoded.clear()
    again = cache(rows, tmp_path)
    for epoch in range(2):
        for part in (cached, again):
            list(part.shuffle(seed=epoch))
    assert decoded == []
    assert_equal_batches(again, rows)


def test_a_changed_file_is_decoded_anew(tmp_path, videos, decoded):
    paths = [str(write_video(tmp_path / f"{name}.mp4", 20)) for name in "ab"]
    before = cache(dataset(paths), tmp_path / "cache")[1]
    status = os.stat(paths[1])
    write_video(tmp_path / "b.mp4", 20, options={"preset": "fast", "qp": "45"})
    os.utime(paths[1], ns=(status.st_atime_ns, status.st_mtime_ns))  # the size alone tells
    decoded.clear()
    rows = dataset(paths)
    cached = cache(rows, tmp_path / "cache")
    assert decoded == [paths[1]]
    assert_equal_batches(cached, rows)
    assert not torch.equal(
        PROCESSOR(before["video"])["pixel_values_videos"], batch_by_decoding([rows[1]])["pixel_values_videos"]
    )

    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # as the time alone does
    decoded.clear()
    cache(rows, tmp_path / "cache")
    assert decoded == [paths[0]]


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({"size": 33}, True),
        ({"crop_size": 30}, True),
        ({"max_frames": 3}, True),
        ({"sampling": "release"}, True),
        ({"keep_aspect_ratio": False}, True),
        ({"resample": 2}, True),
        ({"image_mean": [0.0, 0.0, 0.0]}, False),
        ({"image_std": [1.0, 1.0, 1.0]}, False),
        ({"pad_to_max_frames": True}, False),
        ({"num_threads": 2}, False),
    ],
)
def test_settings_that_change_pixels_decode_anew(tmp_path, videos, decoded, change, anew):
    rows = dataset(videos[:1])
    cache(rows, tmp_path)
    decoded.clear()
    changed = GLCCLVideoProcessor(**{"size": 32, "crop_size": 32, "max_frames": 4} | change)
    cached = cache(rows, tmp_path, changed)
    assert len(decoded) == anew
    assert_equal_batches(cached, rows, changed)


def test_formats_and_settings_lie_apart_and_are_described(tmp_path, videos, decoded):
    for format in ("raw", "jpeg"):
        with_frame_cache(dataset(videos[:1]), PROCESSOR, tmp_path, format=format, progress=False)
    assert len(decoded) == 2
    settings = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*/settings.json"))]
    assert [s["image"]["format"] for s in settings] == ["JPEG", "PPM"]
    assert settings[0]["max_frames"] == 4


def build_and_die(rows, cache_dir, after):
    """Fills a cache, and is killed while it decodes video number `after`."""
    decode_video = video_processing.decode_video
    count = iter(range(len(rows)))

    def deadly(*args, **kwargs):
        if next(count) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode_video(*args, **kwargs)

    video_processing.decode_video = deadly
    cache(rows, cache_dir)


def test_a_killed_build_keeps_what_is_whole_and_the_next_goes_on(tmp_path, videos, decoded):
    rows = dataset(videos)
    process = CONTEXT.Process(target=build_and_die, args=(rows, tmp_path, 3))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.glob("*/*.raw"))) == 3

    cached = cache(rows, tmp_path)
    assert decoded == videos[3:]
    assert_equal_batches(cached, rows)


def test_videos_that_cannot_be_decoded_are_all_named_and_the_others_kept(tmp_path, videos, decoded):
    for name in ("empty", "text"):
        (tmp_path / f"{name}.mp4").write_text("" if name == "empty" else "not a video" * 20)
    bad = [str(tmp_path / "empty.mp4"), str(tmp_path / "text.mp4")]
    rows = dataset([videos[0], bad[0], videos[1], bad[1]])
    with pytest.raises(VideoDecodeError, match="2 of 4 new videos") as error:
        cache(rows, tmp_path / "cache")
    assert f"row 1: {bad[0]}: is empty" in str(error.value)
    assert f"row 3: {bad[1]}: is not a video" in str(error.value)
    decoded.clear()
    good = rows.select([0, 2])
    assert_equal_batches(cache(good, tmp_path / "cache"), good)
    assert not set(decoded[:-2])  # the last two are the twin's


@pytest.mark.usefixtures("quick_pool")
@pytest.mark.parametrize("num_proc", [1, 2])
def test_filling_gives_the_same_and_draws_from_no_global_generator(tmp_path, videos, decoded, num_proc):
    """So a run that fills the cache sees the losses of one that finds it full."""

    def states():
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

    broken = tmp_path / "no video.mp4"
    broken.write_bytes(b"\0" * 99)
    rows, before = dataset([*videos, str(broken)]), states()
    with pytest.raises(VideoDecodeError, match=r"row 5: .*no video"):
        cache(rows, tmp_path, num_proc=num_proc)
    assert len(decoded) == (6 if num_proc == 1 else 0)  # else not in this process
    decoded.clear()
    rows = dataset(videos)
    cached = cache(rows, tmp_path)
    assert decoded == []
    assert states() == before
    assert_equal_batches(cached, rows)


@pytest.mark.parametrize("shares", [[(0, 1), (0, 1)], [(0, 2), (1, 2)], [(0, 3), (1, 3), (2, 3)]])
def test_processes_and_runs_that_fill_a_cache_together_decode_each_video_once(tmp_path, videos, decoded, shares):
    rows = dataset([*videos, videos[0]])

    def fill(share):
        return cache(rows, tmp_path, process_index=share[0], num_processes=share[1])

    with ThreadPoolExecutor(len(shares)) as threads:
        parts = list(threads.map(fill, shares))
    assert sorted(decoded) == sorted(videos)
    for cached in parts:
        assert_equal_batches(cached, rows)


def test_what_another_process_never_writes_is_decoded_here(tmp_path, videos, decoded):
    rows = dataset(videos)
    cached = cache(rows, tmp_path, process_index=1, num_processes=2)
    assert decoded == [*videos[1::2], *videos[::2]], "its own part first"
    assert_equal_batches(cached, rows)


def test_embedded_videos_are_known_by_their_content(tmp_path, videos, decoded):
    contents = [Path(path).read_bytes() for path in videos[:2]]
    rows = Dataset.from_dict({"video": [{"path": "a.mp4", "bytes": content} for content in contents]})
    cached = cache(rows, tmp_path)
    assert_equal_batches(cached, rows)
    decoded.clear()
    swapped = cache(rows.select([1, 0]), tmp_path)
    assert decoded == []
    assert_equal_batches(swapped, rows.select([1, 0]))


def test_rows_are_read_in_any_order_by_any_process(tmp_path, videos):
    rows = dataset(videos)
    cached = cache(rows, tmp_path)
    cached = pickle.loads(pickle.dumps(cached))
    order = [3, 0, 4, 1]
    loader = DataLoader(
        cached.select(order), 2, collate_fn=lambda part: PROCESSOR([row["video"] for row in part]), num_workers=2
    )
    for start, batch in zip((0, 2), loader, strict=True):
        expected = batch_by_decoding([rows[i] for i in order[start : start + 2]])
        assert torch.equal(batch["pixel_values_videos"], expected["pixel_values_videos"])


def test_other_columns_are_read_without_frames(tmp_path, videos, monkeypatch):
    rows = dataset(videos)
    cached = cache(rows, tmp_path)
    monkeypatch.setattr(frame_cache.Image, "open", lambda path: pytest.fail("frames were read"))
    assert list(cached["caption"]) == rows["caption"]
    assert np.array_equal(cached.select_columns("caption")[:]["caption"], rows[:]["caption"])


def test_arguments_that_make_no_sense_are_refused(tmp_path, videos):
    with pytest.raises(ValueError, match="'png' is unknown; use 'jpeg' or 'raw'"):
        with_frame_cache(dataset(videos), PROCESSOR, tmp_path, format="png")
    with pytest.raises(ValueError, match=r"2048 frames of 32 pixels do not fit a JPEG: format='raw'"):
        with_frame_cache(dataset(videos), GLCCLVideoProcessor(32, 32, max_frames=2048), tmp_path)
    with pytest.raises(ValueError, match=r"no column 'video'; its columns are \['caption'\]"):
        with_frame_cache(dataset(videos).remove_columns("video"), PROCESSOR, tmp_path)
    with pytest.raises(TypeError, match="must hold paths or bytes, got int"):
        with_frame_cache(Dataset.from_dict({"video": [1]}), PROCESSOR, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4"):
        with_frame_cache(dataset([str(tmp_path / "absent.mp4")]), PROCESSOR, tmp_path)
