"""Naive twins of the peers: pair by pair, with padding cut away, in whatever precision features and weights have."""

from collections.abc import Mapping

import torch
from reference import aggregate, normalized
from torch import Tensor
from torch.nn.functional import layer_norm, linear, relu


def reference_pairs(score, text, video, mask_padding: bool = True) -> Tensor:
    """[..., A, V]: `score(sentence [D], words [N, D], frames [K, D], real [K], CLIP frames [K, D])` of all pairs."""
    rows = []
    for sentence, words, word_mask in zip(text.sentence, text.words, text.word_mask, strict=True):
        row = []
        clip_frames = video.get("clip_frames", video.frames)
        for frames, real, clip in zip(video.frames, video.frame_mask, clip_frames, strict=True):
            counted = real if mask_padding else torch.ones_like(real)
            row.append(score(sentence, words[word_mask], frames[counted], real[counted], clip[counted]))
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)


def reference_clip4clip(sentence, words, frames, real, clip_frames):
    """Cosine of the sentence and the mean real frame."""
    return normalized(sentence) @ mean_frame(frames, real)


def mean_frame(frames, real):
    return normalized(torch.stack([normalized(frame) for frame in frames[real]]).mean(dim=0))


def reference_xclip(weights: Mapping[str, Tensor], temperature: float = 0.01):
    """The four scores: video-sentence, video-word, sentence-frame, frame-word."""

    def score(sentence, words, frames, real, clip_frames):
        mean = mean_frame(frames, real)
        sentence, words, frames = normalized(sentence), normalized(words), normalized(clip_frames)
        slots = {"word": len(words), "frame": len(frames)}
        w = {
            name: weight[: slots[kind], : slots[kind]]
            for name, weight in weights.items()
            if (kind := name.partition("_")[0]) in slots
        }
        fine = (words @ weights["local_mat_weight"]) @ frames.T
        per_frame = aggregate(fine.T, w["word_mat_weight"], temperature)
        per_word = aggregate(fine, w["frame_mat_weight"], temperature)
        frame_word = aggregate(per_frame, w["frame_mat_weight2"], temperature)
        frame_word = frame_word + aggregate(per_word, w["word_mat_weight2"], temperature)
        return torch.stack(
            [
                (sentence @ weights["global_mat_weight"]) @ mean,
                aggregate(words @ mean, w["word_logit_weight"], temperature),
                aggregate(frames @ sentence, w["frame_logit_weight"], temperature),
                frame_word / 2,
            ]
        )

    return score


def reference_xpool(weights: Mapping[str, Tensor]):
    """The text attends to the frames, in the order of the paper: values are summed, then projected."""

    def score(sentence, words, frames, real, clip_frames):
        query = project(norm(sentence, weights, "input_norm"), weights, "query")
        keys, values = (project(norm(frames, weights, "input_norm"), weights, name) for name in ("key", "value"))
        attention = (keys @ query / len(query) ** 0.5).softmax(dim=0)
        pooled = norm(project(attention @ values, weights, "output"), weights, "pooled_norm")
        pooled = norm(pooled + project(pooled, weights, "residual"), weights, "output_norm")
        return normalized(sentence) @ normalized(pooled)

    return score


def reference_glscl_global(temperature: float):
    """Cosine of the sentence and the real frames that it weighs."""

    def score(sentence, words, frames, real, clip_frames):
        frames = frames[real]
        return normalized(sentence) @ normalized((frames @ sentence / temperature).softmax(dim=0) @ frames)

    return score


def reference_concepts(features: Tensor, weights: Mapping[str, Tensor], layers: int, heads: int) -> Tensor:
    """[K, D] normalised concepts that the queries find in features [slots, D]: a post-norm transformer decoder."""

    concepts = weights["queries"]
    for layer in range(layers):
        own = {name.split(".", 2)[2]: w for name, w in weights.items() if name.startswith(f"decoder.{layer}.")}
        concepts = norm(concepts + attend(concepts, concepts, own, "self_attn", heads), own, "norm1")
        concepts = norm(concepts + attend(concepts, features, own, "multihead_attn", heads), own, "norm2")
        widened = relu(project(concepts, own, "linear1"))
        concepts = norm(concepts + project(widened, own, "linear2"), own, "norm3")
    return normalized(concepts)


def project(values: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    return linear(values, weights[f"{name}.weight"], weights[f"{name}.bias"])


def norm(values: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    return layer_norm(values, values.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def attend(queries, memory, weights: Mapping[str, Tensor], name: str, heads: int) -> Tensor:
    """[K, D]: multi-head attention of queries [K, D] over memory [slots, D], head by head."""
    packed = zip(weights[f"{name}.in_proj_weight"].chunk(3), weights[f"{name}.in_proj_bias"].chunk(3), strict=True)
    query, key, value = (
        linear(values, *weight).chunk(heads, dim=-1)
        for values, weight in zip((queries, memory, memory), packed, strict=True)
    )
    mixed = [(q @ k.T / q.shape[-1] ** 0.5).softmax(dim=-1) @ v for q, k, v in zip(query, key, value, strict=True)]
    return project(torch.cat(mixed, dim=-1), weights, f"{name}.out_proj")


def reference_glscl_losses(
    texts: Tensor, videos: Tensor, consistency_weight: float, diversity_weight: float
) -> Tensor:
    """GLSCL's own losses for the concepts [B, K, D] of matching pairs, term by term."""
    pairs, queries, _ = texts.shape
    consistency = ((texts.mean(dim=0) - videos.mean(dim=0)) ** 2).mean()
    for i in range(queries):
        cosine = sum(texts[b, i] @ videos[b, i] for b in range(pairs)) / pairs
        consistency = consistency + consistency_weight * (cosine - 0.75) ** 2
    diversity = torch.zeros(())
    for concepts in (texts, videos):
        for i in range(queries):
            for j in range(queries):
                alike = torch.stack([concepts[b, i] @ concepts[b, j] for b in range(pairs)]).mean()
                own = torch.stack([concepts[b, i] @ concepts[b, i] for b in range(pairs)]).mean()
                if i != j:
                    diversity = diversity + 2 * relu(0.1 + alike - own) / (queries * (queries - 1))
    return consistency + diversity_weight * diversity
