"""One finder of videos: what it takes, what it names, and what no command may open."""

import os
import socket
from pathlib import Path

import pytest
from videos import write_video

from modeling_glccl.video_decoding_glccl import decode_video
from modeling_glccl.video_files import VIDEO_SUFFIXES, find_videos, printable, why_no_file

# Suffixes that FFmpeg's writers do not know by name: another one of the same container.
WRITTEN_AS = {".qt": ".mov", ".divx": ".avi", ".mts": ".ts", ".f4v": ".mp4"}
WRITTEN_AS |= {".mjpg": ".mjpeg", ".264": ".h264", ".265": ".hevc", ".h265": ".hevc"}
MPEG2 = {".mpg", ".mpeg", ".m2v", ".vob", ".mxf"}
CODECS = {".webm": "libvpx", ".ogv": "libvpx", ".gif": "gif", ".flv": "libx264"} | dict.fromkeys(MPEG2, "mpeg2video")
CODECS |= {".mjpeg": "mjpeg", ".mjpg": "mjpeg", ".y4m": "rawvideo", ".ivf": "libvpx"}
CODECS |= dict.fromkeys((".h264", ".264"), "libx264") | dict.fromkeys((".hevc", ".h265", ".265"), "libx265")


@pytest.mark.parametrize("suffix", [suffix for suffix in VIDEO_SUFFIXES if suffix not in (".dv", ".avif")])
def test_what_it_takes_for_a_video_the_decoder_reads(tmp_path, suffix):
    written = write_video(
        tmp_path / f"a{WRITTEN_AS.get(suffix, suffix)}", 12, codec=CODECS.get(suffix, "mpeg4"), size=(176, 144)
    )
    path = written.rename(tmp_path / f"b{suffix.upper()}")
    assert find_videos(tmp_path).videos == [str(path)]
    assert decode_video(path, max_frames=2).frames.shape[0] == 2


def test_it_finds_files_and_names_what_it_leaves_out(tmp_path, monkeypatch):
    (tmp_path / "folder.mp4" / "deep").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    taken = ("a.mp4", "folder.mp4/deep/b.M2V", "z.webm")
    for name in (*taken, "notes.txt", "README", "still.webp", ".a.mp4", "._a.mp4", ".hidden/c.mp4"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.mp4" / "up").symlink_to(tmp_path)
    scandir = os.scandir

    def guarded(path):
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "scandir", guarded)
    found = find_videos(tmp_path)
    assert found.videos == [str(tmp_path / name) for name in taken]
    assert found.irregular == [str(tmp_path / name) for name in ("gone.mp4", "pipe.mp4", "zero.mp4")]
    assert [os.path.basename(path) for path in found.ignored] == ["README", "notes.txt", "still.webp"]
    assert found.notes() == [
        f"{tmp_path / 'locked'}: this folder may not be read and is left out",
        "other files ignored: 3 (suffixes .txt, .webp, none)",
    ]


def test_a_folder_without_videos_says_which_suffixes_they_have(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"no videos there \(suffixes .mp4, .*\.y4m\); other files ignored: 1"):
        find_videos(tmp_path).check()
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        find_videos(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"a\.txt: is a file"):
        find_videos(tmp_path / "a.txt")


def test_what_must_not_be_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.mp4")
        os.mkfifo("pipe.mp4")
        Path("link.mp4").symlink_to("nowhere")
        Path("file.mp4").touch()
        assert why_no_file("file.mp4") is None
        assert why_no_file("none.mp4") == "No such file or directory"
        for name in ("socket.mp4", "pipe.mp4", "link.mp4", "/dev/zero", "."):
            assert why_no_file(name).startswith("is not a regular file")


def test_names_that_are_not_utf_8_can_be_printed():
    assert printable("/a/café.mp4") == "/a/café.mp4"
    assert printable(os.fsdecode(b"/a/caf\xe9.mp4")) == "/a/caf\\xe9.mp4"
