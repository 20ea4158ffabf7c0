"""Fast decoding gives what decoding everything in order gives, and says what damage costs."""

import json
import re
import struct
import subprocess
import warnings
import weakref
from fractions import Fraction
from itertools import islice, pairwise

import av
import numpy as np
import pytest
from PIL import Image
from videos import numbers, write_sound, write_video

from modeling_glccl import video_decoding_glccl as video_decoding
from modeling_glccl import video_streams_glccl as video_streams
from modeling_glccl.data.reencode import CompressSettings, compress_video
from modeling_glccl.search.clips import ClipSettings
from modeling_glccl.video_decoding_glccl import decode_video, release_positions, uniform_positions
from modeling_glccl.video_streams_glccl import VideoDecodeError


def decode_in_order(path):
    """Every frame of a file, without the packets that do not decode."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")  # as FFmpeg chooses where there are several
        stream.thread_count = 1
        packets = container.demux(stream)
        while True:
            try:
                yield from next(packets).decode()
            except StopIteration:
                return
            except av.FFmpegError:
                continue


def times_in_order(path):
    """Seconds of every frame."""
    with av.open(str(path)) as container:
        start, rate = (container.start_time or 0) / 1e6, container.streams.best("video").average_rate
    stamps = [frame.time for frame in decode_in_order(path)]
    if None in stamps or any(b <= a for a, b in pairwise(stamps)):
        return [i / float(rate) for i in range(len(stamps))]
    return [round(stamp - start, 6) for stamp in stamps]


def sample_in_order(path, max_frames, start=0.0, end=float("inf")):
    """The naive twin of `decode_video`: frames [n, H, W, 3] and seconds [n] of the uniform rule."""
    times = times_in_order(path)
    inside = [i for i, time in enumerate(times) if start <= time < end]
    picked = inside or [max(i for i, time in enumerate(times) if time <= start)]
    if len(inside) > max_frames:
        first, count = times[inside[0]], len(inside)
        spacing = (times[inside[-1]] - first) / (count - 1)
        if all(abs(times[i] - first - k * spacing) <= 0.001 for k, i in enumerate(inside)):
            picked = [inside[(2 * k + 1) * count // (2 * max_frames)] for k in range(max_frames)]
        else:
            centres = [first + (k + 0.5) * count / max_frames * spacing for k in range(max_frames)]
            picked = [max(i for i in inside if times[i] <= centre) for centre in centres]
    frames = {
        i: np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
        for i, frame in enumerate(decode_in_order(path))
        if i in picked
    }
    return np.stack([frames[i] for i in picked]), np.array([times[i] for i in picked])


def assert_same_as_in_order(path, max_frames=12, **window):
    decoded = decode_video(path, max_frames, **window)
    frames, times = sample_in_order(path, max_frames, **window)
    np.testing.assert_array_equal(decoded.timestamps, times)
    np.testing.assert_array_equal(decoded.frames, frames)
    return decoded


# Sampling


@pytest.mark.parametrize(
    ("times", "max_frames", "expected"),
    [
        (np.arange(10) / 25, 5, [1, 3, 5, 7, 9]),
        (np.arange(7) / 25, 3, [1, 3, 5]),
        (np.arange(100) / 25, 1, [50]),
        # A short video: each frame once.
        (np.arange(4) / 25, 12, [0, 1, 2, 3]),
        (np.array([0.0]), 12, [0]),
        # By time, not by number: the centres are 0.62, 1.86, 3.09 and 4.33 s.
        (np.array([0.0, 0.1, 0.2, 0.3, 0.4, 1.4, 2.4, 3.4, 4.4]), 4, [4, 5, 6, 7]),
        # A still image of ten seconds is on screen at two of the three centres.
        (np.array([0.0, 0.5, 10.5, 11.0]), 3, [1, 1, 3]),
    ],
)
def test_uniform_takes_the_frame_on_screen_at_the_centre_of_each_span(times, max_frames, expected):
    assert uniform_positions(times, max_frames).tolist() == expected


@pytest.mark.parametrize("fps", [24, Fraction(30000, 1001), 60])
@pytest.mark.parametrize("max_frames", [1, 5, 12])
def test_uniform_does_not_depend_on_how_the_container_rounds_timestamps(fps, max_frames):
    for count in range(1, 200):
        exact = np.array([float(i / Fraction(fps)) for i in range(count)])
        in_matroska = np.round(exact, 3)
        assert uniform_positions(exact, max_frames).tolist() == uniform_positions(in_matroska, max_frames).tolist()


def test_release_reads_a_frame_a_second_and_thins_them():
    assert release_positions(94, 29.97, 12).tolist() == [0, 29, 58, 87]
    assert release_positions(100, 3, 4).tolist() == [0, 33, 66, 99]
    assert release_positions(100, 3, 12, start=2, end=5).tolist() == [6, 9, 12, 15]
    assert release_positions(7, 3, 12, start=9, end=12).tolist() == []


def test_release_equals_the_release(reference_dir):
    for case in json.loads((reference_dir / "golden" / "frame_sampling.json").read_text())["cases"]:
        fps, window = Fraction(case["fps"]), {"start": case["start"], "end": case["end"]}
        assert release_positions(case["n_frames"], fps, 10**6, **window).tolist() == case["frames_read"]
        for max_frames, kept in case["kept_positions_slice_framepos_2"].items():
            expected = [case["frames_read"][position] for position in kept]
            assert release_positions(case["n_frames"], fps, int(max_frames), **window).tolist() == expected


@pytest.mark.parametrize(("fps", "step"), [("25", 25), ("30000/1001", 29), ("15/2", 7)])
def test_release_from_a_file_uses_the_rate_that_the_file_reports(tmp_path, fps, step):
    path = write_video(tmp_path / "a.mp4", 100, fps=fps)
    assert numbers(decode_video(path, 64, sampling="release")) == list(range(0, 100, step))
    assert numbers(decode_video(path, 64, start=1, end=2, sampling="release")) == [step, 2 * step]
    slow = write_video(tmp_path / "slow.mp4", 5, fps=Fraction(1, 2))
    with pytest.raises(VideoDecodeError, match=r"slow\.mp4.*0\.5 frames a second.*uniform"):
        decode_video(slow, sampling="release")


# Exactness

CODECS = {"libx264": "mp4 mkv mov flv ts avi", "libx265": "mp4", "mpeg4": "mp4 avi", "mpeg2video": "ts mpg"}
CODECS |= {"libvpx": "webm", "libvpx-vp9": "webm", "libsvtav1": "mp4", "mjpeg": "avi mjpeg", "gif": "gif"}
FORMATS = [(codec, suffix) for codec, suffixes in CODECS.items() for suffix in suffixes.split()]


@pytest.mark.parametrize("key_interval", [5, 250])
@pytest.mark.parametrize(("codec", "suffix"), FORMATS, ids=lambda value: value)
def test_frames_are_those_of_decoding_in_order(tmp_path, codec, suffix, key_interval):
    path = write_video(tmp_path / f"a.{suffix}", 60, codec=codec, key_interval=key_interval)
    assert numbers(assert_same_as_in_order(path)) == [2 + 5 * k for k in range(12)]
    assert_same_as_in_order(path, 60)
    assert_same_as_in_order(path, 7, start=0.71, end=1.93)


@pytest.mark.parametrize("params", ["b-adapt=0:open-gop=1", "intra-refresh=1", "tff=1"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_unusual_key_frames_are_decoded_exactly(tmp_path, params, suffix):
    path = write_video(tmp_path / f"a.{suffix}", 80, options={"x264-params": params})
    assert_same_as_in_order(path)
    assert_same_as_in_order(path, 4, start=1.51, end=2.9)


def test_it_seeks_only_where_a_key_frame_lies_on_the_way(tmp_path):
    # MPEG-4 without B-frames: no frame can be skipped, so the counts are those of the seeks.
    options = {"bf": "0"}
    often = write_video(tmp_path / "often.mp4", 300, codec="mpeg4", key_interval=10, options=options)
    seldom = write_video(tmp_path / "seldom.mp4", 300, codec="mpeg4", key_interval=300, options=options)
    # Frames 25, 75, ... 275; key frames at 20, 70, ... 270.
    assert decode_video(often, 6).decoded_frames == 6 * 6
    # One forward pass up to the last of them, and never back.
    assert decode_video(seldom, 6).decoded_frames == 276


def test_unwanted_frames_that_no_other_refers_to_are_skipped_by_any_number_of_threads(tmp_path):
    path = write_video(tmp_path / "a.mp4", 100, key_interval=250)
    decoded = assert_same_as_in_order(path)
    assert decoded.decoded_frames < 75
    np.testing.assert_array_equal(decode_video(path, num_threads=4).frames, decoded.frames)


@pytest.mark.slow
def test_real_files_are_decoded_exactly(reference_dir):
    data = reference_dir / "data"
    paths = [*data.glob("videos/*.*"), *data.glob("msrvtt_clips/*.mp4"), *data.glob("activitynet_clips/*.mp4")]
    videos = [path for path in sorted(paths) if path.suffix not in (".md", ".json")]
    assert len(videos) == 27
    for path in videos:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "(?s).*(should hold|damaged)")  # none of them is cut
            decoded = assert_same_as_in_order(path)
        assert len(decoded.frames) == 12
        assert decoded.duration == pytest.approx(decoded.timestamps[-1], rel=0.1)


EDGE_ERRORS = {"derived_zero_bytes.mp4": "is empty", "lerobot_lfs_pointer.mp4": "is a Git-LFS pointer"}
EDGE_WARNINGS = {
    "decord_corrupted.mp4": r"should hold 50 frames, but 49 can be read",
    "derived_truncated40pct.mkv": r"should hold 311 frames, but 118 can be read",
}


def test_real_edge_cases_decode_or_say_why_not(reference_dir):
    for path in sorted((reference_dir / "data" / "videos" / "edge").iterdir()):
        if path.name in EDGE_ERRORS:
            with pytest.raises(VideoDecodeError, match=f"{path.name}: {EDGE_ERRORS[path.name]}"):
                decode_video(path)
        elif path.name in EDGE_WARNINGS:
            with pytest.warns(UserWarning, match=f"{path.name}: {EDGE_WARNINGS[path.name]}"):
                assert_same_as_in_order(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                assert_same_as_in_order(path)


# Timestamps


def test_variable_frame_rate_is_sampled_by_time(tmp_path):
    times = [0, 0.04, 0.08, 0.12, 0.16, 1.0, 2.0, 3.0, 4.0, 4.04, 4.08, 4.12]
    path = write_video(tmp_path / "a.mkv", 12, timestamps=times)
    # The frames at the centres 0.56, 1.69, 2.81, 3.93 of four spans.
    assert numbers(assert_same_as_in_order(path, 4)) == [4, 5, 6, 7]


@pytest.mark.parametrize("suffix", ["mkv", "ts", "mp4"])
def test_the_clock_of_a_file_starts_at_zero(tmp_path, suffix):
    path = write_video(tmp_path / f"a.{suffix}", 50, timestamps=[7 + i / 25 for i in range(50)])
    assert_same_as_in_order(path)
    decoded = decode_video(path, 5, start=1, end=1.4)
    np.testing.assert_allclose(decoded.timestamps, [1.04, 1.12, 1.2, 1.28, 1.36], atol=1e-3)
    assert numbers(decoded) == [26, 28, 30, 32, 34]


def test_files_without_timestamps_or_duration(tmp_path):
    raw = write_video(tmp_path / "a.h264", 60)
    assert numbers(assert_same_as_in_order(raw)) == [2 + 5 * k for k in range(12)]
    assert decode_video(raw, 1, start=1, end=2).decoded_frames > 60  # in order: after a seek it would have other times
    live = write_video(tmp_path / "live.mkv", 60, container_options={"live": "1"})
    with av.open(str(live)) as container:
        assert container.duration is None
    assert numbers(assert_same_as_in_order(live)) == [2 + 5 * k for k in range(12)]


def remux(source, target, shift=0.0, first_key=1, lost=()):
    """Copies the packets of a file from its n-th key frame on, but the lost ones, `shift` seconds later."""
    with av.open(str(source)) as old, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as new:
        stream, keys = new.add_stream_from_template(old.streams.video[0]), 0
        shift = int(shift / old.streams.video[0].time_base)
        for number, packet in enumerate(old.demux(video=0)):
            keys += packet.is_keyframe
            if keys >= first_key and packet.dts is not None and number not in lost:
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                new.mux(packet)
    return target


@pytest.mark.filterwarnings("error::UserWarning")
def test_frames_that_an_edit_list_hides_stay_hidden(tmp_path):
    trimmed = remux(write_video(tmp_path / "a.mp4", 100), tmp_path / "trimmed.mp4", shift=-0.6)
    decoded = assert_same_as_in_order(trimmed, 100)
    assert numbers(decoded) == list(range(15, 100))
    assert assert_same_as_in_order(trimmed).decoded_frames < 110, "not decoded twice"
    assert_same_as_in_order(trimmed, 3, start=0.5, end=1.1)


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_a_recording_that_starts_amid_a_group_of_pictures(tmp_path, suffix):
    # The frames shown before its first key frame do not decode: they count neither as frames nor as time.
    whole = write_video(tmp_path / f"a.{suffix}", 80, options={"x264-params": "b-adapt=0:open-gop=1"})
    cut = remux(whole, tmp_path / f"cut.{suffix}", first_key=3)
    assert numbers(assert_same_as_in_order(cut, 100)) == list(range(24, 80))
    assert_same_as_in_order(cut, 5)
    assert_same_as_in_order(cut, 9)


# Windows


def test_a_window_is_sampled_like_a_video_of_its_own(tmp_path):
    path = write_video(tmp_path / "a.mp4", 100)
    assert numbers(decode_video(path, 5, start=1, end=2)) == [27, 32, 37, 42, 47]
    assert numbers(decode_video(path, 100, start=1, end=1.2)) == [25, 26, 27, 28, 29]
    assert numbers(decode_video(path, 2, start=3.92)) == [98, 99]
    assert numbers(decode_video(path, 2, end=0.08)) == [0, 1]
    assert numbers(decode_video(path, 2, start=3, end=100)) == [81, 93]  # 25 frames: centres 81.25 and 93.75
    # Between two frames the one on screen.
    assert numbers(decode_video(path, 3, start=1.01, end=1.02)) == [25]
    assert numbers(decode_video(path, 3, start=3.99)) == [99]
    with pytest.raises(VideoDecodeError, match=r"a\.mp4: no frame between start=4 and end=5.*ends at 4\.0"):
        decode_video(path, start=4, end=5)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_window_late_in_a_long_video_is_reached_by_seeking(tmp_path, suffix):
    path = write_video(tmp_path / f"a.{suffix}", 500, codec="mpeg4", options={"bf": "0"})
    assert assert_same_as_in_order(path, 4, start=15, end=17).decoded_frames < 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({"start": start, "end": 1}, "0 <= start < end") for start in (2, 1, -1, float("nan"))),
        ({"end": 0}, "0 <= start < end"),
        ({"max_frames": 0}, "max_frames=0"),
        ({"sampling": "random"}, "'random'"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        decode_video(write_video(tmp_path / "a.mp4", 5), **arguments)


# Rotation


@pytest.mark.parametrize("rotation", [90, 180, -90])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_rotated_videos_come_upright(tmp_path, rotation, suffix):
    path = write_video(tmp_path / f"a.{suffix}", 4, rotation=rotation)
    decoded = assert_same_as_in_order(path)
    plain = decode_video(write_video(tmp_path / f"plain.{suffix}", 4)).frames
    for frame, stored in zip(decoded.frames, plain, strict=True):
        upright = Image.fromarray(stored).rotate(rotation, expand=True)
        np.testing.assert_array_equal(frame, np.asarray(upright))
    other_angle = write_video(tmp_path / f"b.{suffix}", 3, rotation=45)
    assert numbers(decode_video(other_angle)) == [0, 1, 2]


# Sources


def test_a_file_without_a_decodable_frame_is_an_error(tmp_path):
    path = write_video(tmp_path / "a.mp4", 30)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    end = content.index(b"moov") - 4
    content[start:end] = b"\xff" * (end - start)
    with pytest.raises(VideoDecodeError, match="not one frame decodes"):
        decode_video(bytes(content))


@pytest.mark.parametrize(("suffix", "options"), [("mp4", {"movflags": "faststart"}), ("mkv", {})])
def test_a_cut_file_is_used_as_far_as_it_goes_with_a_warning(tmp_path, suffix, options):
    whole = write_video(tmp_path / f"whole.{suffix}", 100, size=(320, 240), container_options=options)
    content = whole.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(content[: int(0.6 * len(content))])
    count = len(times_in_order(cut))
    assert 20 < count < 80
    with pytest.warns(UserWarning, match=rf"cut\.{suffix}: should hold 100 frames, but (\d+) can be read") as caught:
        decoded = decode_video(cut)
    assert abs(int(re.search(r"but (\d+)", str(caught[0].message))[1]) - count) <= 1
    spans = [int((k + 0.5) * count / 12) for k in range(12)]
    assert numbers(decoded) == pytest.approx(spans, abs=1)
    assert decoded.duration == pytest.approx(count / 25, abs=0.05)


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_longer_sound_track_is_no_reason_to_warn(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("libx264", rate=25), container.add_stream("aac", rate=16000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(25):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))))
        container.mux(video.encode(None))
        write_sound(container, sound, 100)
    assert decode_video(path).duration == pytest.approx(1, abs=0.01)


# What may come: limits, damage, mirrors


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_frames_and_packets_beyond_the_limits_are_refused(tmp_path, monkeypatch, suffix):
    path = write_video(tmp_path / f"a.{suffix}", 40, codec="mpeg2video")
    with monkeypatch.context() as limit:
        limit.setattr(video_decoding, "MAX_PACKETS", 39)
        for start in (None, 1):
            with pytest.raises(VideoDecodeError, match=rf"a\.{suffix}: holds more than 39 packets"):
                decode_video(path, start=start)
    for module in (video_decoding, video_streams):
        monkeypatch.setattr(module, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(VideoDecodeError, match=r"not one frame decodes .*more than 3,071 pixels"):
        decode_video(path)


@pytest.mark.parametrize("suffix", ["mp4", "avi"])  # by seeking and in order
def test_a_decoder_needs_no_more_memory_than_if_its_frames_were_thrown_away(tmp_path, monkeypatch, suffix):
    path, used, decode = write_video(tmp_path / f"a.{suffix}", 30), {}, video_decoding._decode

    def noted(packet, *rest):
        frames = decode(packet, *rest)
        places = used.setdefault(packet.stream.codec_context, set())
        places.update(frame.planes[0].buffer_ptr for frame in frames)
        return frames

    with video_streams.open_video(path) as (container, stream):
        for packet in container.demux(stream):
            noted(packet, {}, "")
    monkeypatch.setattr(video_decoding, "_decode", noted)
    decode_video(path, 30)
    least, *ours = map(len, used.values())
    assert len(ours) == (1 if suffix == "mp4" else 2)
    assert max(ours) == least


@pytest.mark.parametrize("suffix", ["mkv", "mpeg", "h264"])
def test_packets_a_second_are_bounded(tmp_path, monkeypatch, suffix):
    codec = "libx264" if suffix == "h264" else "mpeg2video"
    path = write_video(tmp_path / f"a.{suffix}", 60, codec=codec)
    monkeypatch.setattr(video_decoding, "MANY", 50)
    assert len(decode_video(path, 60).frames) == 60
    monkeypatch.setattr(video_decoding, "MAX_RATE", 24)
    with pytest.raises(VideoDecodeError, match=r"holds 5\d packets in \d\.\d+ seconds, more than 24 a second"):
        decode_video(path)


def test_a_transform_sees_one_whole_frame_at_a_time(tmp_path):
    path, whole = write_video(tmp_path / "a.mp4", 30), []

    def corner(image):
        assert not any(reference() is not None for reference in whole)
        whole.append(weakref.ref(image))
        return image[:8, :9].copy()

    frames = decode_video(path, transform=corner).frames
    assert len(whole) == 12
    np.testing.assert_array_equal(frames, decode_video(path).frames[:, :8, :9])


def overwrite_packet(path, number):
    """Destroys the n-th packet where it lies in the file."""
    with av.open(str(path)) as container:
        packet = bytes(next(islice(container.demux(video=0), number, None)))
    content = path.read_bytes()
    assert content.count(packet) == 1
    path.write_bytes(content.replace(packet, b"\xff" * len(packet)))


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("libx264", "mp4"), ("libx264", "mkv"), ("libx264", "avi"), ("mpeg4", "avi"), ("libvpx-vp9", "webm")],
)
def test_a_packet_that_does_not_decode_costs_its_frames_and_not_the_rest(tmp_path, codec, suffix):
    path = write_video(tmp_path / f"a.{suffix}", 100, codec=codec, key_interval=250)
    overwrite_packet(path, 40)
    for max_frames in (12, 250):
        with pytest.warns(UserWarning, match=rf"a\.{suffix}: should hold \d+ frames, but \d+ can be read"):
            decoded = assert_same_as_in_order(path, max_frames)
        assert decoded.duration == pytest.approx(4, abs=0.1)
        assert decoded.timestamps[-1] > 3.7
        assert len(decoded.frame_times) < 100


@pytest.mark.parametrize(("codec", "suffix"), [("flv1", "flv"), ("mpeg4", "mp4"), ("mpeg4", "mkv"), ("mpeg4", "avi")])
def test_a_first_frame_that_does_not_decode_is_told_of(tmp_path, codec, suffix):
    path = write_video(tmp_path / f"a.{suffix}", 30, codec=codec, options={"bf": "0"} if codec == "mpeg4" else {})
    overwrite_packet(path, 0)
    with pytest.warns(UserWarning, match=r"should hold 30 frames, but 29 can be read"):
        assert len(decode_video(path, 30).frame_times) == 29


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "flv"])
def test_damage_that_is_not_met_changes_no_frame(tmp_path, suffix):
    """Decoding by seeking reads only what the wanted frames need, and warns of no more than that."""
    path = write_video(
        tmp_path / f"a.{suffix}", 120, codec="flv1" if suffix == "flv" else "mpeg4", options={"bf": "0"}
    )
    whole = decode_video(path, 2)
    overwrite_packet(path, 50)
    decoded = decode_video(path, 2)
    np.testing.assert_array_equal(decoded.frames, whole.frames)
    np.testing.assert_array_equal(decoded.timestamps, whole.timestamps)


@pytest.mark.filterwarnings("ignore:.*should hold 48 frames, but 45")
def test_lost_packets_give_the_same_times_by_seeking_as_in_order(tmp_path):
    """Without them the decoder shows frames in another order than their times."""
    whole = write_video(tmp_path / "whole.ts", 48, codec="mpeg2video")
    path = remux(whole, tmp_path / "a.ts", lost=(3, 4, 6))
    with av.open(str(path)) as container:
        shown = [frame.pts or 0 for frame in container.decode(video=0)]
    assert shown != sorted(shown)
    sampling = video_decoding.FrameSampling(1)
    slow = next(video_decoding._decode_in_order(video_streams.locate(path), [sampling], 1, None))
    fast = decode_video(path, 1)
    assert fast.decoded_frames < 48
    for decoded in (fast, decode_video(path, 45)):
        np.testing.assert_array_equal(decoded.frame_times, slow.frame_times)
        assert decoded.duration == slow.duration
    np.testing.assert_array_equal(fast.frames, slow.frames)


@pytest.mark.parametrize("suffix", ["mkv", "ts", "flv", "wmv"])
def test_a_hole_in_the_clock_is_a_warning_with_both_counts_and_a_dropped_frame_is_none(tmp_path, suffix):
    codec = {"wmv": "wmv2"}.get(suffix, "libx264")
    whole = write_video(tmp_path / f"whole.{suffix}", 100, codec=codec, key_interval=10, options={"bf": "0"})
    for first, last in [(40, 50), (49, 50)]:
        path = remux(whole, tmp_path / f"a{last - first}.{suffix}", lost=range(first, last))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            decoded = decode_video(path)
        assert len(decoded.frame_times) == 100 - (last - first)
        said = [str(warning.message) for warning in caught]
        assert len(said) == (last - first > 2), said
        assert not said or "should hold 100 frames, but 90 can be read" in said[0]


def test_a_clock_that_starts_again_is_not_believed_nor_too_fast(tmp_path, monkeypatch):
    part = write_video(tmp_path / "a.ts", 60).read_bytes()
    (tmp_path / "cat.ts").write_bytes(part * 5)
    monkeypatch.setattr(video_decoding, "MANY", 50)
    monkeypatch.setattr(video_decoding, "MAX_RATE", 30)
    decoded = decode_video(tmp_path / "cat.ts", 300)
    assert numbers(decoded) == [*range(60)] * 5
    assert decoded.duration == pytest.approx(12)
    assert numbers(decode_video(tmp_path / "cat.ts", 200, start=2.4, end=2.6)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("times", "count"),
    [
        ([0, 0.04, 1.0], 0),  # two irregular times are no clock
        ([0.0] * 50 + [9.0], 0),  # frames that are shown at once make no hole
        (np.delete(np.arange(200) / 25, [50, 51, 52]), 200),
        (np.delete(np.arange(100) / 25, [*range(20, 23), *range(40, 43), *range(60, 63)]), 0),  # its rate varies
    ],
)
def test_frames_are_counted_by_a_regular_clock_alone(times, count):
    assert video_decoding._count_by_clock(np.array(times)) == count


def test_a_jump_of_the_clock_is_no_time(tmp_path):
    path = write_video(tmp_path / "a.mkv", 50, timestamps=[*(i / 25 for i in range(49)), 4000])
    decoded = decode_video(path, 5)
    assert numbers(decoded) == [5, 15, 25, 35, 45]
    assert decoded.duration == pytest.approx(2)
    assert numbers(decode_video(path, 50, start=1.9)) == [48, 49]
    pauses = write_video(tmp_path / "pauses.mkv", 4, timestamps=[0, 500, 1000, 1500])
    assert decode_video(pauses).timestamps.tolist() == [0, 500, 1000, 1500]


def test_clips_are_windows_in_which_a_frame_begins():
    settings = ClipSettings(length=30, stride=20)
    assert settings.windows(np.arange(0, 70, 0.04), 70) == [(0, 30), (20, 50), (40, 70)]
    assert settings.windows(np.array([0, 1e9]), 1e9 + 5) == [(0, 30), (1e9 - 20, 1e9 + 5)]
    assert len(ClipSettings(length=30, stride=0.01).windows(np.array([0, 15, 1e9]), 1e9 + 5)) <= 6


def write_matrix(path, a, b, c, d):
    """A video whose display matrix takes the point (x, y) to (a x + c y, b x + d y)."""
    content = bytearray(write_video(path, 4).read_bytes())
    start = content.index(b"tkhd") + 44
    content[start : start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


MIRRORS = {
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (0, 1, 1, 0): lambda image: image.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda image: image.transpose(1, 0, 2)[::-1, ::-1],
}


@pytest.mark.parametrize("matrix", MIRRORS)
def test_mirrors_are_honoured(tmp_path, matrix):
    stored = decode_video(write_video(tmp_path / "plain.mp4", 4)).frames
    path = write_matrix(tmp_path / "a.mp4", *matrix)
    for frame, image in zip(decode_video(path).frames, stored, strict=True):
        np.testing.assert_array_equal(frame, MIRRORS[matrix](image))
    small = decode_video(compress_video(path, CompressSettings(fps=25))).frames
    assert np.abs(small.astype(int) - decode_video(path).frames).mean() < 12


# Another decoder


@pytest.mark.parametrize("case", [*FORMATS, 90, 180, -90, *MIRRORS], ids=str)
def test_frames_are_those_of_the_ffmpeg_program(tmp_path, case):
    """All frames of a format, rotation or mirror, up to how two versions of FFmpeg round colours."""
    program = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg brings the program").get_ffmpeg_exe()
    if case in FORMATS:
        path = write_video(tmp_path / f"a.{case[1]}", 30, codec=case[0])
    elif case in MIRRORS:
        path = write_matrix(tmp_path / "a.mp4", *case)
    else:
        path = write_video(tmp_path / "a.mp4", 4, rotation=case)
    as_stored = ["-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    command = [program, "-v", "error", "-i", path, *as_stored]
    output = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout
    ours = decode_video(path, 1000).frames
    theirs = np.frombuffer(output, np.uint8).reshape(-1, *ours.shape[1:])
    assert len(theirs) == len(ours)
    assert np.abs(theirs.astype(int) - ours).mean(axis=(1, 2, 3)).max() < 1.5


def test_a_file_whose_packets_end_in_damage_is_used_up_to_it(tmp_path):
    """YUV4MPEG2 declares how long it is by its size, and has a mark before every frame."""
    path = write_video(tmp_path / "a.y4m", 30, codec="rawvideo")
    marks = path.read_bytes().split(b"FRAME\n")
    path.write_bytes(b"FRAME\n".join(marks[:11]) + b"DAMAGE" + b"FRAME\n".join(marks[11:]))
    with pytest.warns(UserWarning, match="should hold 30 frames, but 10 can be read"):
        decoded = decode_video(path, max_frames=30)
    assert numbers(decoded) == list(range(10))
