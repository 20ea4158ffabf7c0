"""Clips that begin where a shot begins."""

import json
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from videos import write_video

from modeling_glccl.cli import main
from modeling_glccl.search import VideoIndex
from modeling_glccl.search.clips import ClipSettings, read_clips
from modeling_glccl.search.shots import FrameChanges, find_cuts
from modeling_glccl.video_decoding_glccl import MAX_PACKETS, decode_video

BLACK = np.zeros((48, 64, 3), np.uint8)


def shot(seed: int, frames: int) -> Iterator[np.ndarray]:
    """A random picture over which another one moves; uint8 [48, 64, 3] frames."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 226, (6, 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    for number in range(frames):
        picture = coarse.copy()
        picture[16:32, number % 48 : number % 48 + 16] = rng.integers(0, 256, 3)
        yield picture


def write_frames(path: Path, frames, fps: Fraction | int = 10, codec: str = "libx264") -> str:
    return str(write_video(path, frames, fps, codec, options={"b": "2M"}))


def cuts_of(path: str) -> list[int]:
    return find_cuts(decode_video(path, MAX_PACKETS, transform=FrameChanges()).frames).tolist()


def joined(*lengths: int) -> list[np.ndarray]:
    return [frame for seed, frames in enumerate(lengths) for frame in shot(seed, frames)]


FORMATS = [("a.mp4", "libx264", 25), ("a.mkv", "libx265", Fraction(24000, 1001)), ("a.avi", "mpeg4", 12)]
FORMATS += [("a.mpg", "mpeg2video", 25), ("a.webm", "libvpx-vp9", 60), ("a.avi", "mjpeg", 5)]


@pytest.mark.parametrize(("name", "codec", "fps"), FORMATS)
def test_hard_cuts_are_found_to_the_frame(tmp_path, name, codec, fps):
    assert cuts_of(write_frames(tmp_path / name, joined(40, 25, 60, 13), fps, codec)) == [40, 65, 125]


def test_what_is_no_cut(tmp_path):
    still = [next(shot(0, 1))] * 60
    panned = np.concatenate([next(shot(seed, 1)) for seed in range(3)], axis=1)
    pan = [panned[:, 2 * i : 2 * i + 64] for i in range(60)]
    fade = [(frame * (1 - i / 60)).astype(np.uint8) for i, frame in enumerate(shot(0, 60))]
    flash = [*shot(0, 30), *[np.full_like(BLACK, 255)] * 3, *list(shot(0, 60))[30:]]
    noise = list(np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), np.uint8))
    for name, frames in {"still": still, "pan": pan, "fade": fade, "flash": flash, "noise": noise}.items():
        assert cuts_of(write_frames(tmp_path / f"{name}.mp4", frames)) == [], name
    assert cuts_of(write_frames(tmp_path / "one.mp4", still[:1])) == []


def test_black_between_two_shots_is_a_shot(tmp_path):
    frames = [*shot(0, 30), *[BLACK] * 20, *shot(0, 30)]
    assert cuts_of(write_frames(tmp_path / "black.mp4", frames)) == [30, 50]


def test_the_detector_is_what_it_says():
    """A naive twin on random changes."""
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 40, 300):
        changes = (rng.exponential(8, (count, 2)) * rng.choice([1, 8], (count, 2), p=[0.9, 0.1])).astype(np.float32)
        changes[:, 1] += 10
        expected = []
        for i in range(1, count):
            mirrored = [*changes[::-1, 0], *changes[:, 0], *changes[::-1, 0]]
            around = [mirrored[count + i + k] for k in range(-8, 9) if k and 0 <= count + i + k < 3 * count]
            lasts = all(changes[min(j, count - 1), 1] >= 10 for j in range(i, i + 8))
            if len(around) == 16 and changes[i, 0] >= 10 and changes[i, 0] >= 3 * np.mean(around) and lasts:
                expected.append(i)
        found = find_cuts(changes).tolist()
        assert found == expected if count > 8 else set(found) <= set(range(1, count))


def test_shots_that_are_too_short_are_joined_and_long_ones_cut():
    settings = ClipSettings(length=10, stride=6, kind="shots")
    times = np.arange(400) / 10
    cuts = [0.5, 3.0, 3.5, 4.0, 8.0, 9.0, 25.0, 39.5]
    expected = [(0, 3), (3, 8), (8, 18), (14, 24), (20, 25), (25, 35), (31, 40)]
    assert settings.windows(times, 40.0, cuts) == expected
    assert settings.windows(times, 40.0) == ClipSettings(10, 6).windows(times, 40.0)
    # A hole in the middle of a shot is passed over; no frame is lost.
    times = np.concatenate([np.arange(50) / 10, 600 + np.arange(50) / 10])
    windows = settings.windows(times, 605.0, [2.0, 602.0])
    assert windows[0] == (0.0, 2.0)
    assert windows[-1] == (602.0, 605.0)
    assert len(windows) < 6
    for begun in times:
        assert any(start <= begun < end for start, end in windows)


def test_an_index_of_shots(tmp_path, model, processor):
    index = VideoIndex.create(tmp_path / "my.index", model, processor, clip_length=10, clip_stride=6, clips="shots")
    path = write_frames(tmp_path / "long.mp4", joined(40, 60, 10, 30, 160))
    index.add({"long": path, "short": write_frames(tmp_path / "short.mp4", joined(50, 40))}, progress=False)
    columns = ["clip", "start", "end"]
    rows = sorted(index._store.rows(columns, "video_id = 'long'"), key=lambda row: row["clip"])
    assert [(row["start"], row["end"]) for row in rows] == [(0, 4), (4, 10), (10, 14), (14, 24), (20, 30)]
    assert [row["end"] for row in index._store.rows(columns, "video_id = 'short'")] == [9]
    # The features of a shot are those of the span.
    whole = processor(videos=[path], start=4.0, end=10.0, pad_to_max_frames=True)
    stored = index._store.read("long", next(index._store.videos(["sha256"], "video_id = 'long'"))["sha256"])
    expected = model.get_video_features(whole["pixel_values_videos"], whole["padding_mask_videos"])
    assert stored is not None
    np.testing.assert_allclose(stored.clips[1].frames, expected.frames[0].detach().numpy(), atol=2e-3)
    opened = VideoIndex.open(tmp_path / "my.index", model, processor)
    assert opened.info()["clip_kind"] == "shots"
    assert opened.add({"long": path}, progress=False).unchanged == 1


def test_shots_of_a_damaged_video(tmp_path, processor):
    path = Path(write_frames(tmp_path / "a.ts", joined(60, 60, 60), codec="mpeg2video"))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="damaged"):
        found = list(read_clips(str(path), processor, ClipSettings(10, 6, "shots"), errors := []))
    assert not errors
    assert found[0].end == pytest.approx(6, abs=0.01)
    assert found[-1].start == pytest.approx(12, abs=0.5)


@pytest.mark.parametrize(
    ("kind", "spans"), [("fixed", [(0, 10), (6, 16), (12, 18)]), ("shots", [(0, 6), (6, 12), (12, 18)])]
)
def test_clips_that_another_process_decodes_are_the_same(tmp_path, processor, monkeypatch, kind, spans):
    path = write_frames(tmp_path / "a.mp4", joined(60, 60, 60))
    settings = ClipSettings(10, 6, kind)
    expected = list(read_clips(path, processor, settings, []))
    assert [(clip.start, clip.end) for clip in expected] == spans
    monkeypatch.setattr(processor.video_processor, "deadline", time.monotonic() + 300)
    monkeypatch.setattr("av.open", lambda *_, **__: pytest.fail("this process opens a video"))
    for clip, wanted in zip(read_clips(path, processor, settings, []), expected, strict=True):
        assert (clip.start, clip.end, clip.duration) == (wanted.start, wanted.end, wanted.duration)
        assert clip.pixels.equal(wanted.pixels)
        assert clip.times.tolist() == wanted.times.tolist()


def test_what_the_clips_are_belongs_to_the_index(tmp_path, model, processor, checkpoint, capsys):
    with pytest.raises(ValueError, match="clips='scenes' is unknown; use 'fixed' or 'shots'"):
        VideoIndex.create(tmp_path / "none.index", model, processor, clips="scenes")
    video, path = write_frames(tmp_path / "a.mp4", joined(30)), str(tmp_path / "my.index")
    assert main(["index", video, "--index", path, "--model", str(checkpoint), "--clips", "shots"]) == 0
    assert main(["index", video, "--index", path, "--clips", "fixed"]) == 1
    assert "--clips fixed: " in (said := capsys.readouterr().err)
    assert "was made with shots; leave it out, or make another index" in said


def test_an_older_index_has_fixed_clips(index, model, processor):
    path, about = index.info()["path"], {**index._store.about}
    del about["clip_kind"]
    index._store._connection.open_table("about").update(values={"json": json.dumps(about)})
    assert VideoIndex.open(path, model, processor).info()["clip_kind"] == "fixed"
