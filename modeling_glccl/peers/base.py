"""What the peers share: GLCCL's encoders, losses and interface, with something else in the place of GLIM and AOSM."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..configuration_glccl import GLCCLConfig
from ..features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from ..interaction_glccl import check_features, check_finite
from ..modeling_glccl import GLCCLModel


@strict
class PeerConfig(GLCCLConfig):
    """GLCCL's without the CSC loss, which `csc_weight` adds to X-CLIP; `glim_global`, `glim_local` mean nothing."""

    _auto_class = None  # these classes are the package's: their code is not saved beside the weights

    csc_weight: float | int = 0.0


class PeerModel(GLCCLModel):
    """A [`GLCCLModel`] that scores the same features otherwise: by another `interaction_class`.

    A saved peer has a `model_type` of its own, by which `load_checkpoint` and `AutoModel` find its class.
    """

    config_class = PeerConfig
    has_four_scores = False

    def __init__(self, config: GLCCLConfig, **unknown: Any):
        if config.csc_weight and not self.has_four_scores:
            raise ValueError(
                f"csc_weight={config.csc_weight}, but {type(self).__name__} does not have the four scores that CSC "
                "compares: set it to 0"
            )
        super().__init__(config, **unknown)

    def prepare_videos(self, video: GLCCLVideoFeatures) -> GLCCLVideoFeatures:
        """The features themselves: a peer has nothing to make of them beforehand."""
        return video

    def query_vectors(self, text: GLCCLTextFeatures) -> Tensor:
        """The sentences: the learned matrices of GLCCL are not here."""
        return text.sentence

    def _video_features(self, clip_frames: Tensor, frames: Tensor, real: Tensor) -> GLCCLVideoFeatures:
        """As [`GLCCLModel`]'s, but `frame_mask` is True for real frames alone, always.

        The published peers average real frames even where they count padding elsewhere: each interaction says where.
        """
        video = super()._video_features(clip_frames, frames, real)
        video.frame_mask = real
        return video


def counted_slots(mask: Tensor, mask_padding: bool) -> Tensor:
    """The slots that count in softmaxes and sums: those of the mask, or all as in the peers' releases."""
    return mask if mask_padding else torch.ones_like(mask)


def check_inputs(text: GLCCLTextFeatures, video: GLCCLVideoFeatures, width: int) -> None:
    """Raises ValueError for shapes or masks that do not fit each other or the model, and for non-finite features."""
    check_features("word", text.words, text.word_mask, width)
    check_features("frame", video.frames, video.frame_mask, width)
    check_finite("sentence features", text.sentence)


def masked_softmax(logits: Tensor, counted: Tensor) -> Tensor:
    """Softmax over the last dimension, 0 where a slot does not count."""
    return logits.masked_fill(~counted, -torch.inf).softmax(dim=-1)


def score_in_blocks(
    score: Callable[..., Tensor],
    text: tuple[Tensor, ...],
    video: tuple[Tensor, ...],
    floats_per_pair: int,
    memory_budget: int = 2**26,
) -> Tensor:
    """Scores of all pairs, [..., A, V], block by block, each of `memory_budget` bytes at most.

    `score(*text block, *video block)` gives [..., a, v] and makes `floats_per_pair` float32 numbers for a pair; `text`
    are tensors of A rows, `video` of V. With gradients the backward pass computes each of several blocks again.
    """
    pairs = max(1, memory_budget // (4 * floats_per_pair))
    videos = min(len(video[0]), pairs)
    texts = min(len(text[0]), pairs // videos)
    if torch.is_grad_enabled() and (texts < len(text[0]) or videos < len(video[0])):
        score = partial(checkpoint, score, use_reentrant=False)
    text_blocks = zip(*(tensor.split(texts) for tensor in text), strict=True)
    video_blocks = [*zip(*(tensor.split(videos) for tensor in video), strict=True)]
    rows = [torch.cat([score(*texts, *videos) for videos in video_blocks], dim=-1) for texts in text_blocks]
    return torch.cat(rows, dim=-2)
