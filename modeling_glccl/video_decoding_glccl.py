"""Video files -> a few of their frames, exactly and with little decoding."""

import math
import os
import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress, groupby
from typing import Any, NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from av.format import Flags
from av.sidedata.sidedata import SideDataContainer

from .video_streams_glccl import MAX_PIXELS, Source, VideoDecodeError, check_held, demux, locate, open_video

MAX_PACKETS = 2_200_000  # of one file, about as many frames: a day of 25 a second; of MP4 they take 249 MB
MANY, MAX_RATE = 2**16, 10_000  # more packets than `MANY` must not be more a second: the duration bounds the work
_NONE = -(2**63)  # the timestamp of a packet without one


class VideoDamageWarning(UserWarning):
    """Of a video that can be read in part; the message says how many frames it should hold, and how many it does."""


@dataclass
class DecodedVideo:
    """Frames of one video file.

    Args:
        frames: uint8 [n, H, W, 3] RGB, upright.
        timestamps: float64 [n], seconds on the file's clock, which starts at 0.
        duration: seconds: the end of the last frame.
        decoded_frames: how many frames the codec had to decode to get these, the cost of the call.
        frame_times: float64 [N], seconds of every frame of the file.
    """

    frames: np.ndarray
    timestamps: np.ndarray
    duration: float
    decoded_frames: int
    frame_times: np.ndarray


def uniform_positions(times: np.ndarray, max_frames: int) -> np.ndarray:
    """Positions, int64 [min(n, max_frames)], of the frames on screen at the centres of `max_frames` equal spans.

    They ascend; a frame that stands still over several centres is repeated. With n <= max_frames each is taken once.

    Args:
        times: [n] seconds, strictly increasing. The last frame counts as long as the others do on average.
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
    """Positions, int64, ascending, of the frames that the authors' release reads: one a second, `max_frames` at most.

    Frame number `second * int(fps)` for every second from `start` to `end` inclusive, as long as there is such a
    frame; of L > max_frames, those at `int(linspace(0, L - 1, max_frames))`.
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
    method: str | float = "uniform"

    def __post_init__(self):
        if not isinstance(self.max_frames, int | np.integer) or self.max_frames < 1:
            raise ValueError(f"max_frames={self.max_frames!r} must be a whole number, 1 or more")
        if isinstance(self.method, int | float):
            if not 0 < self.method < math.inf:
                raise ValueError(f"fps={self.method} must be a positive number of frames a second")
        elif self.method not in ("uniform", "release"):
            raise ValueError(f"sampling={self.method!r} is unknown; use 'uniform' or 'release'")
        start, end = self.start or 0, math.inf if self.end is None else self.end
        if not 0 <= start < end:
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
            if first == last > 0 and (self.start or 0) < _end(times, frame_rate):
                first -= 1  # the window lies between two frames: take the one on screen
            count, times_in = self.max_frames, times[first:last]
            if isinstance(self.method, int | float) and len(times_in):
                seconds = _end(times_in, frame_rate) - times_in[0]
                count = min(count, max(1, int(seconds * self.method + 1e-6)))
            positions = first + uniform_positions(times_in, count)
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
    sampling: str | float = "uniform",
    num_threads: int = 1,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> DecodedVideo:
    """Samples frames of one video file.

    The result is that of decoding every frame in order and picking from the list, but the packets' timestamps are
    read without decoding; then, for each wanted frame, it seeks if the container's index shows a key frame on the way
    there, else decodes on. Files whose packets do not tell the frames' times (AVI with B-frames, MPEG program streams,
    raw streams, damaged files, clocks that run back) are decoded in order. Frames without times of their own count as
    equally spaced; a gap of more than ten minutes that is also a hundred times what all the frames last at their usual
    pace is a broken timestamp, and counts as one spacing.

    Args:
        source: path, bytes, binary file object, or `{"path", "bytes"}` as `datasets.Video(decode=False)` gives.
        max_frames: most frames to return.
        start, end: seconds. "uniform" samples the frames with start <= timestamp < end, "release" includes `end`.
        sampling: "uniform" ([`uniform_positions`]), "release" ([`release_positions`]), or frames a second: "uniform"
            with so many, but not more than `max_frames`.
        num_threads: threads of the codec. One is fastest where several videos are decoded at once; with more,
            FFmpeg's VP8 decoder does not always give the same pixels.
        transform: makes an array of one shape and type of each chosen frame, uint8 [H, W, 3]; `frames` holds the
            results, and no more than one whole frame is in memory.

    Raises:
        VideoDecodeError: a missing path, a directory, pipe or device, a URL, an empty file, a Git-LFS pointer, a
            format not in `FORMATS`, an MP4 file without its index, no video stream, frames of more than `MAX_PIXELS`
            or `MAX_BYTES`, a decoder that holds more than `MAX_HELD`, more than `MAX_PACKETS` packets or `MAX_RATE` a
            second, no frame that decodes, a window without frames.

    A file that holds fewer frames than it declares, or some that do not decode, is used as far as it decodes, with a
    warning; so is the stream that a player would show, where there are several. Damage that the wanted frames do not
    need is not met, and not told of: few frames of a damaged file may come without a warning.
    """
    (video,) = decode_windows(source, [(start, end)], max_frames, sampling, num_threads, transform)
    if isinstance(video, VideoDecodeError):
        raise video
    return video


def decode_windows(
    source: Any,
    windows: Sequence[tuple[float | None, float | None]],
    max_frames: int = 12,
    sampling: str | float = "uniform",
    num_threads: int = 1,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[DecodedVideo | VideoDecodeError]:
    """What [`decode_video`] gives or raises for each window, (start, end), in their order.

    The file is gone through once, however many there are; `transform` is called once a frame, and once more where
    windows begin in frames of other sizes. From a window on that damage reaches, frames are counted without those that
    do not decode. What concerns no window alone is raised.
    """
    source, done = locate(source), 0
    chosen = [FrameSampling(max_frames, *window, sampling) for window in windows]
    try:
        for video in _decode_by_seeking(source, chosen, num_threads, transform):
            yield video
            done += 1
        if done < len(chosen):
            yield from _decode_in_order(source, chosen[done:], num_threads, transform)
    except _NotThereError:
        raise VideoDecodeError(f"{source.name}: changed while it was read; wait until it is written") from None
    except FFmpegError as error:  # of damaged colours, say
        raise VideoDecodeError(f"{source.name}: a frame cannot be shown as RGB ({error})") from error


class _Packets(NamedTuple):
    """All packets of a stream in decoding order: int64 [N] and bool [N]."""

    pts: np.ndarray
    dts: np.ndarray
    is_keyframe: np.ndarray
    is_discard: np.ndarray
    seek_points: np.ndarray  # int64, ascending: pts of the key frames that the container has an index of


class _NotThereError(Exception):
    """A frame did not come out where its packet says."""


def _decode_by_seeking(
    source: Source, chosen: Sequence[FrameSampling], num_threads: int, transform: Callable | None
) -> Iterator[DecodedVideo | VideoDecodeError]:
    """The chosen frames and little else; ends early where the packets do not tell the frames' times."""
    packets = None
    with suppress(FFmpegError, _NotThereError):
        if isinstance(source.file, str) and len(chosen) == 1 and (chosen[0].start or chosen[0].end):
            status = os.stat(source.file)  # other calls for windows of this file may follow
            packets = _read_packets_of_file(source.file, status.st_size, status.st_mtime_ns)
        with open_video(source, num_threads, checked=packets is not None) as (container, stream):
            # In program streams, and where there are no timestamps, packets may get others after a seek.
            if container.format.name == "mpeg" or container.format.flags & Flags.no_timestamps.value:
                return
            packets = packets or _read_packets(stream, source.name)
            if (pts := _times_told(packets, stream)) is None:
                return
            times = _seconds(pts, stream)
            plans = _plan(chosen, times, float(stream.average_rate or 0), source.name)
            cost, end, count = Counter(), _end(times, float(stream.average_rate or 0)), len(packets.pts)
            first = int(packets.pts[0]), int(packets.dts[0])
            frames = _decode_at(
                stream, source.name, pts[np.unique(_positions(plans))].tolist(), packets.seek_points, first, cost
            )
            del packets, pts
            for plan, images in zip(plans, _gather(frames, plans, transform), strict=True):
                if isinstance(plan, VideoDecodeError):
                    yield plan
                else:
                    yield DecodedVideo(images, times[plan], end, cost["frames"], times)
            warn_if_short(stream, source.name, count, times, end, Counter())  # which moves the container


def _plan(
    chosen: Sequence[FrameSampling], times: np.ndarray, frame_rate: float, name: str
) -> list[np.ndarray | VideoDecodeError]:
    """Of each window the positions of its frames, or why it has none."""
    plans = []
    for sampling in chosen:
        try:
            plans.append(sampling.choose(times, frame_rate, name))
        except VideoDecodeError as error:
            plans.append(error)
    return plans


def _positions(plans: Sequence[np.ndarray | VideoDecodeError]) -> np.ndarray:
    """Those of all plans, one after the other."""
    return np.concatenate([np.empty(0, np.int64), *(plan for plan in plans if isinstance(plan, np.ndarray))])


@lru_cache(maxsize=8)
def _read_packets_of_file(path: str, size: int, modified: int) -> _Packets:
    with open_video(path, warn=False) as (_, stream):
        return _read_packets(stream, path)


def _read_packets(stream: Any, name: str) -> _Packets:
    """All packets, undecoded. Only all of them show whether timestamps can be trusted."""
    pts, dts, is_keyframe, is_discard = array("q"), array("q"), array("b"), array("b")
    for packet in _counted(stream, name):
        if packet.size:
            pts.append(_timestamp(packet))
            dts.append(_NONE if packet.dts is None else packet.dts)
            is_keyframe.append(packet.is_keyframe)
            is_discard.append(packet.is_discard)
    # MP4 indexes the times of decoding, Matroska those of presentation; both seek to the latter.
    indexed = np.fromiter((entry.timestamp for entry in stream.index_entries if entry.is_keyframe), np.int64)
    times, keys = (np.frombuffer(pts, np.int64), np.frombuffer(dts, np.int64)), np.frombuffer(is_keyframe, bool)
    found = np.isin(times[0][keys], indexed) | np.isin(times[1][keys], indexed)
    seek_points = np.sort(times[0][keys][found])
    return _Packets(*times, keys, np.frombuffer(is_discard, bool), seek_points)


def _counted(stream: Any, name: str) -> Iterator[Any]:
    """The packets of a stream, while they are not too many."""
    usual = 1 / (float(stream.average_rate or stream.guessed_rate or 25) * float(stream.time_base or 1e-6))
    passed, last = 0.0, None  # ticks, without those by which a clock runs back
    for count, packet in enumerate(demux(stream.container, stream)):
        if count > MAX_PACKETS:
            raise VideoDecodeError(f"{name}: holds more than {MAX_PACKETS:,} packets; cut it into parts")
        if packet.dts is None or last is None:
            passed += packet.duration or usual
        else:
            passed += max(0, packet.dts - last)
        last = packet.dts
        if count >= MANY and count > MAX_RATE * passed * float(stream.time_base):
            raise VideoDecodeError(
                f"{name}: holds {count:,} packets in {passed * float(stream.time_base):.3f} seconds, more than "
                f"{MAX_RATE:,} a second; re-encode it with fewer frames a second"
            )
        yield packet


def _times_told(packets: _Packets, stream: Any) -> np.ndarray | None:
    """The packets' timestamps, ascending, if they are sure to be those of the frames."""
    pts, dts = packets.pts, packets.dts
    if (dts == _NONE).any():
        dts = dts[dts != _NONE]
    shown = pts[~packets.is_discard]
    shown.sort()
    # Compared and not subtracted: with millions of packets every array of numbers counts.
    if not len(shown) or (pts == _NONE).any() or (shown[1:] == shown[:-1]).any() or (dts[1:] < dts[:-1]).any():
        return None
    # Frames decoded or shown before the first key frame lack what they refer to, and may or may not decode.
    if not packets.is_keyframe[0] or shown[0] < pts[0] or _jumps(_seconds(shown, stream), stream)[0].any():
        return None
    # B-frames are stored out of order; timestamps that do not show it were made up by the demuxer (AVI).
    in_order = len(pts) > 2 and (pts[1:] >= pts[:-1]).all()
    return None if in_order and stream.codec_context.has_b_frames else shown


def _jumps(times: np.ndarray, stream: Any) -> tuple[np.ndarray, float]:
    """Which gaps between frames are broken timestamps, bool [n - 1], and the seconds of a usual one."""
    gaps = np.diff(times)
    declared = (stream.container.duration or math.inf) / av.time_base
    pace = min(float(np.median(gaps)), declared / len(times)) if len(gaps) else 0.0
    return gaps > max(600, 100 * len(times) * pace), pace


def _decode_at(
    stream: Any, name: str, targets: list[int], seek_points: np.ndarray, first: tuple[int, int], cost: Counter
) -> Iterator[av.VideoFrame]:
    """Frames at the timestamps `targets`, which ascend; `cost["frames"]` counts those that were decoded.

    `first` are the times of presentation and of decoding of the first packet.
    """
    wanted, current, held = set(targets), -math.inf, {}
    for target in targets:
        place = int(np.searchsorted(seek_points, target, "right"))
        start = int(seek_points[place - 1]) if place else first[0]
        if start > current:
            stream.container.seek(start if place or first[1] == _NONE else first[1], stream=stream)
            frames = _decode_wanted(stream, wanted, held, name)
        frame = None  # what holds a frame keeps its memory from the decoder
        for frame in frames:
            cost["frames"] += 1
            current = -math.inf if frame.pts is None else frame.pts
            if current >= target:
                break
            frame = None
        if frame is None or current != target or frame.is_corrupt:
            raise _NotThereError
        yield frame


def _decode_wanted(stream: Any, wanted: set[int], held: dict[int, int], name: str) -> Iterator[av.VideoFrame]:
    """Frames from here on, without the unwanted ones that no other frame refers to (H.264 marks them)."""
    codec = stream.codec_context
    for packet in demux(stream.container, stream):
        codec.skip_frame = "NONREF" if codec.name == "h264" and packet.pts not in wanted else "DEFAULT"
        yield from _decode(packet, held, name)


def _decode(packet: Any, held: dict[int, int], name: str) -> list[av.VideoFrame]:
    """The frames that come out after a packet; `held` counts the bytes of the decoder's frames by their places."""
    codec, frames = packet.stream.codec_context, packet.decode()
    for frame in frames:
        # Smaller frames are never too many. Decoders draw frames from a pool; that of raw video has none.
        if frame.width * frame.height > 2**21 and codec.thread_count == 1 and codec.name != "rawvideo":
            size = sum(plane.buffer_size for plane in frame.planes)
            if size not in held.values():  # another size, and pool, than before
                held.clear()
            held[frame.planes[0].buffer_ptr] = size
            check_held(len(held), size, frame, name)
    return frames


def _decode_in_order(
    source: Source, chosen: Sequence[FrameSampling], num_threads: int, transform: Callable | None
) -> Iterator[DecodedVideo | VideoDecodeError]:
    """Decodes everything twice: to see which frames there are, then to keep the chosen ones."""
    name = source.name
    with open_video(source, num_threads, warn=False) as (container, stream):
        lost = Counter()
        pts = np.fromiter(map(_timestamp, frames_in_order(stream, name, lost)), np.int64)
        if not len(pts):
            raise VideoDecodeError(
                f"{name}: not one frame decodes ({stream.codec_context.name}); it is damaged, or its frames have more "
                f"than {MAX_PIXELS:,} pixels"
            )
        frame_rate = float(stream.average_rate or stream.guessed_rate or 25)
        # Frames come out in order even where their timestamps do not.
        ascending = np.sort(pts)
        clear = ascending[0] != _NONE and (np.diff(ascending) > 0).all()
        if clear and (ascending != pts).any():  # made up by the demuxer, or exchanged where packets are lost
            with open_video(source, warn=False) as (_, again):
                clear = _times_told(_read_packets(again, name), again) is not None
        if not clear:  # the rate may be computed from them
            declared = stream.frames * av.time_base / container.duration if container.duration else 0
            times = np.arange(len(pts)) / max(frame_rate, declared)
            clock = _seconds(np.unique(pts[pts != _NONE]), stream)
        else:
            times = _seconds(ascending, stream)
            jumps, pace = _jumps(times, stream)
            if jumps.any():
                times = np.cumsum([times[0], *np.where(jumps, pace, np.diff(times))]).round(6)
                frame_rate = 1 / pace
            clock = times
        end = _end(times, frame_rate)
        warn_if_short(stream, name, len(pts), clock, end, lost)
        plans = _plan(chosen, times, frame_rate, name)
    positions = np.unique(_positions(plans))
    with open_video(source, num_threads, warn=False) as (_, stream):
        wanted = np.zeros(positions.max(initial=-1) + 1, bool)
        wanted[positions] = True
        frames = compress(frames_in_order(stream, name, lost), wanted)
        for plan, images in zip(plans, _gather(frames, plans, transform), strict=True):
            if isinstance(plan, VideoDecodeError):
                yield plan
            else:
                yield DecodedVideo(images, times[plan], end, len(pts) + int(plan.max()) + 1, times)


def frames_in_order(stream: Any, name: str, lost: Counter) -> Iterator[av.VideoFrame]:
    """All frames in order. Packets from the first key frame on are counted, and those of them that do not decode;
    those before it belong to a recording cut at its start."""
    started, held = False, {}
    try:
        for packet in _counted(stream, name):
            started = started or packet.is_keyframe
            try:
                frames = _decode(packet, held, name)
            except FFmpegError:
                lost["packets"] += started
                continue
            started = started or bool(frames)
            lost["read"] += started and packet.size > 0 and not packet.is_discard
            yield from frames
            del frames
    except FFmpegError:
        lost["packets"] += 1  # and what follows, which cannot be found


def _seconds(pts: np.ndarray, stream: Any) -> np.ndarray:
    """Timestamps as seconds from the start of the file's clock, which FFmpeg knows to the microsecond."""
    seconds = pts * float(stream.time_base)
    seconds -= (stream.container.start_time or 0) / av.time_base
    return np.round(seconds, 6, out=seconds)


def _timestamp(part: Any) -> int:
    return _NONE if part.pts is None else part.pts


def _gather(
    frames: Iterator[av.VideoFrame], plans: Sequence[np.ndarray | VideoDecodeError], transform: Callable | None
) -> Iterator[Any]:
    """For each plan its frames [n, ...] as RGB, upright and transformed; for one that is an error, None.

    `frames` are those at the positions of all plans, ascending, each once. One of them at a time is in memory, and of
    each plan what has come. A frame of another size than the first of a plan is scaled to it, and turned like it.
    """
    missing = [len(plan) if isinstance(plan, np.ndarray) else 0 for plan in plans]
    ends, gathered, turn = np.cumsum(missing), dict[int, np.ndarray](), 0
    flat, looks = _positions(plans), dict[int, Any]()
    for _, places in groupby(np.argsort(flat, kind="stable"), flat.__getitem__):
        frame = next(frames, None)
        if frame is None:
            raise _NotThereError
        wanted = [(place, int(np.searchsorted(ends, place, "right"))) for place in places]
        look = frame.width, frame.height, *display_matrix(frame)
        images = {
            (width, height, *matrix): frame.to_ndarray(format="rgb24", threads=1, width=width, height=height)
            for width, height, *matrix in {looks.setdefault(number, look) for _, number in wanted}
        }
        del frame  # in 4K it takes 33 MB, as does each that the decoder holds
        images = {look: upright(image, look[2:]) for look, image in images.items()}
        if transform:
            images = {look: transform(image) for look, image in images.items()}
        for place, number in wanted:
            image = images[looks[number]]
            if number not in gathered:
                gathered[number] = np.empty((missing[number], *image.shape), image.dtype)
            gathered[number][place - ends[number]] = image  # counted from the end
            missing[number] -= 1
        del image, images
        while turn < len(plans) and not missing[turn]:
            yield gathered.pop(turn, None)
            turn += 1
    yield from (None for _ in plans[turn:])


def display_matrix(frame: av.VideoFrame) -> list[int]:
    """How a frame is to be turned and mirrored: a b u, c d of a matrix, or nothing."""
    container: Any = SideDataContainer  # `frame.side_data` would keep the frame until garbage is collected
    side_data = container(frame).get("DISPLAYMATRIX")
    return [] if side_data is None else np.frombuffer(bytes(side_data), np.int32)[:5].tolist()


def upright(image: np.ndarray, matrix: Sequence[int]) -> np.ndarray:
    """An image [H, W, 3] turned and mirrored as its frame's [`display_matrix`] says; other angles are ignored.

    The matrix a b u, c d v, x y w takes the point (x, y) to (a x + c y, b x + d y).
    """
    if not matrix:
        return image
    a, b, _, c, d = matrix
    if 50 * max(abs(a), abs(d)) < min(abs(b), abs(c)):  # within a degree of a quarter turn
        image, a, d = image.transpose(1, 0, 2), c, b
    elif 50 * max(abs(b), abs(c)) >= min(abs(a), abs(d)):
        return image
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def warn_if_short(stream: Any, name: str, found: int, clock: np.ndarray, end: float, lost: Counter) -> None:
    """Warns if fewer frames are `found` than the file declares, or than fill its seconds, or with those `lost`."""
    declared, container = stream.frames, stream.container
    start, duration = ((value or 0) / av.time_base for value in (container.start_time, container.duration))
    if declared and stream.duration:
        # An edit list may hide some of the frames; then the duration is that of the others.
        declared = declared if end < 0.99 * float(stream.duration * stream.time_base) else 0
    elif start + end < 0.9 * duration and stream.average_rate:
        # Sound may well go on after the picture: the file is cut only if none of its streams reaches the end.
        reached = 0.0
        with suppress(FFmpegError):  # at a part that is damaged: nothing is reached behind it
            container.seek(container.start_time or 0)
            for packet in demux(container):
                if packet.pts is not None:
                    reached = max(reached, float(packet.pts * packet.time_base))
        declared = round(duration * stream.average_rate) if reached < 0.9 * duration else 0
    # Frames whose references are lost are left out without an error; a few packets never become frames (VP8).
    expected = lost["read"] if found < 0.75 * lost["read"] else found + lost["packets"]
    declared = max(declared, expected, _count_by_clock(clock))
    if found < declared:
        warnings.warn(
            f"{name}: should hold {declared} frames, but {found} can be read; it is damaged or cut. Using those.",
            VideoDamageWarning,
            stacklevel=2,
        )


def _count_by_clock(times: np.ndarray) -> int:
    """How many frames there would be without the holes in the times [n] of a regular video; 0 where it is not such.

    One or two holes in which a frame or two are missing are common: a camera drops them.
    """
    gaps = np.diff(np.unique(times))  # of frames that are shown at once, one counts
    pace = np.median(gaps) if len(gaps) else 0
    holes = np.abs(gaps - pace) > max(0.0015, 0.01 * pace)  # Matroska rounds to 1 ms
    if not 0 < holes.sum() <= max(2, len(gaps) // 50) or holes.all():
        return 0
    missing = round(gaps[holes].sum() / gaps[~holes].mean()) - int(holes.sum())
    return len(times) + missing if missing > 2 else 0
