"""Re-encoding of single videos, and of folders: in parallel, resumable, and whatever lies in them."""

import errno
import json
import os
import re
import shutil
import warnings

import av
import numpy as np
import pytest
from rich.console import Console
from videos import frame_number, write_video

from modeling_glccl import VideoDecodeError
from modeling_glccl.cli import main
from modeling_glccl.data import compress
from modeling_glccl.data.compress import LEDGER
from modeling_glccl.data.compress import compress_folder as run
from modeling_glccl.data.reencode import CompressSettings, compress_video
from modeling_glccl.video_decoding_glccl import VideoDamageWarning, decode_video


def all_frames(source):
    return decode_video(source, max_frames=100_000)


def streams(content: bytes, tmp_path):
    path = tmp_path / "written.mp4"
    path.write_bytes(content)
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        return len(container.streams), video.codec_context.name, video.average_rate, container.format.name


# One video

HIDDEN = {"auto-alt-ref": "1", "lag-in-frames": "16"}


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("a.mp4", {"num_frames": 50, "fps": 25, "size": (640, 360)}, (398, 224)),
        ("portrait.mp4", {"num_frames": 30, "fps": 25, "size": (640, 480), "rotation": 90}, (224, 298)),
        ("upside_down.mp4", {"num_frames": 30, "fps": 15, "size": (320, 240), "rotation": 180}, (298, 224)),
        ("a.webm", {"num_frames": 61, "fps": 30, "codec": "libvpx-vp9", "size": (300, 400)}, (224, 298)),
        ("b_frames_out_of_order.avi", {"num_frames": 61, "fps": 24, "codec": "mpeg4", "size": (320, 250)}, (286, 224)),
        ("a.mkv", {"num_frames": 40, "fps": 10, "codec": "libx265", "size": (300, 300)}, (224, 224)),
        ("a.mpg", {"num_frames": 40, "fps": 25, "codec": "mpeg2video", "size": (256, 300)}, (224, 262)),
        ("full_range.mov", {"num_frames": 40, "fps": 25, "codec": "mjpeg", "size": (256, 300)}, (224, 262)),
        ("a.ts", {"num_frames": 60, "fps": 25}, (64, 48)),
        ("hidden_frames.webm", {"num_frames": 60, "fps": 25, "codec": "libvpx", "options": HIDDEN}, (64, 48)),
        ("slow.mp4", {"num_frames": 5, "fps": 1, "size": (64, 48)}, (64, 48)),
        ("one_frame.mp4", {"num_frames": 1, "fps": 25, "size": (126, 48)}, (126, 48)),
        ("odd.mkv", {"num_frames": 20, "fps": 10, "codec": "mjpeg", "size": (101, 75)}, (100, 76)),
        ("variable_rate.mkv", {"num_frames": 5, "timestamps": [0, 0.5, 0.6, 2, 4.5], "size": (640, 480)}, (298, 224)),
    ],
)
def test_a_frame_is_the_one_on_screen_at_its_time_and_of_a_whole_video_nothing_is_said(tmp_path, name, options, size):
    source = write_video(tmp_path / name, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = compress_video(source)
    before, after = all_frames(source), all_frames(content)
    assert streams(content, tmp_path)[1:3] == ("h264", 3)
    assert after.frames.shape[2:0:-1] == size
    assert after.timestamps == pytest.approx(np.arange(len(after.frames)) / 3, abs=1e-3)
    assert -1e-3 <= len(after.frames) / 3 - before.duration < 1 / 3, "less than one frame longer"
    shown = np.searchsorted(before.timestamps, np.arange(len(after.frames)) / 3 + 1e-4, side="right") - 1
    expected = before.frames[shown.clip(0)]
    assert list(map(frame_number, after.frames)) == list(map(frame_number, expected))
    colours = [frames.mean(axis=(0, 1, 2)) for frames in (after.frames, expected)]
    assert np.abs(colours[0] - colours[1]).max() < 3


def test_settings_change_rate_size_and_quality(tmp_path):
    source = write_video(tmp_path / "a.mp4", 50, fps=25, size=(640, 480))
    fine, coarse = (compress_video(source, CompressSettings(5, 100, crf)) for crf in (10, 40))
    assert all_frames(fine).frames.shape == (10, 100, 134, 3)
    assert streams(fine, tmp_path)[2] == 5
    assert len(fine) > 2 * len(coarse)


def test_sound_is_dropped_and_the_clock_of_the_file_is_kept(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 3 * 16_000), "float32"), format="fltp", layout="mono")
        silence.rate, silence.pts = 16_000, 0
        container.mux(sound.encode(silence))
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * number, "uint8"))
            frame.pts = number + 10  # the picture begins a second after the sound
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    content = compress_video(tmp_path / "a.mp4")
    assert streams(content, tmp_path)[0] == 1
    brightness = all_frames(content).frames.mean(axis=(1, 2, 3))
    assert len(brightness) == 9
    assert brightness[:4] == pytest.approx(0, abs=3)
    assert brightness[6] == pytest.approx(100, abs=5), "at two seconds, the frame of two seconds"


def test_a_file_with_a_hole_keeps_what_follows_at_its_time(tmp_path):
    source = write_video(tmp_path / "a.mkv", 100, fps=10, key_interval=10, size=(320, 240))
    content = bytearray(source.read_bytes())
    third = len(content) // 3
    content[third : third + 2000] = bytes(2000)
    source.write_bytes(content)
    after = all_frames(compress_video(source))
    assert frame_number(after.frames[2]) == 6
    assert [frame_number(image) for image in after.frames[20:30]] == [66, 70, 73, 76, 80, 83, 86, 90, 93, 96]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx"), ("a.avi", "mpeg4")])
def test_damage_is_told_of_with_both_counts(tmp_path, name, codec):
    """One packet in the middle is overwritten: the decoder's warning, of what re-encoding could read."""
    source = write_video(tmp_path / name, 100, codec=codec)
    with av.open(str(source)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]
    place, size = packets[50]
    content = bytearray(source.read_bytes())
    content[place : place + size] = b"\xff" * size
    source.write_bytes(content)
    with pytest.warns(VideoDamageWarning) as caught:
        decode_video(source, max_frames=1000)
    expected = str(caught[-1].message)
    assert re.search(r"should hold 100 frames, but \d\d can be read", expected)
    with pytest.warns(VideoDamageWarning) as caught:
        compress_video(source)
    assert str(caught[-1].message) == expected


def test_an_unreadable_file_is_named_with_its_reason(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video at all " * 100)
    with pytest.raises(VideoDecodeError, match=r"a\.mp4: is not a video"):
        compress_video(tmp_path / "a.mp4")


@pytest.mark.parametrize(("name", "value"), [("fps", 0), ("fps", 0.0004), ("short_side", 225), ("crf", 60)])
def test_impossible_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name}={value} must"):
        CompressSettings(**{name: value})


# Folders


@pytest.fixture(scope="module")
def folder_of_videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / "more" / "deep").mkdir(parents=True)
    write_video(folder / "a.mp4", 25)
    write_video(folder / "more" / "-b.webm", 25, codec="libvpx")
    write_video(folder / "more" / "deep" / "c.d.avi", 25, codec="mpeg4")
    write_video(folder / "tmp.mp4", 25).rename(folder / "1@N0.")  # as DiDeMo names some
    (folder / "LICENSE").write_text("words")
    (folder / "captions.json").write_text("{}")
    (folder / ".hidden.mp4").write_bytes(b"")
    return folder


@pytest.fixture
def source(folder_of_videos, tmp_path):
    return shutil.copytree(folder_of_videos, tmp_path / "source")


@pytest.fixture
def encoded(monkeypatch):
    """The names of the videos that are encoded, in order."""
    names, encode = [], compress.compress_video
    monkeypatch.setattr(
        compress, "compress_video", lambda path, settings: names.append(path.name) or encode(path, settings)
    )
    return names


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("[!.]*") if path.is_file())


def test_layout_and_names_are_kept(source, tmp_path):
    report = run(source, tmp_path / "out")
    assert files(tmp_path / "out") == ["1@N0.mp4", "a.mp4", "more/-b.mp4", "more/deep/c.d.mp4"]
    assert (report.compressed, report.skipped, report.ok) == (4, 0, True)
    assert sorted(os.path.basename(path) for path in report.ignored) == ["LICENSE", "captions.json"]
    assert report.bytes_after == sum((tmp_path / "out" / name).stat().st_size for name in files(tmp_path / "out"))
    assert all(len(all_frames(tmp_path / "out" / name).frames) in (3, 4) for name in files(tmp_path / "out"))


def test_a_second_call_encodes_only_what_changed(source, tmp_path, encoded):
    out = tmp_path / "out"
    run(source, out)
    encoded.clear()
    again = run(source, out)
    assert encoded == []
    assert (again.compressed, again.skipped) == (0, 4)

    write_video(source / "a.mp4", 50)
    (out / "more" / "-b.mp4").unlink()
    (out / "more" / "deep" / "c.d.mp4").write_bytes(b"cut")
    run(source, out)
    assert sorted(encoded) == ["-b.webm", "a.mp4", "c.d.avi"]
    assert len(all_frames(out / "a.mp4").frames) == 6
    encoded.clear()
    assert run(source, out, settings=CompressSettings(crf=30)).compressed == len(encoded) == 4


def test_an_unreadable_video_stops_nothing(source, tmp_path, encoded):
    (source / "a.mp4").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    whole = (source / "more" / "-b.webm").read_bytes()
    (source / "more" / "-b.webm").write_bytes(whole[: len(whole) * 2 // 3])
    report = run(source, tmp_path / "out")
    assert (report.compressed, report.ok) == (3, False)
    assert list(report.failed) == [str(source / "a.mp4")]
    assert "Git-LFS" in report.failed[str(source / "a.mp4")]
    assert list(report.damaged) == [str(source / "more" / "-b.webm")]
    assert files(tmp_path / "out") == ["1@N0.mp4", "more/-b.mp4", "more/deep/c.d.mp4"]
    assert "Git-LFS" in "\n".join(report.details())
    encoded.clear()
    assert not run(source, tmp_path / "out").ok
    assert encoded == ["a.mp4"], "what failed is tried again, what was damaged is not"


def test_another_stream_is_noted_and_is_no_damage(source, tmp_path):
    """A thumbnail before the film, as phones write it."""
    with av.open(str(source / "a.mp4")) as film, av.open(str(source / "two.mp4"), "w") as both:
        still = both.add_stream("mjpeg", rate=1)
        still.width, still.height, still.pix_fmt = 32, 24, "yuvj420p"
        copied = both.add_stream_from_template(film.streams.video[0])
        both.mux(still.encode(av.VideoFrame(32, 24, "yuvj420p")))
        both.mux(still.encode(None))
        for packet in film.demux(video=0):
            if packet.size:
                packet.stream = copied
                both.mux(packet)
    report = run(source, tmp_path / "out")
    assert (report.damaged, report.failed) == ({}, {})
    assert f"{source / 'two.mp4'}: holds 2 video streams; using that of index 1, 64x48" in report.details()
    assert len(all_frames(tmp_path / "out" / "two.mp4").frames) == 3


def test_a_full_disk_names_the_file_and_ends_the_call(source, tmp_path, monkeypatch):
    out, write = tmp_path / "out", compress.write_whole

    def full(path, content):
        if path.name == "a.mp4":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(compress, "write_whole", full)
    with pytest.raises(OSError, match=r"No space left on device.*a\.mp4"):
        run(source, out)
    assert files(out) == ["1@N0.mp4"]
    monkeypatch.setattr(compress, "write_whole", write)
    assert run(source, out).skipped == 1


def test_names_that_collide_are_refused(source, tmp_path):
    write_video(source / "a.mkv", 2)
    with pytest.raises(ValueError, match=r"a\.mkv and .*a\.mp4 -> .*rename"):
        run(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_of_others_are_not_replaced(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.mp4").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"a\.mp4 exist and were not written by this command"):
        run(source, tmp_path / "out")
    assert (tmp_path / "out" / "a.mp4").read_bytes() == b"precious"


def test_unusable_folders_are_named(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match="cannot go into that folder itself"):
        run(source, source / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no videos there"):
        run(tmp_path / "empty", tmp_path / "out")


def test_two_calls_at_once_do_not_mix(source, tmp_path):
    run(source, tmp_path / "out")
    lock = compress.FileLock(tmp_path / "out" / compress.LOCK)
    with lock, pytest.raises(ValueError, match="another process compresses videos into"):
        run(source, tmp_path / "out")


def test_what_a_killed_call_left_behind_is_put_right(source, tmp_path, encoded):
    out = tmp_path / "out"
    run(source, out)
    (out / "a.mp4").unlink()  # in the ledger, but not written any more
    *lines, last = (out / LEDGER).read_text().splitlines()
    name = json.loads(last)[0]
    (out / name).unlink()
    (out / LEDGER).write_text("\n".join([*lines, last[:20]]))  # in the middle of a line
    (out / "more" / ".-b.mp4.123.partial").write_bytes(b"half")
    (out / ".holiday.mp4.123.partial").write_bytes(b"somebody's")
    encoded.clear()
    assert run(source, out).skipped == 2
    assert sorted(encoded) == sorted(["a.mp4", os.path.basename(name).replace(".mp4", ".avi")])
    assert [path.name for path in out.rglob(".*.partial")] == [".holiday.mp4.123.partial"]
    encoded.clear()
    assert run(source, out).skipped == 4


def test_an_interrupted_call_says_what_is_finished(source, tmp_path, monkeypatch):
    def interrupted(path, settings):
        if path.name == "a.mp4":
            raise KeyboardInterrupt
        return compress_video(path, settings)

    monkeypatch.setattr(compress, "compress_video", interrupted)
    with pytest.raises(KeyboardInterrupt, match="1 of 4 videos are compressed; the same command goes on from there"):
        run(source, tmp_path / "out")
    assert files(tmp_path / "out") == ["1@N0.mp4"]


def test_pipes_sockets_and_broken_links_fail_by_name(source, tmp_path):
    os.mkfifo(source / "pipe.mp4")
    os.mkfifo(source / "pipe")
    (source / "gone.mp4").symlink_to(tmp_path / "gone.mp4")
    report = run(source, tmp_path / "out")
    assert report.compressed == 4
    assert report.failed == {
        str(source / "gone.mp4"): f"{source / 'gone.mp4'}: is not a regular file but a broken link",
        str(source / "pipe.mp4"): f"{source / 'pipe.mp4'}: is not a regular file",
    }


@pytest.mark.parametrize("cut", [False, True])
def test_metadata_that_is_not_utf_8_stops_nothing(source, tmp_path, cut):
    (source / "a.mp4").unlink()
    content = write_video(source / "a.mkv", 9).read_bytes()
    assert content.count(b"Lavf") > 1  # the name of the program that wrote it
    (source / "a.mkv").write_bytes(content.replace(b"Lavf", b"\xe4avf")[: 600 if cut else None])
    report = run(source, tmp_path / "out")
    assert list(report.failed) == ([str(source / "a.mkv")] if cut else [])
    assert report.compressed == 3 + (not cut)


def test_the_command_prints_a_table_and_failures(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rich.console.Console", lambda: Console(width=200))
    command = ["data", "compress", str(source), str(tmp_path / "out"), "--num-proc", "1", "--fps", "5"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "MB after" in captured.out
    assert "compress" in captured.err
    assert "video/s" in captured.err
    assert len(all_frames(tmp_path / "out" / "a.mp4").frames) == 5
    (source / "a.mp4").write_bytes(b"")
    assert main(command) == 1
    assert "a.mp4: is empty" in capsys.readouterr().out
    assert main([*command, "--short-side", "3"]) == 1
    assert "short_side=3 must be even" in capsys.readouterr().err


def test_real_clips_come_out_as_they_are_listed(reference_dir, tmp_path):
    for folder in ("msrvtt_clips", "activitynet_clips"):
        report = run(reference_dir / "data" / folder, tmp_path / folder)
        assert report.ok
        assert report.bytes_after < report.bytes_before
        for source in (reference_dir / "data" / folder).glob("*.mp4"):
            before, after = decode_video(source), all_frames(tmp_path / folder / source.name)
            assert min(after.frames.shape[1:3]) == min(224, *before.frames.shape[1:3])
            assert after.duration == pytest.approx(before.duration, abs=1 / 3)


def test_real_odd_files_compress_or_fail_by_name(reference_dir, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # none escapes: all are in the report
        report = run(reference_dir / "data" / "videos" / "edge", tmp_path / "out")
    assert sorted(os.path.basename(path) for path in report.failed) == [
        "derived_zero_bytes.mp4",
        "lerobot_lfs_pointer.mp4",
    ]
    assert "118 can be read" in "".join(report.damaged.values())
