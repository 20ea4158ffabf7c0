"""Moments as files: copied from a key frame on, or re-encoded to the frame."""

import warnings

import av
import numpy as np
import pytest
from videos import frame_number, write_video, write_with_sound

from modeling_glccl.search import cut_moment
from modeling_glccl.video_decoding_glccl import decode_video
from modeling_glccl.video_streams_glccl import VideoDecodeError, open_video

SUFFIXES = {".mp4": "libx264", ".mkv": "libx265", ".mov": "mpeg4", ".ts": "libx264", ".webm": "libvpx-vp9"}


def numbers(path) -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [frame_number(frame) for frame in decode_video(path, 10_000).frames]


def packets(path, kind: str, key: bool = False) -> list[tuple[float, bytes]]:
    """(seconds on the file's clock, content) of all packets of a stream, or of its key frames alone."""
    with av.open(str(path)) as container:
        origin = (container.start_time or 0) / av.time_base
        found = [packet for packet in container.demux(container.streams.best(kind)) if packet.size]
        wanted = [packet for packet in found if packet.is_keyframe or not key]
        return [(float(packet.pts * packet.time_base) - origin, bytes(packet)) for packet in wanted]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Four seconds by suffix."""
    folder = tmp_path_factory.mktemp("sources")
    return {suffix: write_video(folder / f"source{suffix}", 100, codec=codec) for suffix, codec in SUFFIXES.items()}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("start", "end"), [(0, 1), (1.5, 2.3), (1.92, 2.4), (3.3, 99)])
def test_a_copy_begins_at_the_key_frame_before_and_ends_with_the_moment(tmp_path, sources, suffix, start, end):
    source = sources[suffix]
    cut = cut_moment(source, start, end, tmp_path / f"cut{suffix}")
    key = max(seconds for seconds, _ in packets(source, "video", key=True) if seconds <= start + 1e-3)
    assert cut.start == pytest.approx(key, abs=2e-3)
    found = numbers(cut.path)
    # A picture after the end is there only where one before the end refers to it.
    last = min(round(25 * end), 100) - 1
    assert found[: last + 1 - round(25 * key)] == list(range(round(25 * key), last + 1))
    assert set(found[last + 1 - round(25 * key) :]) <= set(range(last + 1, last + 5))
    assert cut.end == pytest.approx((found[-1] + 1) / 25, abs=2e-3)
    kept = [content for _, content in packets(cut.path, "video")]
    if suffix in (".mp4", ".mov"):  # the others wrap what they hold
        assert set(kept) <= {content for _, content in packets(source, "video")}


@pytest.mark.parametrize(("start", "end"), [(0, 1), (1.5, 2.3), (1.53, 1.55), (3.3, 99)])
def test_an_exact_moment_is_what_is_on_screen(tmp_path, sources, start, end):
    cut = cut_moment(sources[".mkv"], start, end, tmp_path / "cut.mp4", exact=True)
    assert (cut.start, cut.end) == pytest.approx((start, min(end, 4)), abs=2e-3)
    shown = [number for number in range(100) if number / 25 < end and (number + 1) / 25 > start + 1e-6]
    assert numbers(cut.path) == shown
    with av.open(cut.path) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert float(stream.duration * stream.time_base) == pytest.approx(cut.end - cut.start, abs=2e-3)


def test_an_exact_moment_may_be_longer_than_the_encoder_looks_ahead(tmp_path):
    """Then it gives pictures before the end, and several with the last packet."""
    write_video(tmp_path / "a.mp4", 70, fps=10)
    cut = cut_moment(tmp_path / "a.mp4", 1.7, 7.0, tmp_path / "b.mp4", exact=True)
    assert [frame_number(frame) for frame in decode_video(cut.path, 53).frames] == list(range(17, 70))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("begins", [0.0, 7.0])
def test_sound_is_copied_and_stays_in_step(tmp_path, exact, begins):
    source = write_with_sound(tmp_path / "source.mp4", start=begins)
    cut = cut_moment(source, 1.5, 2.5, tmp_path / "cut.mp4", exact)
    known = {content: seconds for seconds, content in packets(source, "audio")}
    found = packets(cut.path, "audio")
    assert len(found) >= (2.5 - cut.start) * 48_000 / 1024 - 2
    first_picture = packets(cut.path, "video")[0][0]
    for seconds, content in found:
        assert seconds - first_picture == pytest.approx(known[content] - cut.start, abs=2e-3)
        assert cut.start <= known[content] < 2.5


@pytest.mark.parametrize(("sound", "held"), [("aac", True), ("mp3", True), ("wmav2", False)])
def test_sound_that_the_new_file_cannot_hold_is_left_out(tmp_path, sound, held):
    source = write_with_sound(tmp_path / "source.asf", codec="wmv2", sound=sound)
    cut = cut_moment(source, 1.5, 2.5, tmp_path / "cut.mp4", exact=True)
    with av.open(cut.path) as container:
        assert bool(container.streams.audio) == held
    with av.open(cut_moment(source, 1.5, 2.5, tmp_path / "cut.asf").path) as container:
        assert container.streams.audio


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
@pytest.mark.parametrize("exact", [False, True])
def test_a_turned_video_stays_upright(tmp_path, rotation, exact):
    source = write_video(tmp_path / "source.mp4", 30, rotation=rotation, size=(64, 48))
    cut = cut_moment(source, 0.48, 1, tmp_path / "cut.mp4", exact)
    expected, found = decode_video(source, 30).frames[12], decode_video(cut.path, 30).frames[0]
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 8


BT709 = dict.fromkeys(("color_primaries", "color_trc", "colorspace"), "bt709")


@pytest.mark.parametrize(
    ("suffix", "codec", "size", "options"),
    [(".mp4", "libx264", (64, 48), BT709), (".avi", "mjpeg", (65, 49), {}), (".gif", "gif", (65, 49), {})],
)
def test_colours_and_odd_sides_survive(tmp_path, suffix, codec, size, options):
    images = [np.full((*size[::-1], 3), (220, 30, 90), np.uint8)] * 10
    source = write_video(tmp_path / f"source{suffix}", images, fps=5, codec=codec, size=size, options=options)
    cut = cut_moment(source, 0.5, 1.5, tmp_path / "cut.mp4", exact=True)
    expected, found = decode_video(source, 1).frames[0], decode_video(cut.path, 1).frames[0]
    assert found.shape == (48, 64, 3)
    assert found.mean(axis=(0, 1)) == pytest.approx(expected.mean(axis=(0, 1)), abs=4)


def test_nothing_is_overwritten_and_nothing_left_behind(tmp_path):
    write_video(tmp_path / "source.mp4", 50)
    (tmp_path / "cut.mp4").write_text("mine")
    for name, start, end, output, exact, error, problem in (
        ("source.mp4", 0, 1, "cut.mp4", False, FileExistsError, r"cut\.mp4 exists"),
        ("source.mp4", 0, 1, "cut.mp4", True, FileExistsError, r"cut\.mp4 exists"),
        ("source.mp4", 9, 10, "late.mp4", True, VideoDecodeError, "no frame between start=9 and end=10"),
        ("source.mp4", 0, 1, "cut.ogv", False, VideoDecodeError, r"cannot be cut as \.ogv"),
        ("none.mp4", 0, 1, "new.mp4", False, VideoDecodeError, r"none\.mp4: no such file"),
        ("source.mp4", 2, 1, "new.mp4", False, ValueError, "0 <= start < end"),
        ("source.mp4", 0, 1, "new.mkv", True, ValueError, r"call it \.mp4"),
    ):
        with pytest.raises(error, match=problem):
            cut_moment(tmp_path / name, start, end, tmp_path / output, exact)
    assert (tmp_path / "cut.mp4").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.mp4", "source.mp4"]


def no_links(*_):
    raise OSError("a file system without hard links")


def test_a_file_that_appears_meanwhile_stays(tmp_path, monkeypatch):
    source, output = write_video(tmp_path / "source.mp4", 50), tmp_path / "cut.mp4"

    def open_and_write(*arguments, **options):
        output.write_text("mine")
        return open_video(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr("modeling_glccl.search.cut.open_video", open_and_write)
        with pytest.raises(FileExistsError, match=r"cut\.mp4 exists"):
            cut_moment(source, 0, 1, output)
        patched.setattr("os.link", no_links)
        output.unlink()
        with pytest.raises(FileExistsError, match=r"cut\.mp4 exists"):
            cut_moment(source, 0, 1, output)
    assert output.read_text() == "mine"
    output.unlink()
    monkeypatch.setattr("os.link", no_links)
    assert numbers(cut_moment(source, 0, 0.4, output).path)[:10] == list(range(10))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.mp4", "source.mp4"]
