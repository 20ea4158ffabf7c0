"""Several windows of a file in one go: what each alone would give."""

import warnings
from types import SimpleNamespace
from unittest import mock

import av
import numpy as np
import pytest
from videos import frame_image, frame_number, write_sound, write_video

from modeling_glccl import video_decoding_glccl as video_decoding
from modeling_glccl.search import clips
from modeling_glccl.video_decoding_glccl import decode_video, decode_windows
from modeling_glccl.video_processing_glccl import GLCCLVideoProcessor
from modeling_glccl.video_streams_glccl import VideoDecodeError

# They overlap, one holds another, one has repeated frames, one no frame, and their order is no rule.
WINDOWS = [(None, 2.0), (1.0, 3.0), (1.1, 1.9), (99.0, 100.0), (2.5, None), (0.5, 0.6), (None, None), (3.0, 3.01)]


def alone(source, window, *settings):
    try:
        return decode_video(source, settings[0], *window, *settings[1:])
    except VideoDecodeError as error:
        return error


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(found, VideoDecodeError):
        assert str(found) == str(expected)
    else:
        for name in ("frames", "timestamps", "frame_times", "duration"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("settings", [(5,), (4, "release"), (100, 3.0)])
@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libvpx"), ("a.avi", "mpeg4"), ("a.mpg", "mpeg2video")]
)
def test_windows_are_those_of_calls_of_their_own(tmp_path, name, codec, settings):
    path = write_video(tmp_path / name, 100, codec=codec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(decode_windows(path, WINDOWS, *settings))
        assert len(found) == len(WINDOWS)
        for video, window in zip(found, WINDOWS, strict=True):
            assert_same(video, alone(path, window, *settings))
    assert list(decode_windows(path, [])) == []


@pytest.mark.parametrize(
    ("name", "codec", "opened", "passes"), [("a.mp4", "libx264", 1, 1), ("a.mpg", "mpeg2video", 3, 2)]
)
def test_a_file_is_gone_through_once_however_many_windows_there_are(tmp_path, name, codec, opened, passes):
    path = write_video(tmp_path / name, 200, codec=codec, key_interval=500)
    windows = [(start / 10, start / 10 + 1) for start in range(60)]
    calls, frames = [], []
    with mock.patch.object(av, "open", lambda *args, open=av.open, **more: calls.append(args) or open(*args, **more)):
        found = list(decode_windows(path, windows, 3, transform=lambda frame: frames.append(frame) or frame))
    assert len(calls) == opened
    assert len(frames) == len({time for video in found for time in video.timestamps})  # each made an array once
    assert found[-1].decoded_frames <= passes * 200
    assert [video.decoded_frames for video in found] == sorted(video.decoded_frames for video in found)


def test_each_window_has_the_size_of_its_own_first_frame(tmp_path):
    wide = write_video(tmp_path / "a.ts", 50)
    tall = write_video(tmp_path / "b.ts", 50, size=(48, 96), timestamps=[2 + i / 25 for i in range(50)])
    content, windows = wide.read_bytes() + tall.read_bytes(), [(2, 3), (0, 1), (1.6, 2.4), (1.8, 2.6), (2.5, 3.5)]
    found = list(decode_windows(content, windows, 4))
    assert [video.frames.shape[1:3] for video in found] == [(96, 48), (48, 64), (48, 64), (48, 64), (96, 48)]
    for video, window in zip(found, windows, strict=True):
        assert_same(video, alone(content, window, 4))


def test_to_see_whether_a_file_is_cut_does_not_move_it_under_the_windows(tmp_path, monkeypatch):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream, sound = container.add_stream("libx264", rate=25), container.add_stream("aac", rate=16000)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.gop_size = 64, 48, "yuv420p", 500
        container.mux([p for i in range(50) for p in stream.encode(av.VideoFrame.from_ndarray(frame_image(i)))])
        container.mux(stream.encode(None))
        write_sound(container, sound, 300)
    monkeypatch.setattr(video_decoding, "_decode_in_order", None)
    found = list(decode_windows(path, [(0, 1), (0.5, 1.5), (1, None)], 4))
    assert [frame_number(frame) for video in found for frame in video.frames] == [
        *(3, 9, 15, 21),
        *(16, 22, 28, 34),
        *(28, 34, 40, 46),
    ]


def test_a_window_is_there_before_what_follows_is_decoded(tmp_path):
    path = write_video(tmp_path / "a.mp4", 100)
    seen = []
    windows = decode_windows(path, [(0, 1), (0.5, 1.5), (3, 4)], 2, transform=lambda frame: seen.append(1) or frame)
    assert [len(seen) for _ in windows] == [2, 4, 6]


def test_what_seeking_cannot_give_is_decoded_in_order_from_the_next_window_on(tmp_path, monkeypatch):
    path, windows = write_video(tmp_path / "a.mp4", 100), [(0, 1), (1, 2), (2, 3)]
    expected, read = [alone(path, window, 4) for window in windows], video_decoding._decode_at

    def breaks(*arguments):
        for number, frame in enumerate(read(*arguments)):
            if number == 6:
                raise video_decoding._NotThereError
            yield frame

    in_order, begun = video_decoding._decode_in_order, []
    monkeypatch.setattr(video_decoding, "_decode_at", breaks)
    monkeypatch.setattr(
        video_decoding,
        "_decode_in_order",
        lambda *args: begun.append([one.start for one in args[1]]) or in_order(*args),
    )
    for video, other in zip(decode_windows(path, windows, 4), expected, strict=True):
        assert_same(video, other)
    assert begun == [[1, 2]]


def test_a_frame_that_does_not_become_rgb_is_named(tmp_path, monkeypatch):
    def refuses(*_arguments):
        raise av.error.OSError(95, "Operation not supported")

    monkeypatch.setattr(video_decoding, "upright", refuses)
    with pytest.raises(VideoDecodeError, match=r"a\.mp4: a frame cannot be shown as RGB .*Operation not supported"):
        decode_video(write_video(tmp_path / "a.mp4", 10))


def test_damage_is_told_once_and_what_can_be_read_is(tmp_path):
    path = write_video(tmp_path / "a.mp4", 100, key_interval=10)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    windows = [(0, 1), (1.5, 2.5), (3, 4)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = list(decode_windows(path, windows, 4))
    assert len(caught) <= 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for video, window in zip(found, windows, strict=True):
            other = alone(path, window, 4)
            assert [frame_number(frame) for frame in video.frames] == [frame_number(frame) for frame in other.frames]


@pytest.mark.parametrize("deadline", [None, 1e9])
def test_the_processor_makes_of_each_window_what_it_makes_of_it_alone(tmp_path, deadline):
    path, processor = write_video(tmp_path / "a.mp4", 60), GLCCLVideoProcessor(size=24, crop_size=16, max_frames=5)
    processor.deadline = deadline
    windows = [(None, None), (0.5, 2.0), (1.0, 1.1), (80.0, None)]
    found = list(processor.windows(path, windows))
    assert isinstance(found.pop(), VideoDecodeError)
    for batch, (start, end) in zip(found, windows, strict=False):
        alone = processor(path, start=start, end=end, pad_to_max_frames=True, return_metadata=True)
        for name in ("pixel_values_videos", "padding_mask_videos"):
            assert batch[name].equal(alone[name])
        assert batch["video_metadata"][0]["duration"] == alone["video_metadata"][0]["duration"]
        np.testing.assert_array_equal(
            batch["video_metadata"][0]["timestamps"], alone["video_metadata"][0]["timestamps"]
        )


def test_clips_that_all_overlap_are_not_in_memory_together(tmp_path, monkeypatch):
    path, videos = write_video(tmp_path / "a.mp4", 100), GLCCLVideoProcessor(size=24, crop_size=16, max_frames=3)
    processor, settings, read = SimpleNamespace(video_processor=videos), clips.ClipSettings(2.0, 0.2), []
    expected = list(clips.read_clips(str(path), processor, settings, []))
    monkeypatch.setattr(clips, "_TOGETHER", 4)
    windows = videos.windows
    monkeypatch.setattr(videos, "windows", lambda path, some: read.append(len(some)) or windows(path, some))
    found = list(clips.read_clips(str(path), processor, settings, []))
    assert read == [4, 4, 3]
    assert [clip.start for clip in found] == [clip.start for clip in expected]
    assert all(one.pixels.equal(other.pixels) for one, other in zip(found, expected, strict=True))
