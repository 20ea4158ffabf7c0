"""Re-encodes one video as the paper does before training: 3 frames a second, short side 224, H.264, no sound."""

import io
import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from ..video_decoding_glccl import DecodedVideo, decode_video, display_matrix, frames_in_order, upright, warn_if_short
from ..video_streams_glccl import VideoDecodeError, open_video


@dataclass(frozen=True)
class CompressSettings:
    """How a video is re-encoded."""

    fps: float = 3  # frames a second, at a constant rate: where the source has fewer, they are repeated
    short_side: int = 224  # pixels of the shorter side, even; a smaller video keeps its size
    crf: float = 23  # constant rate factor of x264, 0 (lossless) to 51 (worst)

    def __post_init__(self):
        if not 0.001 <= self.fps <= 1000:
            raise ValueError(f"fps={self.fps} must lie in 0.001 to 1000 frames a second")
        if self.short_side < 2 or self.short_side % 2:
            raise ValueError(f"short_side={self.short_side} must be even, as H.264's 4:2:0 needs, and at least 2")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf={self.crf} must lie in 0 (lossless) to 51 (worst)")


def compress_video(source: str | Path, settings: CompressSettings | None = None) -> bytes:
    """One video, re-encoded: an MP4 file with a single H.264 stream.

    Frame k is the one on screen at `k / fps` seconds on the file's clock, so that spans of time (DiDeMo's and
    ActivityNet's) stay valid, for all k before the pictures end. Upright. The aspect is that of the stored pixels, up
    to rounding to even sides; the pixel aspect ratio is ignored, as in decoding.

    Raises:
        VideoDecodeError: no frame of it can be read. One that can be read in part gives a warning, as in decoding.
    """
    settings = settings or CompressSettings()
    clock = decode_video(source, max_frames=1)  # raises the reason by name
    try:
        return _encode(source, settings, clock)
    except (FFmpegError, OSError) as error:
        raise VideoDecodeError(f"{source}: cannot be re-encoded ({error})") from error


def _encode(source: str | Path, settings: CompressSettings, clock: DecodedVideo) -> bytes:
    output, lost, times = io.BytesIO(), Counter(), []
    # Where the packets do not tell the times, `decode_video` had to decode all frames, and knows each one's.
    told = clock.decoded_frames <= len(clock.frame_times)
    rate, shown, number = Fraction(settings.fps).limit_denominator(1001), None, 0
    with open_video(source, warn=False) as (container, stream), av.open(output, "w", format="mp4") as target:
        encoder = target.add_stream("libx264", rate=rate, options={"crf": str(settings.crf)})
        encoder.codec_context.thread_count, encoder.pix_fmt = 1, "yuv420p"
        start = (container.start_time or 0) / av.time_base
        # FFmpeg's filter "fps" takes the same frames, but where timestamps are broken or end, and rounds its clock.
        for frame in chain(frames_in_order(stream, str(source), lost), [None]):
            if frame is None:
                seconds = clock.duration
            else:
                seconds = float(frame.pts * stream.time_base) - start if told else clock.frame_times[len(times)]
                times.append(seconds)
            # A frame that begins within a microsecond of the instant counts as begun: timestamps are rounded.
            last = max(math.ceil((seconds - 1e-6) * rate), frame is None)
            shown = shown or frame
            if shown and number < last:
                image = _scaled(shown, settings.short_side)
                if not number:
                    encoder.height, encoder.width = image.shape[:2]
                while number < last:
                    picture = av.VideoFrame.from_ndarray(image)
                    picture.pts, picture.time_base = number, 1 / rate
                    target.mux(encoder.encode(picture))
                    number += 1
            shown = frame
        if not number:
            raise OSError("not one frame decodes")
        target.mux(encoder.encode(None))
        if told:  # else `decode_video` has met all damage, and warned of it
            warn_if_short(stream, str(source), len(times), np.array(times), clock.duration, lost)
    return output.getvalue()


def _scaled(frame: av.VideoFrame, short_side: int) -> np.ndarray:
    """uint8 [H, W, 3], upright, scaled to the short side if it is larger, both sides even."""
    scale = min(1, short_side / min(frame.width, frame.height))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
    image = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC", threads=1)
    return np.ascontiguousarray(upright(image, display_matrix(frame)))
