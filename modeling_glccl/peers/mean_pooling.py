"""Mean pooling: the simplest text-video score, for comparison with GLCCL on the same encoders."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize
from transformers.utils import ModelOutput

from ..configuration_glccl import GLCCLConfig
from ..interaction_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from ..modeling_glccl import GLCCLModel


@dataclass
class MeanPoolingScores(ModelOutput):
    """The one score of every pair, [A, V] and times exp(logit_scale)."""

    cosine: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """[A, V], the score itself."""
        return self.cosine


class MeanPoolingModel(GLCCLModel):
    """GLCCL's encoders with the cosine of sentence and mean frame in place of its four scores (CLIP4Clip's
    sequential transformer variant, arXiv 2104.08860).

    Needs `csc_weight=0`: one score cannot be inconsistent. The interaction's parameters exist, so that the checkpoint
    of either model loads into the other, but they are frozen and unused.
    """

    def __init__(self, config: GLCCLConfig):
        if config.csc_weight:
            raise ValueError(
                f"csc_weight={config.csc_weight}, but mean pooling has one score where CSC compares four: set it to 0"
            )
        super().__init__(config)
        self.interaction.requires_grad_(False)

    def get_scores(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures) -> MeanPoolingScores:
        """Cosine of each sentence with each video's mean over the counted frames, [A, V] float32, scaled."""
        counted = video.frame_mask[..., None]
        mean = video.frames.float().masked_fill(~counted, 0.0).sum(dim=1) / counted.sum(dim=1)
        cosine = normalize(text.sentence.float(), dim=-1) @ normalize(mean, dim=-1).T
        return MeanPoolingScores(cosine=self.clip.logit_scale.float().exp() * cosine)
