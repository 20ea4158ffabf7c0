"""A video file -> clips as the model takes them. Long videos become several, which overlap."""

from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from torch import Tensor

from ..processing_glccl import GLCCLProcessor
from ..video_decoding_glccl import VideoDecodeError, decode_video, open_video


@dataclass
class ClipSettings:
    """How videos are cut.

    Args:
        length: seconds of a clip; videos that are not longer stay whole.
        stride: seconds from the start of one clip to the start of the next; below `length` they overlap.
    """

    length: float = 30.0
    stride: float = 20.0

    def __post_init__(self):
        if not 0 < self.stride <= self.length:
            raise ValueError(
                f"clip_length={self.length}, clip_stride={self.stride}: need 0 < stride <= length, or parts of long "
                "videos would never be found"
            )

    def windows(self, times: np.ndarray, duration: float) -> list[tuple[float, float]]:
        """(start, end) in seconds of every clip of a video whose frames begin at `times` (float64 [N], ascending).

        Windows start every `stride` seconds; the last one ends with the video. One in which no frame begins is no
        clip, nor is one with the very frames of the one before: there are at most 2 N.
        """
        windows, before, number = [], (0, 0), 0
        while not windows or windows[-1][1] < duration:
            start = number * self.stride
            end = min(start + self.length, duration)
            first, stop = np.searchsorted(times, start), np.searchsorted(times, end) if end < duration else len(times)
            if first == len(times):
                break
            if first == stop:  # go on where the next frame begins
                number = max(number + 1, int((times[first] - self.length) // self.stride))
                continue
            if (first, stop) != before:
                windows.append((start, end))
            before, number = (first, stop), number + 1
        return windows


@dataclass
class Clip:
    """One clip, decoded.

    Args:
        start, end: seconds in the video.
        times: float64 [n], seconds in the video of its frames.
        pixels: float32 [Nf, 3, H, W].
        mask: int64 [Nf], 1 = real frame; the first n.
    """

    start: float
    end: float
    times: np.ndarray
    pixels: Tensor
    mask: Tensor


class ClipReader:
    """Iterates over the clips of one video file, of which one at a time is in memory.

    `duration` (seconds) is known from the first clip on; `errors` names the clips that were left out because they do
    not decode.
    """

    def __init__(self, path: str, processor: GLCCLProcessor, settings: ClipSettings):
        self.path = path
        self.processor = processor
        self.settings = settings
        self.duration = 0.0
        self.errors: list[str] = []

    def __iter__(self) -> Iterator[Clip]:
        """Raises VideoDecodeError if not one clip decodes."""
        if _declared_duration(self.path) <= self.settings.length:
            clip, self.duration = self._read(None, None)
            if self.duration <= self.settings.length:
                yield clip
                return
        whole = decode_video(self.path, max_frames=1, transform=lambda frame: frame[:1, :1])
        self.duration, found = whole.duration, 0
        for start, end in self.settings.windows(whole.frame_times, self.duration):
            try:
                clip, _ = self._read(start, end)
            except VideoDecodeError as error:
                self.errors.append(f"{start:.1f}-{end:.1f} s: {error}")
            else:
                found += 1
                yield clip
        if not found:
            raise VideoDecodeError("; ".join(self.errors))

    def _read(self, start: float | None, end: float | None) -> tuple[Clip, float]:
        # The last clip goes to the end of the file, which rounding must not cut off.
        until = None if end == self.duration else end
        try:
            batch = self.processor(videos=[self.path], start=start, end=until, return_metadata=True)
        except VideoDecodeError as error:
            raise VideoDecodeError(str(error).removeprefix("videos[0]: ")) from error
        (metadata,) = batch["video_metadata"]
        duration = metadata["duration"]
        clip = Clip(
            start=start or 0.0,
            end=duration if end is None else end,
            times=metadata["timestamps"],
            pixels=batch["pixel_values_videos"][0],
            mask=batch["padding_mask_videos"][0],
        )
        return clip, duration


def _declared_duration(path: str) -> float:
    """Seconds that the container declares; 0 if it does not, or cannot be opened (decoding then says why)."""
    try:
        with open_video(path, warn=False) as (container, _):
            return (container.duration or 0) / av.time_base
    except VideoDecodeError:
        return 0.0
