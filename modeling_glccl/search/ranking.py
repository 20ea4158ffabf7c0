"""Scores of texts and examples against stored frame features: exact ones, and cheap ones that choose the candidates.

With a video reduced to one unit vector m, GLCCL's four scores become dot products with m, aggregated over the words
(docs/method.md). `one_frame_logits` computes just that; `proxy_vectors` also replaces AOSM's aggregation, close to a
maximum over words, by the mean, and so is linear: one vector per text, which is fast to compare with many videos.

An example is a few frames. Its score, which is not GLCCL's, is the mean over them of the largest cosine to a frame of
the clip, times exp(logit_scale) as the logits are.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from ..modeling_glccl import GLCCLModel
from ..processing_glccl import GLCCLProcessor
from ..scoring_glccl import GLCCLTextState, GLCCLVideoState, VideoTensors, frame_factors

# Of a query; no model reads more than some 77 tokens.
MAX_CHARACTERS = 2000
# Videos scored at a time: their frames then stay in the processor's cache (200 at once took half as long again).
_BLOCK = 64


def encode_queries(model: GLCCLModel, processor: GLCCLProcessor, queries: list[str]) -> list[GLCCLTextFeatures]:
    """Features of every query by itself, without padding of its batch: sentence [1, D], words [1, Nw, D].

    Raises:
        ValueError: an empty query, or one of more than `MAX_CHARACTERS`.
    """
    for query in queries:
        if not query.strip():
            raise ValueError("the query is empty; say what happens in the video")
        if len(query) > MAX_CHARACTERS:  # before a tokeniser spends seconds on it
            raise ValueError(f"the query has {len(query):,} characters; at most {MAX_CHARACTERS:,} are allowed")
    text = model.get_text_features(**processor(text=queries).to(model.device))
    return [text.select([row]).trim() for row in range(len(queries))]


def proxy_vectors(model: GLCCLModel, text: GLCCLTextFeatures | GLCCLVideoFeatures) -> Tensor:
    """[A, D] vectors whose dot product with a pooled video comes close to GLCCL's scores without exp(logit_scale)."""
    if isinstance(text, GLCCLVideoFeatures):
        counted = text.frame_mask[..., None]
        return (normalize(text.frames.float(), dim=-1) * counted).sum(dim=1) / counted.sum(dim=1)
    return model.interaction.query_vectors(text)


def prepare_text(model: GLCCLModel, text: GLCCLTextFeatures | GLCCLVideoFeatures) -> GLCCLTextState | Tensor:
    """Texts, or one example, for `exact_logits`.

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
    """[A, V] logits, those of `model.similarity` to float precision; of an example [1, V] scores.

    Args:
        model: of which `text` was prepared.
        text: A texts or one example, from `prepare_text`.
        frames: float16 or float32 [V, Nf, D].
        num_frames: int [V], how many of the Nf frames of each video count; the first.
    """
    slots, logits = frames.shape[1], []
    for start in range(0, len(frames), _BLOCK):
        counts = num_frames[start : start + _BLOCK]
        order = np.argsort(counts, kind="stable")
        places = ((start + order)[:, None] * slots + np.arange(slots))[np.arange(slots) < counts[order, None]]
        packed = torch.from_numpy(frames.reshape(-1, frames.shape[2])[places]).to(model.device).float()
        lengths = counts[order].tolist()
        if isinstance(text, Tensor):
            largest = [part.amax(dim=1).mean() for part in (text @ normalize(packed, dim=-1).T).split(lengths, dim=1)]
            logits.append(torch.stack(largest)[np.argsort(order)][None] * model.clip.logit_scale.float().exp())
            continue
        video = GLCCLVideoState(
            VideoTensors(frames=packed, frames_local=packed),
            factors=frame_factors(packed, lengths),
            order=torch.from_numpy(order).to(model.device),
            lengths=lengths,
        )
        logits.append(model.interaction(text, video, model.clip.logit_scale).logits)
    return torch.cat(logits, dim=1)
