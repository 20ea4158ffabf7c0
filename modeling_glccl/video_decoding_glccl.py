"""Video files -> a few of their frames, exactly and with little decoding."""

import io
import math
import os
import re
import struct
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np

# FFmpeg's formats that name other files: a video handed in must not make this machine read what it likes.
PLAYLISTS = {"concat", "dash", "hls", "imf", "webm_dash_manifest"}


class VideoDecodeError(ValueError):
    """A video that cannot be read. The message names the file, the reason and, where there is one, the remedy."""


@dataclass
class DecodedVideo:
    """Frames of one video file.

    Args:
        frames: uint8 [n, H, W, 3] RGB, upright.
        timestamps: float64 [n], seconds on the file's clock, which starts at 0.
        duration: seconds: the end of the last frame, or what the file declares if only a part of it was read.
        decoded_frames: how many frames the codec had to decode to get these, the cost of the call.
    """

    frames: np.ndarray
    timestamps: np.ndarray
    duration: float
    decoded_frames: int


def uniform_positions(times: np.ndarray, max_frames: int) -> np.ndarray:
    """Positions of the frames on screen at the centres of `max_frames` equal spans of time.

    Args:
        times: [n] seconds, strictly increasing. The last frame counts as long as the others do on average.
        max_frames: number of spans; with n <= max_frames every frame is taken once.

    Returns:
        int64 [min(n, max_frames)], ascending. A frame that stands still over several centres is repeated.
    """
    count = len(times)
    if count <= max_frames:
        return np.arange(count)
    spacing = (times[-1] - times[0]) / (count - 1)
    odd = 2 * np.arange(max_frames) + 1  # centre k lies (2k + 1) / (2 max_frames) on the way
    # A centre often falls exactly between two frames. Matroska rounds to 1 ms, and would give another frame than MP4.
    if np.abs(times - (times[0] + np.arange(count) * spacing)).max() <= 0.001:
        return odd * count // (2 * max_frames)
    return np.searchsorted(times, times[0] + odd * (count * spacing / (2 * max_frames)), side="right") - 1


def release_positions(
    num_frames: int, fps: float, max_frames: int, start: float | None = None, end: float | None = None
) -> np.ndarray:
    """Positions of the frames that the authors' release reads: one a second, thinned to `max_frames`.

    Frame number `second * int(fps)` for every second from `start` to `end` inclusive, as long as there is such a
    frame; of L > max_frames, those at `int(linspace(0, L - 1, max_frames))`.

    Returns:
        int64 [max_frames or fewer], ascending.
    """
    step = int(fps)
    seconds = np.arange(start or 0, num_frames // step + 1)
    if end is not None:
        seconds = seconds[seconds <= end]
    positions = (seconds * step).astype(np.int64)
    positions = positions[positions < num_frames]
    if len(positions) > max_frames:
        positions = positions[np.linspace(0, len(positions) - 1, num=max_frames, dtype=int)]
    return positions


@dataclass
class FrameSampling:
    """Which frames to take from a video; the arguments are those of [`decode_video`]."""

    max_frames: int = 12
    start: float | None = None
    end: float | None = None
    method: str = "uniform"

    def __post_init__(self):
        if self.max_frames < 1:
            raise ValueError(f"max_frames={self.max_frames} must be 1 or more")
        if self.method not in ("uniform", "release"):
            raise ValueError(f"sampling={self.method!r} is unknown; use 'uniform' or 'release'")
        if not 0 <= (self.start or 0) < (math.inf if self.end is None else self.end):
            raise ValueError(f"start={self.start}, end={self.end}: a window needs 0 <= start < end, in seconds")

    def choose(self, times: np.ndarray, frame_rate: float, name: str) -> np.ndarray:
        """Positions in `times`, the seconds [n] of the frames of video `name` (or of those around the window)."""
        if self.method == "release":
            if frame_rate < 1:
                raise VideoDecodeError(
                    f"{name}: sampling='release' reads one frame a second, but the file declares {frame_rate:g} "
                    "frames a second; use sampling='uniform'"
                )
            positions = release_positions(len(times), frame_rate, self.max_frames, self.start, self.end)
        else:
            first = 0 if self.start is None else int(np.searchsorted(times, self.start))
            last = len(times) if self.end is None else int(np.searchsorted(times, self.end))
            if first == last > 0 and self.start < _end(times, frame_rate):
                first -= 1  # the window lies between two frames: take the one on screen
            positions = first + uniform_positions(times[first:last], self.max_frames)
        if not len(positions):
            raise VideoDecodeError(
                f"{name}: no frame between start={self.start} and end={self.end} seconds; "
                f"its last frame ends at {_end(times, frame_rate):.3f}"
            )
        return positions


def _end(times: np.ndarray, frame_rate: float) -> float:
    """End of the last frame, which counts as long as the others do on average."""
    spacing = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / (frame_rate or 25)
    return float(times[-1] + spacing)


def decode_video(
    source: Any,
    max_frames: int = 12,
    start: float | None = None,
    end: float | None = None,
    sampling: str = "uniform",
    num_threads: int = 1,
) -> DecodedVideo:
    """Samples frames of one video file.

    The result is that of decoding every frame in order and picking from the list, but cheaper: the packets'
    timestamps are read without decoding; then, for each wanted frame, it seeks if the container's index shows a key
    frame on the way there, else decodes on. Files whose packets do not tell the frames' times (AVI with B-frames, MPEG
    program streams, damaged files) are decoded in order.

    Args:
        source: path, bytes, binary file object, or `{"path", "bytes"}` as `datasets.Video(decode=False)` gives.
        max_frames: most frames to return.
        start, end: seconds. "uniform" samples the frames with start <= timestamp < end, "release" includes `end`.
        sampling: "uniform" ([`uniform_positions`]) or "release" ([`release_positions`]).
        num_threads: threads of the codec. One is fastest where several videos are decoded at once; with more,
            FFmpeg's VP8 decoder does not always give the same pixels.

    Raises:
        VideoDecodeError: a missing path, a directory, a URL, an empty file, a Git-LFS pointer, an MP4 file without
            its index, no video stream, no frame that decodes, a window without frames.

    A file that holds fewer frames than it declares is used as far as it decodes, with a warning.
    """
    source, name = _locate(source)
    chosen = FrameSampling(max_frames, start, end, sampling)
    return _decode_by_seeking(source, name, chosen, num_threads) or _decode_in_order(source, name, chosen, num_threads)


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    is_keyframe: bool
    is_discard: bool


def _decode_by_seeking(source: Any, name: str, chosen: FrameSampling, num_threads: int) -> DecodedVideo | None:
    """The chosen frames and little else; None where the packets do not tell the frames' times."""
    with _opened(source, name, num_threads) as (container, stream):
        if container.format.name == "mpeg":
            return None  # in program streams packets get other timestamps after a seek
        try:
            packets, whole = _read_packets(container, stream, chosen)
            if not _tell_times(packets, stream):
                return None
            pts = sorted({packet.pts for packet in packets if not packet.is_discard})
            times, frame_rate = _seconds(pts, container, stream), float(stream.average_rate or 0)
            positions = chosen.choose(times, frame_rate, name)
            frames, decoded_frames = _decode_at(container, stream, [pts[i] for i in positions], packets)
            if frames is None:
                return None
            duration = _end(times, frame_rate)
            if whole:
                _warn_if_short(container, stream, name, len(packets), duration)
            elif container.duration:
                duration = container.duration / av.time_base
        except av.FFmpegError:
            return None
        return DecodedVideo(_to_rgb(frames), times[positions], duration, decoded_frames)


def _read_packets(container: Any, stream: Any, chosen: FrameSampling) -> tuple[list[_Packet], bool]:
    """Packets in decoding order, undecoded, from a key frame before the window on; and whether they are all."""
    start = chosen.start if chosen.method == "uniform" else None
    if start:
        # A second early: some containers index the times of decoding, which lie before those of presentation.
        container.seek(_timestamp(max(0, start - 1), container, stream), stream=stream)
    end = None if chosen.end is None else _timestamp(chosen.end, container, stream)
    packets, whole = [], not start
    for packet in container.demux(stream):
        # No frame is shown before it is decoded: what follows lies behind the window.
        if end is not None and packet.dts is not None and packet.dts > end:
            whole = False
            break
        if packet.size:
            packets.append(_Packet(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
    if start and packets and packets[0].pts is not None:
        # What is shown before the key frame belongs to the part that was skipped.
        packets = [packet for packet in packets if packet.pts is None or packet.pts >= packets[0].pts]
        if _seconds([packets[0].pts], container, stream)[0] > start:
            return [], False
    return packets, whole


def _tell_times(packets: list[_Packet], stream: Any) -> bool:
    """Whether the packets' timestamps are sure to be those of the frames."""
    if any(packet.pts is None for packet in packets) or all(packet.is_discard for packet in packets):
        return False
    # B-frames are stored out of order; timestamps that do not show it were made up by the demuxer (AVI).
    in_order = len(packets) > 2 and all(a.pts <= b.pts for a, b in pairwise(packets))
    # Frames decoded or shown before the first key frame lack what they refer to, and may or may not decode.
    leading = any(packet.pts < packets[0].pts and not packet.is_discard for packet in packets)
    return packets[0].is_keyframe and not leading and not (in_order and stream.codec_context.has_b_frames)


def _seek_points(packets: list[_Packet], stream: Any) -> dict[int, int]:
    """pts -> timestamp to seek to, of the first packet and of the key frames in the container's index."""
    # MP4 indexes the times of decoding, Matroska those of presentation; both seek to the latter.
    indexed = {entry.timestamp for entry in stream.index_entries if entry.is_keyframe}
    first = packets[0].pts if packets[0].dts is None else packets[0].dts
    known = {p.pts: p.pts for p in packets if p.is_keyframe and (p.pts in indexed or p.dts in indexed)}
    return {packets[0].pts: first} | known


def _decode_at(
    container: Any, stream: Any, targets: list[int], packets: list[_Packet]
) -> tuple[list[av.VideoFrame] | None, int]:
    """Frames at the timestamps `targets`, ascending, and how many were decoded; None if one is not where it should."""
    seek_points = _seek_points(packets, stream)
    starts = sorted(seek_points)
    wanted, found = set(targets), {}
    current, decoded_frames = -math.inf, 0
    for target in sorted(wanted):
        start = starts[bisect_right(starts, target) - 1]
        if start > current:
            container.seek(seek_points[start], stream=stream)
            frames = _decode_wanted(container, stream, wanted)
        for frame in frames:
            decoded_frames += 1
            current = -math.inf if frame.pts is None else frame.pts
            if current >= target:
                break
        if current != target:
            return None, decoded_frames
        found[target] = frame
    return [found[target] for target in targets], decoded_frames


def _decode_wanted(container: Any, stream: Any, wanted: set[int]) -> Iterator[av.VideoFrame]:
    """Frames from here on, without the unwanted ones that no other frame refers to (H.264 marks them)."""
    codec = stream.codec_context
    for packet in container.demux(stream):
        codec.skip_frame = "NONREF" if codec.name == "h264" and packet.pts not in wanted else "DEFAULT"
        yield from packet.decode()


def _decode_in_order(source: Any, name: str, chosen: FrameSampling, num_threads: int) -> DecodedVideo:
    """Decodes everything twice: to see which frames there are, then to keep the chosen ones."""
    with _opened(source, name, num_threads) as (container, stream):
        pts = [frame.pts for frame in _frames(container, stream)]
        if not pts:
            raise VideoDecodeError(f"{name}: not one frame decodes ({stream.codec_context.name}); it is damaged")
        frame_rate = float(stream.average_rate or stream.guessed_rate or 25)
        if any(value is None for value in pts) or any(a >= b for a, b in pairwise(pts)):
            times = np.arange(len(pts)) / frame_rate  # frames come out in order even where their timestamps do not
        else:
            times = _seconds(pts, container, stream)
        _warn_if_short(container, stream, name, len(pts), _end(times, frame_rate))
        positions = chosen.choose(times, frame_rate, name)
    with _opened(source, name, num_threads) as (container, stream):
        wanted = set(positions.tolist())
        found = {i: f for i, f in enumerate(islice(_frames(container, stream), positions[-1] + 1)) if i in wanted}
    frames = _to_rgb([found[position] for position in positions.tolist()])
    return DecodedVideo(frames, times[positions], _end(times, frame_rate), len(pts) + int(positions[-1]) + 1)


def _frames(container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """All frames in order up to the first error; errors before the first frame (a cut start) are passed over."""
    started = False
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                if started:
                    return
                continue
            started = started or bool(frames)
            yield from frames
    except av.FFmpegError:
        return


def _seconds(pts: Sequence[int], container: Any, stream: Any) -> np.ndarray:
    """Timestamps as seconds from the start of the file's clock, which FFmpeg knows to the microsecond."""
    start = (container.start_time or 0) / av.time_base
    return np.round(np.asarray(pts, dtype=np.float64) * float(stream.time_base) - start, 6)


def _timestamp(seconds: float, container: Any, stream: Any) -> int:
    return math.ceil((seconds + (container.start_time or 0) / av.time_base) / stream.time_base)


def _to_rgb(frames: list[av.VideoFrame]) -> np.ndarray:
    """uint8 [n, H, W, 3], upright; a frame of another size than the first is scaled to it."""
    width, height = frames[0].width, frames[0].height
    rgb = []
    for frame, previous in zip(frames, [None, *frames], strict=False):
        if frame is not previous:
            image = frame.to_ndarray(format="rgb24", width=width, height=height, threads=1)
            image = np.rot90(image, frame.rotation // 90 if frame.rotation % 90 == 0 else 0)
        rgb.append(image)
    return np.stack(rgb)


def _warn_if_short(container: Any, stream: Any, name: str, found: int, end: float) -> None:
    """Warns if the file declares more frames than `found`, or more seconds than `end`."""
    declared = stream.frames
    start, duration = ((value or 0) / av.time_base for value in (container.start_time, container.duration))
    if declared and stream.duration:
        # An edit list may hide some of the frames; then the duration is that of the others.
        declared = declared if end < 0.99 * float(stream.duration * stream.time_base) else 0
    elif start + end < 0.9 * duration and stream.average_rate:
        # Sound may well go on after the picture: the file is cut only if none of its streams reaches the end.
        container.seek(container.start_time or 0)
        reached = max((float(p.pts * p.time_base) for p in container.demux() if p.pts is not None), default=0)
        declared = round(duration * stream.average_rate) if reached < 0.9 * duration else 0
    if found < declared:
        warnings.warn(
            f"{name}: declares {declared} frames, but {found} can be read; it is damaged or cut. Using those.",
            stacklevel=2,
        )


@contextmanager
def _opened(source: str | BinaryIO, name: str, num_threads: int) -> Iterator[tuple[Any, Any]]:
    """The open container and its first video stream."""
    if not isinstance(source, str):
        source.seek(0)
    try:
        container = av.open(source)
    except (av.FFmpegError, OSError) as error:
        raise VideoDecodeError(f"{name}: {_diagnose(source, error)}") from error
    with container:
        if container.format.name in PLAYLISTS:
            raise VideoDecodeError(f"{name}: is a list of other files ({container.format.name}); pass those files")
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            others = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise VideoDecodeError(f"{name}: has no video stream (it holds: {others})")
        if streams[0].codec_context is None:
            raise VideoDecodeError(f"{name}: this FFmpeg has no decoder for it; re-encode it, for example as H.264")
        streams[0].thread_count = num_threads
        if num_threads > 1:
            streams[0].thread_type = "AUTO"
        yield container, streams[0]


def _locate(source: Any) -> tuple[str | BinaryIO, str]:
    """What to open, and how to call it in messages."""
    if isinstance(source, dict) and source.keys() <= {"path", "bytes"}:
        content, path = source.get("bytes"), source.get("path")
        return _locate(path) if content is None else (io.BytesIO(content), path or "video bytes")
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), "video bytes"
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", name):
            raise VideoDecodeError(f"{name}: is a URL; nothing is fetched from the network, so download it first")
        if os.path.isdir(name):
            raise VideoDecodeError(f"{name}: is a directory; pass the video files in it")
        if not os.path.exists(name):
            raise VideoDecodeError(f"{name}: no such file")
        return os.path.abspath(name), name  # absolute, so that FFmpeg cannot take it for a protocol
    if isinstance(source, io.TextIOBase):
        raise VideoDecodeError(f"{getattr(source, 'name', source)}: is open as text; open it with mode 'rb'")
    if hasattr(source, "read"):
        return source if source.seekable() else io.BytesIO(source.read()), str(getattr(source, "name", "video file"))
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
        if head[4:8] == b"ftyp" and not _has_moov(file, size):
            return "has no moov box, the index of an MP4 file: its recording or download was cut short"
    return f"is not a video that FFmpeg can read ({error})"


def _has_moov(file: BinaryIO, size: int) -> bool:
    offset = 0
    while offset + 8 <= size:
        file.seek(offset)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"moov":
            return True
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if length < 8:
            break
        offset += length
    return False
