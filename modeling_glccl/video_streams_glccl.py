"""Opens videos, and chooses the stream that a player would show. Nothing else opens files with FFmpeg."""

import errno
import io
import os
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain, islice
from typing import Any, BinaryIO, NamedTuple, cast

import av
import numpy as np
from av.error import ArgumentError, FFmpegError
from av.stream import Disposition

# FFmpeg's names of the containers that are read: they hold their frames themselves. Others name files to read, open
# sockets or devices, or hold one image: a video handed in must not make this machine open what it likes.
FORMATS = (
    "apng,asf,avi,dv,flv,gif,gxf,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,vc1,"
    "vvc,wtv,yuv4mpegpipe"
)
MAX_PIXELS = 4096 * 3072  # of one frame
MAX_BYTES = 76_000_000  # of one frame as the decoder holds it
# Of all frames that a decoder holds at once, so that no file takes more than 300 MB: in 4K with 10 bits and 4:2:2
# these are seven, and players allow six; nine of AV1 in 4096x2160 with 10 bits. More than one thread holds more.
MAX_HELD = 240_000_000
# Of all tracks of an MP4 file together, of which FFmpeg holds some 35 bytes each: a day with sound.
MAX_SAMPLES = 6_500_000
# Boxes of MP4 that FFmpeg looks into, wherever they stand; what begins those that it finds in others, behind other
# things; and those that tell of samples.
_PARENTS = frozenset(
    b"moov trak mdia minf stbl moof traf mvex udta edts dinf wave tapt ipro sinf schi tref ilst".split()
)
_HIDDEN = {b"meta": b"hdlr", b"stsd": b"hdlr|stts|stsz|stz2|stsc|stco|co64|trun"}
_TABLES = frozenset(b"hdlr stts stsz stz2 stsc stco co64 trun cmov".split())


class VideoDecodeError(ValueError):
    """A video that cannot be read. The message names the file, the reason and, where there is one, the remedy."""


class Source(NamedTuple):
    """A video that is there: a path, or a file object that can seek."""

    file: str | BinaryIO
    name: str  # in messages


@contextmanager
def open_video(
    source: Any, num_threads: int = 1, warn: bool = True, checked: bool = False
) -> Iterator[tuple[Any, Any]]:
    """The open container of a video, and the stream that a player would show. Nothing else opens files with FFmpeg.

    Args:
        source, num_threads: as of [`decode_video`], which also lists the errors.
        warn: warn where there are several streams.
        checked: whether the same file has been opened before.
    """
    source = locate(source)
    with _open_container(source, checked) as container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            others = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise VideoDecodeError(f"{source.name}: has no video stream (it holds: {others})")
        streams = [stream for stream in streams if stream.codec_context is not None]
        if not streams:
            raise VideoDecodeError(
                f"{source.name}: this FFmpeg has no decoder for it; re-encode it, for example as H.264"
            )
        stream = streams[0] if len(streams) == 1 else _best(streams, source)
        codec = stream.codec_context
        if len(streams) > 1 and warn:
            warnings.warn(
                f"{source.name}: holds {len(streams)} video streams; using that of index {stream.index}, "
                f"{codec.width}x{codec.height}",
                stacklevel=3,
            )
        if codec.width * codec.height > MAX_PIXELS:
            raise VideoDecodeError(
                f"{source.name}: its frames of {codec.width}x{codec.height} have more than {MAX_PIXELS:,} pixels; "
                "re-encode it smaller"
            )
        size = codec.width * codec.height * (codec.format.padded_bits_per_pixel if codec.format else 0) // 8
        if size > MAX_BYTES:
            raise VideoDecodeError(
                f"{source.name}: its frames of {codec.width}x{codec.height}, {codec.format.name}, take {size:,} bytes "
                "each, too many for memory; re-encode it with fewer bits"
            )
        check_held(codec.reorder_depth + 2, size, codec, source.name)
        codec.options = {"max_pixels": str(MAX_PIXELS)}  # it may change on the way
        stream.thread_count = num_threads
        if num_threads > 1:
            stream.thread_type = "AUTO"
        yield container, stream


def _open_container(source: Source, checked: bool) -> Any:
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
    try:
        with open(source.file, "rb") if isinstance(source.file, str) else nullcontext(source.file) as file:
            file.seek(0)
            # By its name alone FFmpeg would tell a stream of JPEGs from an image.
            name = "mjpeg" if file.read(3) == b"\xff\xd8\xff" else None
            if not checked:
                _check_samples(file, source.name)
            file.seek(0)
        file = source.file if isinstance(source.file, str) else _Readable(source.file)
        return av.open(file, format=name, options=options, metadata_errors="ignore")
    except (FFmpegError, OSError) as error:
        raise VideoDecodeError(f"{source.name}: {_diagnose(source.file, error)}") from error


def _boxes(file: BinaryIO, offset: int, end: int, depth: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of what each box of an MP4 file holds, those in others after these; of other files noise."""
    while offset + 8 <= end:
        file.seek(offset)
        if len(head := file.read(16)) < 8:  # the file has been cut meanwhile
            return
        length, kind, begin = _number(head, 0), head[4:8], offset + 8
        if length == 1:
            length, begin = int.from_bytes(head[8:], "big"), offset + 16
        offset = min(offset + max(length, 8), end) if length else end  # 0: up to the end
        yield kind, begin, offset
        starts = [begin] if kind in _PARENTS else []
        if kind in _HIDDEN:
            file.seek(begin)
            content = file.read(min(offset - begin, 2**25))
            starts = [begin + found.start() - 4 for found in re.finditer(_HIDDEN[kind], content)]
        for start in starts if depth < 10 else []:  # as FFmpeg
            yield from _boxes(file, start, offset, depth + 1)


def _check_samples(file: BinaryIO, name: str) -> None:
    """Raises VideoDecodeError where an MP4 file says that it holds more samples than memory does.

    To say so takes it a few bytes, and FFmpeg makes an entry for each as soon as it opens the file. So do runs of
    chunks (stsc), and a header that is compressed (cmov) takes the bytes that it says: they count like samples.
    """
    total, parts = 0, [file]
    for part in parts:
        track = {}
        for kind, begin, end in chain(_boxes(part, 0, part.seek(0, os.SEEK_END)), [(b"trak", 0, 0)]):
            total += 1 + (end - begin) // 12 * (kind == b"stsc")
            if kind == b"trak":  # the one before is complete
                total, track = total + _entries(track), {}
            elif kind in _TABLES and total <= MAX_SAMPLES:
                part.seek(begin)
                content = part.read(min({b"stsc": end, b"cmov": MAX_SAMPLES}.get(kind, 16), end - begin))
                track.setdefault({b"stz2": b"stsz", b"co64": b"stco"}.get(kind, kind), []).append(content)
                total += _number(content, 4) if kind == b"trun" else 0
                if kind == b"cmov":
                    total += _number(content, 20)
                    with suppress(zlib.error):
                        parts.append(io.BytesIO(zlib.decompressobj().decompress(content[24:], MAX_SAMPLES)))
            if total > MAX_SAMPLES:
                raise VideoDecodeError(
                    f"{name}: says that it holds more than {MAX_SAMPLES:,} samples; cut it into parts"
                )


def _entries(track: dict[bytes, list[bytes]]) -> int:
    """In FFmpeg's index of a track: its samples; of sound whose samples last a tick, 1,024 of a chunk together."""
    kinds = {content[8:12] for content in track.get(b"hdlr", [])}
    ticks = [(_number(content, 4), _number(content, 12)) for content in track.get(b"stts", [])] == [(1, 1)]
    if not ticks or b"soun" not in kinds or kinds & {b"vide", b"subp", b"clcp"}:
        return max((_number(content, 8) for content in track.get(b"stsz", [])), default=0)
    chunks, total = max((_number(content, 4) for content in track.get(b"stco", [])), default=0), 0
    for content in track.get(b"stsc", []):
        runs = np.frombuffer(content[8 : 8 + (len(content) - 8) // 12 * 12], ">u4").astype(np.int64).reshape(-1, 3)
        total += int((np.diff(runs[:, 0], append=chunks + 1).clip(0) * -(-runs[:, 1] // 1024)).sum())
    return total


def _number(content: bytes, place: int) -> int:
    return int.from_bytes(content[place : place + 4], "big")


class _Readable:
    """A file object that does as FFmpeg's own files: to seek to nowhere is an error, which a reader may survive."""

    def __init__(self, file: BinaryIO):
        self.read, self.tell, self._file = file.read, file.tell, file
        self.name = str(getattr(file, "name", "<none>"))

    def seek(self, offset: int, whence: int = 0) -> int:
        try:  # file systems end at 2^43 bytes or later, and a file in memory does not
            return self._file.seek(offset, whence) if offset < 2**43 else -errno.EINVAL
        except (OSError, ValueError):
            return -errno.EINVAL


def demux(container: Any, *streams: Any) -> Iterator[Any]:
    """The packets of some streams, or of all; those of a stream that only begins in the middle are left out."""
    while True:
        try:
            return (yield from container.demux(*streams))
        except IndexError:  # PyAV looks the stream up among those that were there at first
            continue


def _best(streams: list[Any], source: Source) -> Any:
    """The stream that a player would show: no thumbnail, then by what the file says, size and length."""
    frames = Counter({stream.index: stream.frames for stream in streams})
    if not all(frames.values()):
        with _open_container(source, checked=True) as container, suppress(FFmpegError):
            for packet in islice(demux(container, *container.streams.video), 2000):
                frames[packet.stream_index] += packet.size > 0
    most = max(frames.values())

    def rank(stream: Any) -> tuple:
        codec, default = stream.codec_context, stream.disposition & Disposition.default
        count = frames[stream.index]
        return 10 * count > most, bool(default), codec.width * codec.height, count, codec.bit_rate or 0

    return max(streams, key=rank)


def locate(source: Any) -> Source:
    """What to open, and how to call it in messages."""
    if isinstance(source, Source):
        return source
    name = None
    if isinstance(source, dict) and source.keys() <= {"path", "bytes"}:
        name, content = source.get("path"), source.get("bytes")
        source = name if content is None else content
    if isinstance(source, bytes | bytearray | memoryview):
        return Source(io.BytesIO(source), name or "video bytes")
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", name):
            raise VideoDecodeError(f"{name}: is a URL; nothing is fetched from the network, so download it first")
        if os.path.isdir(name):
            raise VideoDecodeError(f"{name}: is a directory; pass the video files in it")
        if not os.path.exists(name):
            raise VideoDecodeError(f"{name}: no such file")
        if not os.path.isfile(name):
            raise VideoDecodeError(f"{name}: is not a regular file")  # reading a pipe or device might never end
        return Source(os.path.abspath(name), name)  # absolute, so that FFmpeg cannot take it for a protocol
    if isinstance(source, io.TextIOBase):
        raise VideoDecodeError(f"{getattr(source, 'name', source)}: is open as text; open it with mode 'rb'")
    if hasattr(source, "read"):
        file = cast(BinaryIO, source)
        file = file if file.seekable() else io.BytesIO(file.read())
        return Source(file, str(getattr(source, "name", "video file")))
    raise VideoDecodeError(f"cannot read a video from {type(source).__name__}; pass a path, bytes or a file object")


def _diagnose(source: str | BinaryIO, error: Exception) -> str:
    """Why FFmpeg could not open it."""
    if isinstance(source, str) and not os.access(source, os.R_OK):
        return "may not be read with your permissions"
    with open(source, "rb") if isinstance(source, str) else nullcontext(source) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(64)
        if not size:
            return "is empty (0 bytes)"
        if head.startswith(b"version https://git-lfs"):
            return "is a Git-LFS pointer, not the video; fetch it with `git lfs pull`"
        if head[4:8] == b"ftyp" and not any(kind == b"moov" for kind, *_ in _boxes(file, 0, size)):
            return "has no moov box, the index of an MP4 file: its recording or download was cut short"
    if isinstance(error, ArgumentError):
        return (
            "is in a format that is not read (a list of other files, a network stream, an image, a rare one); "
            "re-encode it, for example as MP4"
        )
    return f"is not a video that FFmpeg can read ({error})"


def check_held(count: int, size: int, picture: Any, name: str) -> None:
    """Raises VideoDecodeError where so many frames of `size` bytes are more than a decoder may hold."""
    if count * size > MAX_HELD:
        raise VideoDecodeError(
            f"{name}: its decoder holds {count} frames of {picture.width}x{picture.height}, {picture.format.name}, "
            f"{size:,} bytes each, too many for memory; re-encode it smaller, or with fewer reference frames"
        )
