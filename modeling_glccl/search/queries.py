"""What is searched for: sentences, sentences that shall not hold, examples, and one score of all of them."""

import re
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from ..modeling_glccl import GLCCLModel
from ..processing_glccl import GLCCLProcessor
from ..video_files import why_no_file
from ..video_streams_glccl import VideoDecodeError
from .store import Store, is_in

# Of a query's score, what a sentence of `nots` must exceed to count.
_NOT_SHARE = 0.75


@dataclass
class Query:
    """Sentences [1, D] and examples [1, F, D] that a clip should be like, sentences that should not hold, and `words`
    that should be said."""

    texts: Sequence[GLCCLTextFeatures] = ()
    examples: Sequence[GLCCLVideoFeatures] = ()
    nots: Sequence[GLCCLTextFeatures] = ()
    words: str = ""
    every_word: bool = False  # in one subtitle; and where none has all of them, only the rest of the query counts
    without: str | None = None  # id of the video that an example was taken from, which shall not be found

    def __post_init__(self):
        if not (self.texts or self.examples or (self.words and not self.nots)):
            raise ValueError("nothing to search for: give a sentence, words, an image, a video, or the id of one")

    @property
    def parts(self) -> list[GLCCLTextFeatures | GLCCLVideoFeatures]:
        """Of all of which `combine` takes the scores."""
        return [*self.texts, *self.examples, *self.nots]

    @property
    def measure(self) -> str:
        """What the score is: a "logit" of GLCCL, a "similarity" of frames to an example's, a "combined" score of such
        parts, the match of "words", or "fused" ranks by words and by the rest."""
        if self.words and not self.every_word:
            return "fused" if self.parts else "words"
        if len(self.parts) == 1:
            return "logit" if self.texts else "similarity"
        return "combined"

    def combine(self, scores: Tensor) -> Tensor:
        """[C], one score from those of the parts, [P, C]: the mean of what is wanted, less what is not wanted.

        A sentence that shall not hold takes off by how much its score exceeds three quarters of that mean.
        """
        wanted = scores[: len(self.texts) + len(self.examples)].mean(dim=0)
        return wanted - (scores[len(self.texts) + len(self.examples) :] - _NOT_SHARE * wanted).clamp(min=0).sum(dim=0)

    @cached_property
    def about(self) -> GLCCLTextFeatures:
        """By which frames are weighed for the moment: the first sentence, or the mean frame of the first example."""
        if self.texts:
            return self.texts[0]
        mean = self.examples[0].frames.mean(dim=1)
        return GLCCLTextFeatures(mean, mean[:, None], torch.ones(1, 1, dtype=torch.bool, device=mean.device))


def read_image(model: GLCCLModel, processor: GLCCLProcessor, path: str) -> GLCCLVideoFeatures:
    """Frames [1, 1, D] of an image file, a video of one frame."""
    if Path(path).exists() and (reason := why_no_file(path)):
        raise ValueError(f"{path}: {reason}")
    try:
        with Image.open(path) as image:
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such image") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as an image: {error}") from error
    return _encode(model, processor, pixels[None])


def read_video(
    model: GLCCLModel, processor: GLCCLProcessor, source: str, deadline: float | None = None
) -> GLCCLVideoFeatures:
    """Frames [1, F, D] of "FILE" or, in seconds, "FILE@start-end"; with a deadline decoded in another process."""
    path, start, end = (source, None, None) if Path(source).exists() else split_span(source)
    if deadline is not None:
        processor = copy(processor)
        processor.video_processor = copy(processor.video_processor)
        processor.video_processor.deadline = deadline
    return _encode(model, processor, path, start=start, end=end)


def read_stored(store: Store, source: str) -> tuple[GLCCLVideoFeatures, str]:
    """Frames [1, F, D] of "ID" or "ID@start-end" as an index has them, and the id."""
    known = store.count(is_in("video_id", [source]))
    video_id, start, end = (source, None, None) if known else split_span(source)
    if not (stored := store.read(video_id)):
        raise ValueError(f"{store.uri}: has no video with the id {source!r} (like)")
    times = np.concatenate([clip.frame_times for clip in stored.clips])
    real = np.concatenate([clip.frames[: len(clip.frame_times)] for clip in stored.clips])
    chosen = torch.from_numpy(real[(times >= (start or 0)) & (times <= (np.inf if end is None else end))]).float()
    if not len(chosen):
        raise ValueError(
            f"{source}: none of its {len(times)} stored frames lies there; they end at {times.max():.1f} s"
        )
    return GLCCLVideoFeatures(chosen[None], torch.ones(1, len(chosen), dtype=torch.bool)), video_id


def split_span(source: str) -> tuple[str, float | None, float | None]:
    """Name, start and end of "NAME@start-end"; a name alone has neither."""
    found = re.fullmatch(r"(.+)@(\d+\.?\d*)-(\d+\.?\d*)", source)
    if found and not float(found[2]) < float(found[3]):
        raise ValueError(f"{source}: a span is @start-end in seconds, and starts before it ends")
    return (found[1], float(found[2]), float(found[3])) if found else (source, None, None)


def _encode(model: GLCCLModel, processor: GLCCLProcessor, video: str | np.ndarray, **span: Any) -> GLCCLVideoFeatures:
    try:
        inputs = processor(videos=[video], **span).to(model.device, model.dtype)
    except VideoDecodeError as error:
        raise VideoDecodeError(str(error).removeprefix("videos[0]: ")) from error
    found = model.get_video_features(**inputs)
    real = int(inputs["padding_mask_videos"].sum())  # with mask_padding=False padding counts in GLCCL, but not here
    return GLCCLVideoFeatures(found.frames[:, :real], found.frame_mask[:, :real])
