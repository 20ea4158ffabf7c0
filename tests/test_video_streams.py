"""Every unreadable file gets a named error; of several streams the one that players show is read."""

import errno
import io
import os
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from hostile import LISTS
from PIL import Image, features
from videos import frame_image, numbers, write_sound, write_video, write_with_sound

from modeling_glccl import video_streams_glccl as video_streams
from modeling_glccl.data.reencode import compress_video
from modeling_glccl.video_decoding_glccl import decode_video
from modeling_glccl.video_streams_glccl import VideoDecodeError


def test_paths_bytes_file_objects_and_dictionaries(tmp_path):
    path = write_video(tmp_path / "a.mp4", 30)
    content, expected = path.read_bytes(), decode_video(path).frames
    with path.open("rb") as file:
        file.read(100)  # the position does not matter
        sources = [str(path), content, bytearray(content), io.BytesIO(content), file]
        sources += [{"path": str(path), "bytes": None}, {"path": "in_a_table.mp4", "bytes": content}]
        for source in sources:
            np.testing.assert_array_equal(decode_video(source).frames, expected)
        assert not file.closed

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

    np.testing.assert_array_equal(decode_video(Pipe(content)).frames, expected)


def test_sources_that_are_no_video(tmp_path, monkeypatch):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "notes.mp4").write_text("not a video at all\n" * 20)
    (tmp_path / "pointer.mp4").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
    )
    whole = write_video(tmp_path / "a.mp4", 50).read_bytes()
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    (tmp_path / "no_index.mp4").write_bytes(whole[: len(whole) // 2])
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        write_sound(container, container.add_stream("aac", rate=16000), 4)
    monkeypatch.chdir(tmp_path)
    for source, reason in [
        ("missing.mp4", "missing.mp4: no such file"),
        (tmp_path, "is a directory"),
        ("https://example.org/a.mp4", "https://example.org/a.mp4: is a URL"),
        ("rtsp://example.org/a", "is a URL"),
        ("concat:a.mp4|a.mp4", "no such file"),
        ("pipe.mp4", "pipe.mp4: is not a regular file"),
        ("zero.mp4", "zero.mp4: is not a regular file"),
        ("empty.mp4", "empty.mp4: is empty"),
        (b"", "video bytes: is empty"),
        (io.BytesIO(), "is empty"),
        ("pointer.mp4", "pointer.mp4: is a Git-LFS pointer.*git lfs pull"),
        ("notes.mp4", "notes.mp4: is not a video that FFmpeg can read"),
        ("list.mp4", r"list.mp4: is in a format that is not read \(a list of other files"),
        ("no_index.mp4", "no_index.mp4: has no moov box"),
        (Path("no_index.mp4").read_bytes(), "has no moov box"),
        ({"path": "row.mp4", "bytes": b"abc"}, "row.mp4: is not a video"),
        ("sound.mp4", "sound.mp4: has no video stream .it holds: audio"),
        (io.StringIO("text"), "open it with mode 'rb'"),
        (12, "cannot read a video from int"),
        ({"path": None, "bytes": None}, "cannot read a video from NoneType"),
    ]:
        with pytest.raises(VideoDecodeError, match=reason):
            decode_video(source)


def test_formats_that_open_sockets_or_files_are_refused_before_they_do(tmp_path):
    video = write_video(tmp_path / "a.ts", 10)
    image = io.BytesIO()
    Image.new("RGB", (64, 48)).save(image, "PNG")
    sources = [image]
    for format_, text in LISTS.items():
        path = tmp_path / f"x.{format_}"
        path.write_text(text.format(port=9, video=video))
        sources += [path, path.read_bytes(), io.BytesIO(path.read_bytes())]
    for source in sources:
        with pytest.raises(VideoDecodeError, match=r"a format that is not read|not a video that FFmpeg can"):
            decode_video(source)


def test_a_seek_to_nowhere_is_survived_in_a_file_object_as_in_a_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", 5)
    file = video_streams._Readable(io.BytesIO(path.read_bytes()))
    assert (file.seek(7), file.seek(-1), file.seek(2**50), file.tell()) == (7, -errno.EINVAL, -errno.EINVAL, 7)
    expected = decode_video(path).frames
    with os.fdopen(os.open(path, os.O_RDONLY), "rb") as number:  # whose name is a number
        np.testing.assert_array_equal(decode_video(number).frames, expected)


def test_titles_in_another_encoding_are_ignored(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "a title of cafe"
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_image(5))))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"a title of cafe", b"a title of caf\xe9"))
    assert numbers(decode_video(path)) == [5]


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"MAX_PIXELS": 64 * 48 - 1}, "its frames of 64x48 have more than 3,071 pixels"),
        ({"MAX_BYTES": 64 * 48 * 3 // 2 - 1}, "its frames of 64x48, yuv420p, take 4,608 bytes each"),
    ],
)
@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_frames_beyond_the_limits_are_refused(tmp_path, monkeypatch, suffix, limit, message):
    path = write_video(tmp_path / f"a.{suffix}", 40)
    for name, value in limit.items():
        monkeypatch.setattr(video_streams, name, value)
    with pytest.raises(VideoDecodeError, match=rf"a\.{suffix}: {message}"):
        decode_video(path)


@pytest.mark.parametrize("suffix", ["mp4", "h264"])
def test_frames_that_a_decoder_holds_are_bounded(tmp_path, monkeypatch, suffix):
    assert video_streams.MAX_HELD > 9 * 4096 * 2160 * 3  # what dav1d holds of what SVT-AV1 makes with 10 bits
    size = 2048 * 1040 * 3 // 2  # as the decoder holds it, with a margin at most
    path = write_video(tmp_path / f"a.{suffix}", 14, size=(2048, 1040), options={"bf": "0", "refs": "8"})
    monkeypatch.setattr(video_streams, "MAX_HELD", 13 * size)
    assert len(decode_video(path, 14, transform=lambda frame: frame[:1, :1]).frames) == 14
    monkeypatch.setattr(video_streams, "MAX_HELD", 4 * size)
    with pytest.raises(VideoDecodeError, match=r"decoder holds \d frames of 2048x1040, yuv420p, 3,\d+,\d+ bytes"):
        decode_video(path)
    monkeypatch.setattr(video_streams, "MAX_HELD", 2 * size - 1)
    with pytest.raises(VideoDecodeError, match="its decoder holds 2 frames"):  # known from its header
        decode_video(path)


def test_packets_of_a_stream_that_begins_in_the_middle_are_left_out(tmp_path):
    path = write_video(tmp_path / "a.flv", 200)  # longer than FFmpeg looks for streams
    sound = b"\x08" + (5).to_bytes(3, "big") + bytes(7) + b"\x2f\xff\xfb\x90\x00" + (16).to_bytes(4, "big")
    whole, frames = path.read_bytes(), decode_video(path).frames
    path.write_bytes(whole + sound)
    with av.open(str(path)) as container, pytest.raises(IndexError):
        list(container.demux(video=0))
    np.testing.assert_array_equal(decode_video(path).frames, frames)


def write_streams(path, *streams):
    """One file of streams that are given as (number of frames, width, height)."""
    with av.open(str(path), "w") as container:
        added = []
        for _, width, height in streams:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            added.append(stream)
        for stream, (count, *size) in zip(added, streams, strict=True):
            for number in range(count):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_image(number, *size))))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_of_several_streams_it_takes_the_one_that_players_show(tmp_path, suffix):
    path = write_streams(tmp_path / f"a.{suffix}", (1, 128, 96), (50, 64, 48))
    with pytest.warns(UserWarning, match=r"holds 2 video streams; using that of index 1, 64x48") as caught:
        decoded = decode_video(path)
    assert len(caught) == 1
    assert decoded.frames.shape == (12, 48, 64, 3)
    with pytest.warns(UserWarning, match="holds 2 video streams"):
        small = compress_video(path)
    assert decode_video(small).frames.shape[1:] == (48, 64, 3)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_animated_avif_has_all_its_frames():
    file, images = io.BytesIO(), [Image.fromarray(frame_image(i)) for i in range(5)]
    images[0].save(file, "AVIF", save_all=True, append_images=images[1:], duration=100)
    with pytest.warns(UserWarning, match="holds 2 video streams"):
        assert numbers(decode_video(file)) == [0, 1, 2, 3, 4]


# What an MP4 file says that it holds: FFmpeg makes room for all of it as soon as it opens the file


def claim(content: bytes, number: int = 80_000_000, **places: int) -> bytes:
    """The file with a number at an offset from the name of each box, of the last track that has it."""
    changed = bytearray(content)
    for box, offset in places.items():
        place = changed.rindex(box.encode()) + offset
        changed[place : place + 4] = number.to_bytes(4, "big")
    return bytes(changed)


@pytest.mark.parametrize("kind", ["video", "double", "compressed sound", "plain sound", "fragment", "deep"])
def test_more_samples_than_memory_holds_are_refused_before_ffmpeg_opens_the_file(tmp_path, kind, monkeypatch):
    if kind == "compressed sound":
        content = claim(write_with_sound(tmp_path / "a.mp4", 10, "mpeg4").read_bytes(), stsz=12)
    elif kind == "plain sound":  # all samples in one chunk, each a tick long
        content = claim(write_with_sound(tmp_path / "a.mov", 10, "mpeg4", "pcm_s16le").read_bytes(), stsz=12)
        assert decode_video(content, 20).frames.shape[0] == 10  # half an hour of sound, say, is no index of as much
        content = claim(claim(content, 2**32 - 1, stsc=16), 1000, stco=8)
    elif kind == "fragment":
        options = {"movflags": "frag_keyframe+empty_moov"}
        content = claim(write_video(tmp_path / "a.mp4", 10, container_options=options).read_bytes(), trun=8)
    else:
        content = claim(write_video(tmp_path / "a.mov", 10, codec="rawvideo").read_bytes(), stsz=12, stts=12, stsc=16)
        if kind == "deep":
            content = content.replace(b"moov", b"udta")
        if kind == "double":  # FFmpeg takes the first
            end = content.index(b"stsz") + 16
            content = content[:end] + struct.pack(">I4sIII", 20, b"stsz", 0, 1, 10) + content[end:]
    opened = []
    monkeypatch.setattr(av, "open", lambda *args, **options: opened.append(args))
    for source in (content, io.BytesIO(content)):
        with pytest.raises(VideoDecodeError, match=r"says that it holds more than 6,500,000 samples; cut it into"):
            decode_video(source)
    assert not opened


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


TABLE, HANDLER = box(b"stsz", struct.pack(">III", 0, 1, 80_000_000)), box(b"hdlr", bytes(24))


@pytest.mark.parametrize(
    "hidden",
    [
        *(box(kind, TABLE) for kind in (b"tref", b"schi", b"ilst")),
        box(b"meta", bytes(100) + HANDLER + TABLE),
        box(b"stsd", bytes(90) + TABLE),
        box(b"cmov", box(b"dcom", b"zlib") + box(b"cmvd", bytes(4) + zlib.compress(box(b"moov", TABLE)))),
        box(b"cmov", box(b"dcom", b"zlib") + box(b"cmvd", struct.pack(">I", 80_000_000))),
    ],
    ids=["tref", "schi", "ilst", "meta", "stsd", "compressed", "bomb"],
)
def test_tables_of_samples_are_found_wherever_ffmpeg_finds_them(hidden):
    with pytest.raises(VideoDecodeError, match="more than 6,500,000 samples"):
        decode_video(box(b"ftyp", b"qt  ") + box(b"moov", box(b"trak", hidden)))


def test_boxes_that_are_longer_than_the_file_or_than_memory(tmp_path):
    (tmp_path / "a.mp4").write_bytes(struct.pack(">I4sQ", 1, b"stsc", 2**40))
    os.truncate(tmp_path / "a.mp4", 2**40)
    with pytest.raises(VideoDecodeError, match="more than 6,500,000 samples"):
        decode_video(tmp_path / "a.mp4")
    cut = io.BytesIO(box(b"free", b"") + b"moov")  # while it is read
    assert [kind for kind, *_ in video_streams._boxes(cut, 0, 1000)] == [b"free"]


def test_a_file_of_boxes_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(video_streams, "MAX_SAMPLES", 1000)
    content = write_video(tmp_path / "a.mp4", 10).read_bytes()
    assert len(decode_video(content).frames) == 10
    with pytest.raises(VideoDecodeError, match="more than 1,000 samples"):
        decode_video(content + struct.pack(">I4s", 8, b"free") * 1000)
    for length in (0, 1, 7):  # to the end of the file, in 64 bits, and impossible
        assert len(decode_video(content + struct.pack(">I4s", length, b"free")).frames) == 10
