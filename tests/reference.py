"""The naive twin of `GLCCLInteraction` and of the losses: every text-guided feature is formed, pair by pair.

Padding is cut away instead of masked, so "padding takes part in nothing" holds by construction. Runs in whatever
precision the features and weights have; the tests use float64.
"""

import torch
from torch import Tensor

SCORES = ("video_sentence", "video_word", "sentence_frame", "frame_word")


def reference_scores(text, video, weights: dict[str, Tensor], logit_scale: Tensor, **options) -> Tensor:
    """[4, A, V] scores, in the order of `SCORES`; options: those of `guided_features`, and `aosm_temperature`."""
    aosm_temperature = options.pop("aosm_temperature", 0.01)
    rows = []
    for sentence, words, word_mask in zip(text.sentence, text.words, text.word_mask, strict=True):
        row = []
        for frames, frame_mask in zip(video.frames, video.frame_mask, strict=True):
            global_feature, local_features = guided_features(sentence, words[word_mask], frames[frame_mask], **options)
            scores = pair_scores(sentence, words[word_mask], global_feature, local_features, weights, aosm_temperature)
            row.append(logit_scale.exp() * scores)
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)


def guided_features(sentence, words, frames, glim_temperature=5.0, glim_global=True, glim_local=True):
    """GLIM for one pair: sentence [D], words [N, D], frames [K, D] -> video feature [D], frame features [N, D]."""
    global_weights = (frames @ sentence / glim_temperature).softmax(dim=0)
    local_weights = (words @ frames.T / glim_temperature).softmax(dim=1)
    if not glim_global:
        global_weights = torch.full_like(global_weights, 1 / len(frames))
    if not glim_local:
        local_weights = torch.full_like(local_weights, 1 / len(frames))
    return normalized(global_weights @ frames), normalized(local_weights @ frames)


def pair_scores(sentence, words, vid, frm, weights, temperature):
    """[4] scores of one pair before the scale: sentence [D], words [N, D], guided features vid [D], frm [N, D]."""
    sentence, words = normalized(sentence), normalized(words)
    matrix = {name: weight[: len(words), : len(words)] for name, weight in weights.items()}

    video_sentence = (sentence @ weights["global_mat_weight"]) @ vid
    video_word = aggregate(words @ vid, matrix["word_logit_weight"], temperature)
    sentence_frame = aggregate(frm @ sentence, matrix["word_frame_logit_weight"], temperature)

    fine = (words @ weights["local_mat_weight"]) @ frm.T  # [N words i, N frames j]
    per_frame = aggregate(fine.T, matrix["word_mat_weight"], temperature)
    per_word = aggregate(fine, matrix["word_frame_mat_weight"], temperature)
    frame_word = aggregate(per_frame, matrix["word_frame_mat_weight2"], temperature)
    frame_word = frame_word + aggregate(per_word, matrix["word_mat_weight2"], temperature)
    return torch.stack([video_sentence, video_word, sentence_frame, frame_word / 2])


def aggregate(scores, weight, temperature):
    """AOSM over the last dimension: sum_j c_j (softmax(c / temperature) M)_j."""
    return (((scores / temperature).softmax(dim=-1) @ weight) * scores).sum(dim=-1)


def normalized(vectors):
    return vectors / vectors.norm(dim=-1, keepdim=True)


def reference_contrastive_loss(logits: Tensor) -> Tensor:
    """Symmetric cross-entropy with the diagonal as targets, for logits [B, B]."""
    text_to_video = -logits.log_softmax(dim=1).diagonal().mean()
    video_to_text = -logits.log_softmax(dim=0).diagonal().mean()
    return (text_to_video + video_to_text) / 2


def reference_csc_loss(scores: Tensor, variant: str = "paper") -> Tensor:
    """CSC of the authors' release for scores [4, B, B]: the mean over non-matching pairs divides by B * B.

    The other variants are those of `GLCCLConfig.csc_variant`.
    """
    size = scores.shape[1]
    if variant == "centred":
        means = sum(scores[:, :, j] for j in range(size)) / size
        scores = torch.stack([scores[:, :, j] - means for j in range(size)], dim=2)
    variance = ((scores - scores.mean(dim=0)) ** 2).sum(dim=0) / (len(scores) - 1)
    matching = sum(variance[i, i] for i in range(size)) / size
    if variant == "hard":
        logits = scores.mean(dim=0).tolist()
        rivals = [max((logits[i][j], j) for j in range(size) if j != i)[1] for i in range(size)]
        return matching / (sum(variance[i, j] for i, j in enumerate(rivals)) / size)
    others = sum(variance[i, j] for i in range(size) for j in range(size) if i != j) / size**2
    return matching / (others.detach() if variant == "detached" else others)
