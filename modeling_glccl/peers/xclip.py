r"""X-CLIP (arXiv 2207.07285), GLCCL's base model: four scores on the frames as they are, without a text's guidance.

With every vector normalised, x_k the frames as CLIP gives them, v the normalised mean of the real frames after the
temporal encoder, T = `aosm_temperature`, learned matrices W (identities at the start), and

    agg(c; W) = sum_j c_j (softmax(c / T) W)_j                                                            (AOSM)

    video-sentence  (s W_global) . v
    video-word      agg_i( w_i . v; W_word )
    sentence-frame  agg_k( s . x_k; W_frame )
    frame-word      with S_ik = (w_i W_local) . x_k:
                    1/2 [ agg_k( agg_i(S; W_word2); W_frame2 ) + agg_i( agg_k(S; W_frame3); W_word3 ) ]

the logit is exp(logit_scale) times their mean, and the loss the contrastive one. The matrices over frames have
`max_frames` rows: unlike GLCCL it takes no more frames than that. With `mask_padding=False` padded words and frames
take part in every agg, as in its release; the mean is over real frames in any case.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import initialization as init

from ..configuration_glccl import GLCCLConfig
from ..features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from ..interaction_glccl import GLCCLFrameWeights, GLCCLScores
from .base import PeerConfig, PeerModel, check_inputs, counted_slots, masked_softmax, score_in_blocks
from .clip4clip import mean_of_real_frames


@strict
class XCLIPConfig(PeerConfig):
    """[`PeerConfig`] of X-CLIP."""

    model_type = "glccl_xclip"


@dataclass(repr=False)
class XCLIPVideoFeatures(GLCCLVideoFeatures):
    """[`GLCCLVideoFeatures`] with CLIP's own frames [V, Nf, D]; where those are absent, `frames` stand for them."""

    slotted: ClassVar[tuple[str, ...]] = ("clip_frames", "frames", "frame_mask")

    clip_frames: Tensor | None = None


class XCLIPInteraction(nn.Module):
    """AOSM over original frames; its eight matrices have the names of the release."""

    def __init__(self, config: GLCCLConfig):
        super().__init__()
        self.config = config
        width, words, frames = config.width, config.max_words, config.max_frames
        self.global_mat_weight = nn.Parameter(torch.eye(width))
        self.local_mat_weight = nn.Parameter(torch.eye(width))
        self.word_logit_weight = nn.Parameter(torch.eye(words))
        self.word_mat_weight = nn.Parameter(torch.eye(words))
        self.word_mat_weight2 = nn.Parameter(torch.eye(words))
        self.frame_logit_weight = nn.Parameter(torch.eye(frames))
        self.frame_mat_weight = nn.Parameter(torch.eye(frames))
        self.frame_mat_weight2 = nn.Parameter(torch.eye(frames))

    def forward(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures, logit_scale: Tensor) -> GLCCLScores:
        """Scores A texts against V videos, in float32 and in bounded memory.

        Raises:
            ValueError: features that cannot be used; more words or frames than the matrices have rows; padding that
                does not follow the real slots.
        """
        word_mask, frame_mask = self._counted(text, video)
        # What lies beyond the matrices' rows counts nowhere.
        words, frames = text.words[:, : self.config.max_words], _clip_frames(video)[:, : self.config.max_frames]
        word_mask, frame_mask = word_mask[:, : words.shape[1]], frame_mask[:, : frames.shape[1]]
        with torch.autocast(logit_scale.device.type, enabled=False):
            scores = score_in_blocks(
                self._score_block,
                (normalize(text.sentence.float(), dim=-1), _unit(words, word_mask), word_mask),
                (mean_of_real_frames(video), _unit(frames, frame_mask), frame_mask),
                floats_per_pair=8 * words.shape[1] * frames.shape[1] + 4 * (words.shape[1] + frames.shape[1]),
            )
            return GLCCLScores(*(logit_scale.float().exp() * scores))

    def frame_weights(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures) -> GLCCLFrameWeights:
        """AOSM's softmax over frames: sentence [A, V, Nf], of the sentence-frame score; words have none."""
        _, frame_mask = self._counted(text, video)
        products = torch.einsum(
            "ad,vmd->avm", normalize(text.sentence.float(), dim=-1), _unit(_clip_frames(video), frame_mask)
        )
        return GLCCLFrameWeights(sentence=masked_softmax(products / self.config.aosm_temperature, frame_mask))

    def _counted(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures) -> tuple[Tensor, Tensor]:
        """Masks of the counted words [A, Nw] and frames [V, Nf], checked."""
        config = self.config
        check_inputs(text, video, config.width)
        word_mask = text.word_mask
        frame_mask = counted_slots(video.frame_mask, config.mask_padding)
        for name, mask, most in (("word", word_mask, config.max_words), ("frame", frame_mask, config.max_frames)):
            if mask.shape[1] > most and mask[:, most:].any():
                found = int(mask.sum(1).max())
                raise ValueError(f"{found} {name}s but X-CLIP's matrices over {name}s have max_{name}s={most} rows")
            if (mask[:, 1:] & ~mask[:, :-1]).any():
                raise ValueError(f"the {name} mask must count the leading slots of each row: padding follows")
        return word_mask, frame_mask

    def _score_block(
        self, sentence: Tensor, words: Tensor, word_mask: Tensor, mean: Tensor, frames: Tensor, frame_mask: Tensor
    ) -> Tensor:
        """[4, a, v] from normalised sentences [a, D], words [a, n, D], means [v, D] and frames [v, m, D]."""
        frame_words = torch.einsum("and,vmd->avnm", words @ self.local_mat_weight.float(), frames)
        over_words = self._aggregate(frame_words.mT, self.word_mat_weight, word_mask[:, None, None])
        over_frames = self._aggregate(frame_words, self.frame_mat_weight, frame_mask[None, :, None])
        word_mask, frame_mask = word_mask[:, None], frame_mask[None]
        video_word = torch.einsum("and,vd->avn", words, mean)
        sentence_frame = torch.einsum("ad,vmd->avm", sentence, frames)
        frame_word = self._aggregate(over_words, self.frame_mat_weight2, frame_mask)
        frame_word = frame_word + self._aggregate(over_frames, self.word_mat_weight2, word_mask)
        return torch.stack(
            [
                sentence @ self.global_mat_weight.float() @ mean.T,
                self._aggregate(video_word, self.word_logit_weight, word_mask),
                self._aggregate(sentence_frame, self.frame_logit_weight, frame_mask),
                frame_word / 2,
            ]
        )

    def _aggregate(self, scores: Tensor, weight: Tensor, counted: Tensor) -> Tensor:
        """AOSM over the last dimension."""
        slots = scores.shape[-1]
        attention = masked_softmax(scores / self.config.aosm_temperature, counted)
        return (attention @ weight[:slots, :slots].float() * scores.masked_fill(~counted, 0.0)).sum(dim=-1)


def _clip_frames(video: GLCCLVideoFeatures) -> Tensor:
    return video.get("clip_frames", video.frames)


def _unit(features: Tensor, counted: Tensor) -> Tensor:
    """[N, slots, D] float32, normalised, and zero where a slot does not count."""
    return normalize(features.float().masked_fill(~counted[..., None], 0.0), dim=-1)


class XCLIPModel(PeerModel):
    """X-CLIP. `csc_weight` above 0 adds GLCCL's CSC loss, which is not part of X-CLIP."""

    config_class = XCLIPConfig
    interaction_class = XCLIPInteraction
    video_features_class = XCLIPVideoFeatures
    has_four_scores = True

    def _video_features(self, clip_frames: Tensor, frames: Tensor, real: Tensor) -> XCLIPVideoFeatures:
        """As [`PeerModel`]'s, with CLIP's own frames."""
        counted = counted_slots(real, self.config.mask_padding)[..., None]
        video = super()._video_features(clip_frames, frames, real)
        return XCLIPVideoFeatures(**video, clip_frames=clip_frames.masked_fill(~counted, 0.0))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, XCLIPInteraction):
            for weight in module.parameters():
                init.copy_(weight, torch.eye(len(weight)))
