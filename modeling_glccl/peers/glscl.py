r"""GLSCL (arXiv 2405.12710): a global score without parameters, and concepts that shared queries find in both.

Global, as GLIM's for the sentence: a = softmax_k(s . x_k / t), z = sum_k a_k x_k,

    g = cos(s, z)

Local: K learned queries go through a transformer decoder (self-attention among the queries, cross-attention, MLP) once
over the words and once over the frames. Queries and decoder are the same for both, so that query i stands for the same
concept, T_i of the text and V_i of the video (normalised):

    l = 1/K sum_i T_i . V_i

    logit = exp(logit_scale) (g + local_weight l)          in training
    logit = exp(logit_scale) g                             in evaluation, as in the release (`local_in_evaluation`)

Beside the contrastive loss, over the B matching pairs of a batch,

    inter-consistency   |mean_b T - mean_b V|^2 / (K D) + consistency_weight sum_i (mean_b T_i . V_i - 0.75)^2
    intra-diversity     diversity_weight sum over T and V of 2 mean_{i != j} max(0, 0.1 + G_ij - G_ii),
                        G_ij = mean_b C_i . C_j for the concepts C of one modality

The release differs in two details: its consistency term divides a sum over the batch by K rather than by B, so that
its weight grows with the batch, and it applies the diversity loss to the video's concepts alone, where the paper
describes both. With `mask_padding=False` the decoder sees padded words and frames, as in the release; the global score
leaves them out there as well.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize, relu
from transformers import initialization as init
from transformers.utils.generic import ModelOutput, can_return_tuple

from ..features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from ..interaction_glccl import GLCCLFrameWeights
from .base import PeerConfig, PeerModel, check_inputs, counted_slots, masked_softmax

# How alike the same concept of a matching text and video should be, and by how much different concepts should differ.
CONSISTENT_COSINE, DIVERSITY_MARGIN = 0.75, 0.1


@strict
class GLSCLConfig(PeerConfig):
    """[`PeerConfig`] with GLSCL's own values, for which see the module; the defaults are its release's on MSR-VTT."""

    model_type = "glccl_glscl"

    glim_temperature: float | int = 3.0  # t of the global score
    num_queries: int = 8  # K
    decoder_layers: int = 3  # layers of `torch`'s with `width // 64` heads, at least 1
    decoder_dropout: float | int = 0.1
    local_weight: float | int = 0.5  # of the local score in the logit
    local_in_evaluation: bool = False  # whether the local score ranks in evaluation too
    consistency_weight: float | int = 0.02
    diversity_weight: float | int = 1e-4

    def validate_queries(self):
        """Diversity needs two queries."""
        if self.num_queries < 2:
            raise ValueError(f"num_queries={self.num_queries} must be at least 2")


@dataclass(repr=False)
class GLSCLTextFeatures(GLCCLTextFeatures):
    """[`GLCCLTextFeatures`] with the normalised concepts [A, K, D], where the local score is used."""

    optional: ClassVar[tuple[str, ...]] = ("concepts",)

    concepts: Tensor | None = None


@dataclass(repr=False)
class GLSCLVideoFeatures(GLCCLVideoFeatures):
    """[`GLCCLVideoFeatures`] with the normalised concepts [V, K, D], where the local score is used."""

    optional: ClassVar[tuple[str, ...]] = ("concepts",)

    concepts: Tensor | None = None


@dataclass
class GLSCLScores(ModelOutput):
    """Scores of every pair, [A, V] and times exp(logit_scale); `local_score` also times `local_weight`, or None."""

    global_score: Tensor
    local_score: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """[A, V], the sum of the scores."""
        return self.global_score if self.local_score is None else self.global_score + self.local_score


class GLSCLInteraction(nn.Module):
    """The global score, and the queries with their decoder."""

    def __init__(self, config: GLSCLConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.queries = nn.Parameter(torch.rand(config.num_queries, width))
        sizes = width, max(1, width // 64), 4 * width, config.decoder_dropout
        layers = (nn.TransformerDecoderLayer(*sizes, batch_first=True) for _ in range(config.decoder_layers))
        self.decoder = nn.ModuleList(layers)

    def concepts(self, features: Tensor, mask: Tensor) -> Tensor:
        """[N, slots, D] words or frames and [N, slots] mask -> [N, K, D] normalised concepts."""
        features = features.masked_fill(~mask[..., None], 0.0).to(self.queries.dtype)
        concepts = self.queries.expand(len(features), -1, -1)
        for layer in self.decoder:
            concepts = layer(concepts, features, memory_key_padding_mask=~mask)
        return normalize(concepts.float(), dim=-1)

    def forward(self, text: GLSCLTextFeatures, video: GLSCLVideoFeatures, logit_scale: Tensor) -> GLSCLScores:
        """Scores A texts against V videos, in float32. Raises ValueError for features that cannot be used."""
        check_inputs(text, video, self.config.width)
        with torch.autocast(logit_scale.device.type, enabled=False):
            scale = logit_scale.float().exp()
            frames, products, weights = self._weigh(text, video)
            # |z|^2 = a^T G a with the Gram matrix G of a video's frames: z itself, [A, V, D], is not needed.
            squared = ((weights.transpose(0, 1) @ (frames @ frames.mT)).transpose(0, 1) * weights).sum(dim=-1)
            norms = squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()
            norms = norms * text.sentence.float().norm(dim=-1, keepdim=True)
            scores = GLSCLScores(global_score=scale * (weights * products).sum(dim=-1) / norms)
            if "concepts" in text and "concepts" in video:
                cosines = text["concepts"].flatten(1).float() @ video["concepts"].flatten(1).float().T
                scores.local_score = scale * self.config.local_weight * cosines / self.config.num_queries
        return scores

    def frame_weights(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures) -> GLCCLFrameWeights:
        """The weights of the global score, sentence [A, V, Nf]; words have none."""
        return GLCCLFrameWeights(sentence=self._weigh(text, video)[-1])

    def _weigh(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures) -> tuple[Tensor, Tensor, Tensor]:
        """The frames, and [A, V, Nf] their products with sentences and the softmax over them; all 0 where padded."""
        frames = video.frames.float().masked_fill(~video.frame_mask[..., None], 0.0)
        products = torch.einsum("ad,vmd->avm", text.sentence.float(), frames)
        return frames, products, masked_softmax(products / self.config.glim_temperature, video.frame_mask)


class GLSCLModel(PeerModel):
    """GLSCL."""

    config: GLSCLConfig
    config_class = GLSCLConfig
    interaction: GLSCLInteraction
    works_untrained = False  # its queries are random
    interaction_class = GLSCLInteraction
    video_features_class = GLSCLVideoFeatures

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GLSCLInteraction):
            init.uniform_(module.queries)

    @can_return_tuple
    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **outputs: Any
    ) -> GLSCLTextFeatures:
        """As [`~GLCCLModel.get_text_features`], with the concepts where the local score is used."""
        text = super().get_text_features(input_ids, attention_mask, **{**outputs, "return_dict": True})
        return GLSCLTextFeatures(**text, concepts=self._concepts(text.words, text.word_mask))

    def _video_features(self, clip_frames: Tensor, frames: Tensor, real: Tensor) -> GLSCLVideoFeatures:
        """As [`PeerModel`]'s, with the concepts where the local score is used."""
        video = super()._video_features(clip_frames, frames, real)
        counted = counted_slots(video.frame_mask, self.config.mask_padding)
        return GLSCLVideoFeatures(**video, concepts=self._concepts(video.frames, counted))

    def _concepts(self, features: Tensor, mask: Tensor) -> Tensor | None:
        if not self.training and not self.config.local_in_evaluation:
            return None
        return self.interaction.concepts(features, mask)

    def auxiliary_loss(
        self,
        text: GLSCLTextFeatures,
        video: GLSCLVideoFeatures,
        average: Callable[[Tensor], Tensor] = nn.Identity(),  # noqa: B008 (it has no state)
    ) -> Tensor | None:
        """Inter-consistency and intra-diversity losses of matching pairs; None where concepts are not used."""
        config, texts, videos = self.config, text.concepts, video.concepts
        if texts is None or videos is None:
            return None
        cosines = average((texts * videos).sum(dim=-1).mean(dim=0))
        consistency = mse_loss(average(texts.mean(dim=0)), average(videos.mean(dim=0)))
        consistency = consistency + config.consistency_weight * (cosines - CONSISTENT_COSINE).square().sum()
        diversity = 0.0
        for concepts in (texts, videos):
            gram = average((concepts @ concepts.mT).mean(dim=0))
            excess = relu(DIVERSITY_MARGIN + gram - gram.diagonal()[:, None])
            others = excess.sum() - excess.diagonal().sum()
            diversity = diversity + 2 * others / (config.num_queries * (config.num_queries - 1))
        return consistency + config.diversity_weight * diversity
