"""A moment of a video as a file of its own: copied from a key frame on, or re-encoded to the frame."""

import math
import os
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import av
import numpy as np
from av.error import FFmpegError

from ..atomic import write_whole
from ..video_decoding_glccl import display_matrix, upright
from ..video_streams_glccl import VideoDecodeError, demux, open_video

# What the numbers of a picture mean as colours; players guess it where it is not passed on.
_COLOURS = ("color_primaries", "color_trc", "colorspace", "color_range")
_TICK = Fraction(1, 90_000)  # seconds, of the clock of what is re-encoded


class CutMoment(NamedTuple):
    """A file that was cut, and the seconds of the source that it holds."""

    path: str
    start: float
    end: float


def cut_moment(
    path: str | os.PathLike[str],
    start: float,
    end: float,
    output: str | os.PathLike[str],
    exact: bool = False,
) -> CutMoment:
    """Writes a span of a video to a file, whole or not at all.

    Without `exact` the packets of picture and sound are copied, which is fast and loses nothing, but begins at the
    last key frame that is not after `start`. With `exact` the picture is re-encoded (H.264 in MP4, upright, even
    sides): it begins with the frame on screen at `start`, and ends at `end` or with the video. Sound is copied in both
    cases, if the new file can hold it: without re-encoding it is as exact as its packets, some 20 ms.

    Args:
        path: of the video.
        start, end: seconds on the file's clock, which starts at 0.
        output: a file that does not exist yet. Its suffix names the container, unless `exact`, which needs .mp4.
        exact: re-encode the picture.

    Raises:
        FileExistsError: `output` exists; nothing is overwritten.
        VideoDecodeError: the video cannot be read, has no frame in the span, or its packets cannot be copied.
        ValueError: a span without 0 <= start < end, or `exact` with another suffix than .mp4.
    """
    name, output = os.fspath(path), Path(output)
    if not 0 <= start < end:
        raise ValueError(f"start={start}, end={end}: a moment needs 0 <= start < end, in seconds")
    if exact and output.suffix.lower() != ".mp4":
        raise ValueError(f"{output}: what is re-encoded is an MP4 file; call it .mp4")
    if output.exists():
        raise FileExistsError(f"{output} exists; nothing is overwritten")
    with tempfile.NamedTemporaryFile(dir=output.parent, prefix=".", suffix=output.suffix) as file:
        with open_video(path) as (container, stream):
            try:
                with av.open(file, "w") as target:  # of the container that its name stands for
                    span = (_encode if exact else _copy)(container, stream, target, start, end)
            except (FFmpegError, ValueError) as error:
                remedy = "" if exact else "; re-encode it (exact=True, --exact)"
                raise VideoDecodeError(f"{name}: cannot be cut as {output.suffix} ({error}){remedy}") from error
        if span is None:
            raise VideoDecodeError(f"{name}: no frame between start={start} and end={end} seconds")
        file.seek(0)
        write_whole(output, cast(BinaryIO, file), replace=False)
    return CutMoment(str(output), *span)


def _copy(container: Any, stream: Any, target: Any, start: float, end: float) -> tuple[float, float] | None:
    """Copies packets; returns the seconds when the first of their pictures begins and the last one ends."""
    sound = _sound(container, stream, target)
    copies = {source.index: target.add_stream_from_template(source) for source in (stream, *sound)}
    key, packets = _from_key_frame(container, stream, sound, start, end)
    until, late = None, []
    for packet, seconds in packets:
        picture = packet.stream_index == stream.index
        if picture and seconds >= end:  # needed only where a picture that is shown earlier follows
            late.append((packet, seconds))
            continue
        for copied, begin in [*late, (packet, seconds)] if picture else [(packet, seconds)]:
            if picture:
                spacing = copied.duration * copied.time_base if copied.duration else 1 / (stream.average_rate or 25)
                until = max(until or 0.0, begin + float(spacing))
            _shift(copied, key + _origin(container), copies)
            target.mux(copied)
        late = [] if picture else late
    return None if until is None else (key, until)


def _encode(container: Any, stream: Any, target: Any, start: float, end: float) -> tuple[float, float] | None:
    """Re-encodes what is on screen from `start` to `end`; returns the seconds when it begins and ends."""
    sound = _sound(container, stream, target)
    copies = {source.index: target.add_stream_from_template(source) for source in sound}
    rate = stream.average_rate or stream.guessed_rate or 25
    # Without B-frames, which are stored out of order: MP4 keeps the duration of what is stored last.
    encoder = target.add_stream("libx264", rate=rate, options={"bf": "0"})
    encoder.pix_fmt, encoder.codec_context.time_base, encoder.codec_context.thread_count = "yuv420p", _TICK, 1
    begun = until = shown = None
    before, pictures, waiting, durations = -math.inf, [], [], {}
    _, packets = _from_key_frame(container, stream, sound, start, end)
    for packet, seconds in chain(packets, [(None, math.inf)]):
        if packet is not None and packet.stream_index != stream.index:
            if seconds >= start:
                _shift(packet, start + _origin(container), copies)
                waiting.append(packet)
            continue
        for frame in [*stream.decode(packet), None] if packet is None else stream.decode(packet):
            now = before + float(1 / rate) if frame is None else _seconds(frame, container, stream.time_base)
            if now <= before:
                raise ValueError("its timestamps run backwards")
            begin, stop = max(before, start), min(now, end)
            if shown is not None and begin < stop:
                picture = _upright(shown)
                if begun is None:
                    begun, encoder.width, encoder.height = begin, picture.width, picture.height
                    for name in _COLOURS if not shown.format.is_rgb else ():
                        setattr(encoder.codec_context, name, getattr(shown, name))
                picture.pts, picture.time_base, until = round((begin - start) / _TICK), _TICK, stop
                durations[picture.pts] = round((stop - begin) / _TICK)
                pictures += encoder.encode(picture)
            shown, before = frame, now
        if begun is not None:  # the header tells the size of the pictures
            pictures += encoder.encode(None) if packet is None else []
            for encoded in [*pictures, *waiting]:
                if encoded.stream_index == encoder.index:  # x264 forgets it
                    encoded.duration = durations[encoded.pts]
                target.mux(encoded)
            pictures, waiting = [], []
    return None if begun is None or until is None else (begun, until)


def _upright(frame: av.VideoFrame) -> av.VideoFrame:
    """As a player shows it, with even sides, as H.264's 4:2:0 needs."""
    width, height = (max(2, side - side % 2) for side in (frame.width, frame.height))
    image = frame.to_ndarray(format="yuv444p", channel_last=True, width=width, height=height, threads=1)
    image = np.ascontiguousarray(upright(image, display_matrix(frame)))
    return av.VideoFrame.from_ndarray(image, "yuv444p", channel_last=True)


def _sound(container: Any, stream: Any, target: Any) -> list[Any]:
    """The stream of sound that a player would play, if the target can hold it as it is."""
    best = container.streams.best("audio", related=stream)
    if best is None or best.codec_context is None:
        return []
    # Not every container lists its codecs; one of the same kind holds what it held before.
    same = Path(container.name).suffix.lower() == Path(target.name).suffix.lower()
    return [best] if same or best.codec_context.codec.canonical_name in target.supported_codecs else []


def _from_key_frame(
    container: Any, stream: Any, sound: list[Any], start: float, end: float
) -> tuple[float, Iterator[tuple[Any, float]]]:
    """Seconds of the last key frame that is not after `start` (else of the first), and the packets from there on."""
    key, position = None, 0
    for seconds in (start, -1.0):  # before the beginning: MPEG-TS seeks by other timestamps than are shown
        position = math.floor((seconds + _origin(container)) / stream.time_base)
        container.seek(position, stream=stream)
        for packet, begin in _timed(container, [stream]):
            if begin > start and (key is not None or seconds >= 0):
                break
            if packet.is_keyframe:
                key = begin
        if key is not None:
            break
    container.seek(position, stream=stream)
    return key or 0.0, _until(container, [stream, *sound], key or 0.0, end)


def _until(container: Any, streams: list[Any], key: float, end: float) -> Iterator[tuple[Any, float]]:
    """Packets of the streams from `key` on, with the seconds when each is shown, until all streams are past `end`."""
    past = set()
    for packet, seconds in _timed(container, streams):
        picture = packet.stream_index == streams[0].index
        # A picture is stored after those that it refers to: only the time of its decoding tells what may follow.
        stop = packet.dts if picture else packet.pts or packet.dts
        if stop is not None and stop * packet.time_base - _origin(container) >= end:
            past.add(packet.stream_index)
            if len(past) == len(streams):
                return
        if seconds >= key and (picture or seconds < end):
            yield packet, seconds


def _timed(container: Any, streams: list[Any]) -> Iterator[tuple[Any, float]]:
    for packet in demux(container, *streams):
        if packet.size:
            yield packet, _seconds(packet, container, packet.time_base)


def _seconds(part: Any, container: Any, time_base: Fraction) -> float:
    """When a packet or frame is shown, on the file's clock, which FFmpeg knows to the microsecond."""
    when = part.dts if part.pts is None else part.pts
    if when is None:
        raise ValueError("its packets carry no times")
    return round(float(when * time_base) - _origin(container), 6)


def _origin(container: Any) -> float:
    return (container.start_time or 0) / av.time_base


def _shift(packet: Any, zero: float, copies: dict[int, Any]) -> None:
    """Gives a packet to the copy of its stream, in which `zero`, in seconds, is the beginning."""
    ticks = round(zero / packet.time_base)
    packet.pts = None if packet.pts is None else packet.pts - ticks
    packet.dts = None if packet.dts is None else packet.dts - ticks
    packet.stream = copies[packet.stream_index]
