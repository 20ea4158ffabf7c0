"""Scores of texts and examples against stored frame features: exact ones, and cheap ones that choose the candidates.

With a video reduced to one unit vector m, GLCCL's four scores become dot products with m, aggregated over the words
(docs/method.md). `one_frame_logits` computes just that; `proxy_vectors` also replaces AOSM's aggregation, close to a
maximum over words, by the mean, and so is linear: one vector per text, which is fast to compare with many videos.

An example is a few frames. Its score, which is not GLCCL's, is the mean over them of the largest cosine to a frame of
the clip, times exp(logit_scale) as the logits are.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..arguments import check_query
from ..features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from ..interaction_glccl import GLCCLInteraction
from ..modeling_glccl import GLCCLModel
from ..processing_glccl import GLCCLProcessor
from ..scoring_glccl import GLCCLTextState

# Videos scored at a time.
_BLOCK = 256
# The learned matrices over the words, in the order of the scores that they weigh.
_AGGREGATIONS = ["word_logit_weight", "word_frame_logit_weight", "word_frame_mat_weight2", "word_mat_weight2"]


def encode_queries(model: GLCCLModel, processor: GLCCLProcessor, queries: list[str]) -> list[GLCCLTextFeatures]:
    """Features of every query by itself, without padding of its batch: sentence [1, D], words [1, Nw, D].

    Raises what [`~arguments.check_query`] does.
    """
    for query in queries:
        check_query(query)
    text = model.get_text_features(**processor(text=queries).to(model.device))
    return [text.select([row]).trim() for row in range(len(queries))]


def proxy_vectors(model: GLCCLModel, text: GLCCLTextFeatures | GLCCLVideoFeatures) -> Tensor:
    """[A, D] vectors whose dot product with a pooled video comes close to GLCCL's scores without exp(logit_scale)."""
    if isinstance(text, GLCCLVideoFeatures):
        counted = text.frame_mask[..., None]
        return (normalize(text.frames.float(), dim=-1) * counted).sum(dim=1) / counted.sum(dim=1)
    return model.interaction.query_vectors(text)  # all that is lent to other processes


def prepare_text(model: GLCCLModel, text: GLCCLTextFeatures | GLCCLVideoFeatures) -> GLCCLTextState | Tensor:
    """One text, or one example, for `exact_logits`.

    The learned local matrix multiplies the words here, not every frame as in `model.similarity`: a search has few
    texts and many videos, and (w W_local) . x is the same number.
    """
    if isinstance(text, GLCCLVideoFeatures):
        return normalize(text.frames[text.frame_mask].float(), dim=-1)
    state = model.interaction.prepare_text(text)
    local = state.tensors.words_unit @ model.interaction.local_mat_weight.float()
    return GLCCLTextState(state.tensors._replace(words_unit=local), order=state.order, lengths=state.lengths)


def one_frame_logits(model: GLCCLModel, text: GLCCLTextFeatures | GLCCLVideoFeatures, pooled: Tensor) -> Tensor:
    """[V] logits of one text, or scores of one example, against videos of one frame each, [V, D] unit vectors.

    Every word-guided frame is that frame, so the scores of a word are the same for all of them, and aggregating equal
    scores c gives c sum(M) / n.
    """
    interaction, scale = model.interaction, model.clip.logit_scale.float().exp()
    pooled = pooled.to(model.device).float()
    if isinstance(text, GLCCLVideoFeatures):
        return scale * (pooled @ proxy_vectors(model, text)[0])
    n = int(text.word_mask.sum())
    sentence, words = normalize(text.sentence[0].float(), dim=-1), normalize(text.words[0, :n].float(), dim=-1)
    queries = [sentence[None] @ interaction.global_mat_weight.float(), sentence[None]]
    queries += [words, words @ interaction.local_mat_weight.float()]
    video_sentence, sentence_frame, word, local = (pooled @ torch.cat(queries).T).split([1, 1, n, n], dim=1)

    def aggregate(scores: Tensor, weight: Tensor) -> Tensor:
        attention = (scores / interaction.config.aosm_temperature).softmax(dim=-1)
        return ((attention @ weight[:n, :n].float()) * scores).sum(dim=-1)

    def mean_sum(weight: Tensor) -> Tensor:
        return weight[:n, :n].float().sum() / n

    per_frame = aggregate(local, interaction.word_mat_weight) * mean_sum(interaction.word_frame_mat_weight2)
    per_word = aggregate(local * mean_sum(interaction.word_frame_mat_weight), interaction.word_mat_weight2)
    scores = video_sentence[:, 0] + aggregate(word, interaction.word_logit_weight)
    scores = scores + sentence_frame[:, 0] * mean_sum(interaction.word_frame_logit_weight) + (per_frame + per_word) / 2
    return scale * scores / 4


def exact_logits(
    model: GLCCLModel, text: GLCCLTextState | Tensor, frames: np.ndarray, num_frames: np.ndarray
) -> Tensor:
    """[V] logits of one text, those of `model.similarity` to float precision; of an example scores.

    Args:
        model: of which `text` was prepared.
        text: One text or example, from `prepare_text`.
        frames: float16 or float32 [V, Nf, D].
        num_frames: int [V], how many of the Nf frames of each video count; the first.
    """
    logits = torch.empty(len(frames), device=model.device)
    for count in np.unique(num_frames):
        places = np.flatnonzero(num_frames == count)
        for part in np.split(places, range(_BLOCK, len(places), _BLOCK)):
            counted = torch.from_numpy(frames[part, :count]).to(model.device).float()
            if isinstance(text, Tensor):
                scores = (normalize(counted, dim=-1) @ text.T).amax(dim=1).mean(dim=1)
            else:
                scores = _text_scores(model.interaction, text, counted)
            logits[part] = scores * model.clip.logit_scale.float().exp()
    return logits


def _text_scores(interaction: GLCCLInteraction, text: GLCCLTextState, frames: Tensor) -> Tensor:
    """[V] means of the four scores of one text of n words against videos of m frames, float32 [V, m, D].

    Where many texts share the videos, `score_states` avoids the pooled frames, which here are few; this is the fourth
    part of its work.
    """
    tensors, config = text.tensors, interaction.config
    n = len(tensors.words)
    queries = torch.cat([tensors.sentence, tensors.words, tensors.sentence_global, tensors.words_unit])
    products = frames @ queries.T  # [V, m, 2 n + 2]
    guided = torch.tensor([config.glim_global] + [config.glim_local] * n, device=frames.device)
    weights = _softmax(products[..., : n + 1] * guided, dim=1).mT
    weights = weights / (weights @ frames).norm(dim=2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    of_sentence, of_words = (weights @ products).split([1, n], dim=1)  # dot products with the pooled frames, unit ones
    local = of_words[..., n + 2 :]  # [V, n pooled frames, n words]

    def matrices(names: Sequence[str]) -> Tensor:
        return torch.stack([getattr(interaction, name)[:n, :n].float() for name in names])

    over_words, over_frames = matrices(["word_mat_weight", "word_frame_mat_weight"])
    scores = torch.stack(
        [
            of_sentence[:, 0, 1 : n + 1] * tensors.word_scale,
            of_words[..., 0] * tensors.sentence_scale,
            (_softmax(local, dim=2) * (local @ over_words.T)).sum(dim=2),
            (_softmax(local, dim=1) * (over_frames @ local)).sum(dim=1),
        ]
    )
    scores = ((_softmax(scores, dim=2) @ matrices(_AGGREGATIONS)) * scores).sum(dim=2) * config.aosm_temperature
    return (of_sentence[:, 0, n + 1] + scores[0] + scores[1] + (scores[2] + scores[3]) / 2) / 4


def _softmax(values: Tensor, dim: int) -> Tensor:
    """As `Tensor.softmax`, which is slow on rows shorter than a vector register."""
    exponentials = (values - values.amax(dim, keepdim=True)).exp_()
    return exponentials / exponentials.sum(dim, keepdim=True)
