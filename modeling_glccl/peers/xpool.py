r"""X-Pool (arXiv 2203.15086): the text attends to the frames, with learned projections.

For a sentence s and the frames x_k of a video, with the layer norms LN_1, LN_2, LN_3 and one head,

    q = W_Q LN_1(s),   k_k = W_K LN_1(x_k),   v_k = W_V LN_1(x_k)
    a = softmax_k( q . k_k / sqrt(D) )
    r = LN_2( W_O sum_k a_k v_k )
    z = LN_3( r + dropout(W r) )
    logit = exp(logit_scale) cos(s, z)

with the contrastive loss; every W has a bias and starts as the identity. The projections of frames are made once per
video: the attention's weights sum to 1, so W_O can be applied to v_k before the sum. What is left per pair is the sum
over frames and one D x D product. The original has no temporal encoder (`temporal_num_hidden_layers=0`) and no
padding; with `mask_padding=False` padded frames are attended to as if they were real.
"""

import math

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import initialization as init

from ..features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from ..interaction_glccl import GLCCLFrameWeights
from .base import PeerConfig, PeerModel, check_inputs, counted_slots, masked_softmax, score_in_blocks
from .clip4clip import CosineScores


@strict
class XPoolConfig(PeerConfig):
    """[`PeerConfig`] with `pool_dropout`, the dropout before the last residual (0.3 in the release)."""

    model_type = "glccl_xpool"

    pool_dropout: float | int = 0.3


class XPoolInteraction(nn.Module):
    """Text-conditioned attention over frames."""

    def __init__(self, config: XPoolConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.query, self.key, self.value, self.output, self.residual = (nn.Linear(width, width) for _ in range(5))
        self.input_norm, self.pooled_norm, self.output_norm = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(config.pool_dropout)

    def forward(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures, logit_scale: Tensor) -> CosineScores:
        """Scores A texts against V videos in bounded memory. Raises ValueError for features that cannot be used."""
        query, keys, frames, counted = self._project(text, video)
        width = query.shape[-1]
        cosine = score_in_blocks(
            self._score_block,
            (query, normalize(text.sentence.float(), dim=-1)),
            (keys, self.output(self.value(frames)), counted),
            floats_per_pair=8 * width + 4 * frames.shape[1],
        )
        return CosineScores(logit_scale.float().exp() * cosine)

    def frame_weights(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures) -> GLCCLFrameWeights:
        """The attention's weights, sentence [A, V, Nf]; words have none."""
        query, keys, _, counted = self._project(text, video)
        return GLCCLFrameWeights(sentence=_attention(query, keys, counted))

    def _project(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures) -> tuple[Tensor, ...]:
        """Queries [A, D], keys [V, Nf, D], frames after LN_1 [V, Nf, D], and the mask of those that count."""
        check_inputs(text, video, self.config.width)
        counted = counted_slots(video.frame_mask, self.config.mask_padding)
        dtype = self.query.weight.dtype
        frames = self.input_norm(video.frames.masked_fill(~counted[..., None], 0.0).to(dtype))
        return self.query(self.input_norm(text.sentence.to(dtype))), self.key(frames), frames, counted

    def _score_block(self, query: Tensor, sentence: Tensor, keys: Tensor, values: Tensor, counted: Tensor) -> Tensor:
        """[a, v] cosines of normalised sentences [a, D] and the videos pooled for them."""
        attention = _attention(query, keys, counted).to(values.dtype)
        pooled = self.pooled_norm((attention.transpose(0, 1) @ values).transpose(0, 1))
        pooled = self.output_norm(pooled + self.dropout(self.residual(pooled)))
        return (normalize(pooled.float(), dim=-1) * sentence[:, None]).sum(dim=-1)


def _attention(query: Tensor, keys: Tensor, counted: Tensor) -> Tensor:
    """[A, V, Nf] float32 attention of queries [A, D] over keys [V, Nf, D]."""
    products = torch.einsum("ad,vmd->avm", query, keys).float() / math.sqrt(query.shape[-1])
    return masked_softmax(products, counted)


class XPoolModel(PeerModel):
    """X-Pool on the frames of the temporal encoder or, if `temporal_num_hidden_layers=0`, on CLIP's as published."""

    config_class = XPoolConfig
    interaction_class = XPoolInteraction

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, XPoolInteraction):
            for layer in (module.query, module.key, module.value, module.output, module.residual):
                init.eye_(layer.weight)
