"""A video file -> clips as the model takes them. Long videos become several, which overlap."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise

import av
import numpy as np
from torch import Tensor
from transformers import BatchFeature

from ..decoding_process_glccl import decode_in_process
from ..processing_glccl import GLCCLProcessor
from ..video_decoding_glccl import MAX_PACKETS, decode_video
from ..video_streams_glccl import VideoDecodeError, open_video
from .shots import FrameChanges, find_cuts

# Shots of fewer seconds are joined with the next.
_SHORTEST_SHOT = 2.0
# Clips that may overlap in one pass over a file: all of them are in memory.
_TOGETHER = 64


@dataclass
class ClipSettings:
    """How videos are cut."""

    length: float = 30.0  # seconds of a clip; videos that are not longer stay whole
    stride: float = 20.0  # seconds from the start of one clip to the start of the next; below `length` they overlap
    kind: str = "fixed"  # or "shots": a clip for each, and such clips only of longer ones

    def __post_init__(self):
        if not 0 < self.stride <= self.length:
            raise ValueError(
                f"clip_length={self.length}, clip_stride={self.stride}: need 0 < stride <= length, or parts of long "
                "videos would never be found"
            )
        if self.kind not in ("fixed", "shots"):
            raise ValueError(f"clips={self.kind!r} is unknown; use 'fixed' or 'shots'")

    def windows(self, times: np.ndarray, duration: float, cuts: Sequence[float] = ()) -> list[tuple[float, float]]:
        """(start, end) in seconds of every clip of a video whose frames begin at `times` (float64 [N], ascending).

        Each shot, from one of the `cuts` to the next (seconds, among `times`), is cut for itself; those of less than
        two seconds are joined with the next. Windows start every `stride` seconds; the last one ends with the shot.
        One in which no frame begins is no clip, nor is one with the very frames of the one before: there are at most
        2 N.
        """
        starts = [0.0]
        for cut in cuts:
            if min(cut - starts[-1], duration - cut) >= _SHORTEST_SHOT:
                starts.append(cut)
        return [window for shot in pairwise([*starts, duration]) for window in self._windows(times, *shot)]

    def _windows(self, times: np.ndarray, begin: float, finish: float) -> Iterator[tuple[float, float]]:
        done, before, number, limit = begin, (0, 0), 0, np.searchsorted(times, finish)
        while done < finish:
            start = begin + number * self.stride
            end = min(start + self.length, finish)
            first, stop = np.searchsorted(times, [start, end])
            if first >= limit:
                break
            if first == stop:  # go on where the next frame begins
                number = max(number + 1, int((times[first] - begin - self.length) // self.stride))
                continue
            if (first, stop) != before:
                yield start, end
                done = end
            before, number = (first, stop), number + 1


@dataclass
class Clip:
    """One clip, decoded."""

    start: float  # seconds in the video
    end: float
    duration: float  # seconds of the video
    times: np.ndarray  # float64 [n], seconds in the video of its frames
    pixels: Tensor  # float32 [Nf, 3, H, W], padded to the processor's `max_frames`
    mask: Tensor  # int64 [Nf], 1 = real frame; the first n


def read_clips(path: str, processor: GLCCLProcessor, settings: ClipSettings, errors: list[str]) -> Iterator[Clip]:
    """The clips of one video file, of which those that overlap are in memory together, at most `_TOGETHER`.

    Those that do not decode are left out, each with a line in `errors`; VideoDecodeError if not one decodes.
    """
    videos = processor.video_processor
    declared = 0.0  # where the container does not tell, or cannot be opened: decoding then says why
    deadline = videos.deadline  # with one, this process opens no file
    if not deadline:
        with suppress(VideoDecodeError), open_video(path, warn=False) as (container, _):
            declared = (container.duration or 0) / av.time_base
    if declared <= settings.length:
        (batch,) = videos.windows(path, [(None, None)])
        if isinstance(batch, VideoDecodeError):
            raise batch
        duration = batch["video_metadata"][0]["duration"]
        if duration <= settings.length:
            yield _clip(batch, 0.0, duration, duration)
            return
    decode = partial(decode_in_process, deadline=deadline) if deadline else decode_video
    if settings.kind == "shots":
        whole = decode(path, MAX_PACKETS, None, None, "uniform", transform=FrameChanges())
        cuts = whole.timestamps[find_cuts(whole.frames)].tolist()
    else:
        whole, cuts = decode(path, 1, None, None, "uniform", transform=lambda frame: frame[:1, :1]), ()
    spans = settings.windows(whole.frame_times, whole.duration, cuts)
    # The last clip goes to the end of the file, which rounding must not cut off.
    windows = [(start, None if end == whole.duration else end) for start, end in spans]
    count = _TOGETHER if settings.length > _TOGETHER * settings.stride else max(1, len(windows))
    passes = (videos.windows(path, windows[first : first + count]) for first in range(0, len(windows), count))
    found, failed = 0, []
    try:
        for (start, end), batch in zip(spans, chain.from_iterable(passes), strict=True):
            if isinstance(batch, VideoDecodeError):
                failed.append(f"{start:.1f}-{end:.1f} s: {batch}")
            else:
                found += 1
                yield _clip(batch, start, end, whole.duration)
    except VideoDecodeError as error:  # of the whole file: it changed while it was read
        failed.append(str(error))
    if not found:
        raise VideoDecodeError("; ".join(failed))
    errors += failed


def _clip(batch: BatchFeature, start: float, end: float, duration: float) -> Clip:
    times, pixels = batch["video_metadata"][0]["timestamps"], batch["pixel_values_videos"][0]
    return Clip(start, end, duration, times, pixels, batch["padding_mask_videos"][0])
