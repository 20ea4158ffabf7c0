r"""CLIP4Clip (arXiv 2104.08860): the cosine of the sentence and the mean frame.

    v = mean over the real frames of x_k / |x_k|
    logit = exp(logit_scale) cos(s, v)

with the contrastive loss. Its "sequential transformer" variant has these x from the temporal encoder; its "mean
pooling" has CLIP's frames themselves (`temporal_num_hidden_layers=0`) and no parameters beside CLIP's. Padding counts
nowhere, whatever `mask_padding` says.
"""

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers.utils.generic import ModelOutput

from ..configuration_glccl import GLCCLConfig
from ..features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from ..interaction_glccl import GLCCLFrameWeights
from .base import PeerConfig, PeerModel, check_inputs


@strict
class CLIP4ClipConfig(PeerConfig):
    """[`PeerConfig`] of CLIP4Clip."""

    model_type = "glccl_clip4clip"


@dataclass
class CosineScores(ModelOutput):
    """The one score of every pair, [A, V] and times exp(logit_scale)."""

    cosine: Tensor

    @property
    def logits(self) -> Tensor:
        """[A, V], the score itself."""
        return self.cosine


def mean_of_real_frames(video: GLCCLVideoFeatures) -> Tensor:
    """[V, D] float32: the normalised mean of the normalised real frames."""
    real = video.frame_mask[..., None]
    frames = normalize(video.frames.float().masked_fill(~real, 0.0), dim=-1)
    return normalize(frames.sum(dim=1) / real.sum(dim=1), dim=-1)


class CLIP4ClipInteraction(nn.Module):
    """Mean pooling, without parameters."""

    def __init__(self, config: GLCCLConfig):
        super().__init__()
        self.width = config.width

    def forward(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures, logit_scale: Tensor) -> CosineScores:
        """Scores A texts against V videos, in float32. Raises ValueError for features that cannot be used."""
        check_inputs(text, video, self.width)
        with torch.autocast(logit_scale.device.type, enabled=False):
            cosine = normalize(text.sentence.float(), dim=-1) @ mean_of_real_frames(video).T
            return CosineScores(logit_scale.float().exp() * cosine)

    def frame_weights(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures) -> GLCCLFrameWeights:
        """Equal weights for the real frames, sentence [A, V, Nf]; words have none."""
        weights = video.frame_mask / video.frame_mask.sum(dim=1, keepdim=True)
        return GLCCLFrameWeights(sentence=weights.expand(len(text.words), -1, -1))


class CLIP4ClipModel(PeerModel):
    """CLIP4Clip with the temporal encoder ("seqTransf") or, if `temporal_num_hidden_layers=0`, without ("meanP")."""

    config_class = CLIP4ClipConfig
    interaction_class = CLIP4ClipInteraction
