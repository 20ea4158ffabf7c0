"""Training losses of GLCCL as functions of score matrices.

Source: "Text-Video Retrieval With Global-Local Contrastive Consistency Learning" (arXiv 2605.17959).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(logits_per_text: Tensor) -> Tensor:
    """Symmetric cross-entropy with the diagonal as targets (the paper's retrieval loss).

    Args:
        logits_per_text: [B, B] scores, already times exp(logit_scale); row i and column i belong together.

    Returns:
        Scalar: the mean of the text-to-video (rows) and the video-to-text (columns) cross-entropy.

    Raises:
        ValueError: the matrix is not square.
    """
    _check_square(logits_per_text)
    target = torch.arange(len(logits_per_text), device=logits_per_text.device)
    return (F.cross_entropy(logits_per_text, target) + F.cross_entropy(logits_per_text.T, target)) / 2


def csc_loss(scores: Tensor) -> Tensor:
    """Contrastive Score Consistency: the four scores of a matching pair should agree more than those of other pairs.

    The mean unbiased variance over the scores of the matching pairs, divided by the mean of all variances with the
    diagonal set to zero. As in the authors' release, the second mean runs over all B*B entries, so the ratio is
    B / (B - 1) times the true off-diagonal one.

    Args:
        scores: [S, B, B], the S = 4 scores, each times exp(logit_scale).

    Returns:
        Scalar; the gradient flows through numerator and denominator.

    Raises:
        ValueError: the matrices are not square, or B = 1, for which the loss is not defined.
    """
    _check_square(scores[0])
    if scores.shape[-1] < 2:
        raise ValueError(
            "the CSC loss compares matching with non-matching pairs, so it needs a batch of at least 2; got 1. "
            "Use a larger batch (drop the last incomplete one) or set csc_weight=0"
        )
    variance = scores.var(dim=0, unbiased=True)
    matching = variance.diagonal()
    return matching.mean() / ((variance.sum() - matching.sum()) / variance.numel())


def _check_square(logits: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise ValueError(
            f"the losses need one video per text, in the same order; got scores of shape {tuple(logits.shape)}"
        )
