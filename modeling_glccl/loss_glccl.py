"""Training losses of GLCCL as functions of score matrices.

Source: "Text-Video Retrieval With Global-Local Contrastive Consistency Learning" (arXiv 2605.17959).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(logits_per_text: Tensor) -> Tensor:
    """The paper's retrieval loss, a scalar: cross-entropy with the diagonal as targets, the mean of rows and columns.

    Args:
        logits_per_text: [B, B] scores, already times exp(logit_scale); row i and column i belong together.

    Raises:
        ValueError: the matrix is not square.
    """
    _check_square(logits_per_text)
    target = torch.arange(len(logits_per_text), device=logits_per_text.device)
    return (F.cross_entropy(logits_per_text, target) + F.cross_entropy(logits_per_text.T, target)) / 2


def csc_loss(scores: Tensor, variant: str = "paper") -> Tensor:
    """Contrastive Score Consistency: the four scores of a matching pair should agree more than those of other pairs.

    A scalar: the mean unbiased variance over the scores of the matching pairs, divided by the mean of all variances
    with the diagonal set to zero; the gradient flows through both, and exp(logit_scale) cancels. As in the authors'
    release, the second mean runs over all B*B entries, so the ratio is B / (B - 1) times the true off-diagonal one.

    Args:
        scores: [S, B, B], the S = 4 scores, each times exp(logit_scale).
        variant: of the loss, as in `GLCCLConfig.csc_variant`.

    Raises:
        ValueError: the matrices are not square, or B = 1, for which the loss is not defined.
    """
    _check_square(scores[0])
    size = scores.shape[-1]
    if size < 2:
        raise ValueError(
            "the CSC loss compares matching with non-matching pairs, so it needs a batch of at least 2; got 1. "
            "Use a larger batch (drop the last incomplete one) or set csc_weight=0"
        )
    matching, others = csc_sums(scores, torch.arange(size, device=scores.device), variant)
    return (matching / size) / (others / size**2)


def csc_sums(scores: Tensor, target: Tensor, variant: str) -> Tensor:
    """[2], the sums of the variances of matching and of all other pairs over rows of the batch's scores.

    Args:
        scores: [S, b, B], of b of the B texts of the batch.
        target: [b], the columns of their videos.
        variant: as [`csc_loss`]. "hard" counts one other pair for each text, B times.
    """
    own = torch.arange(len(target), device=target.device)
    if variant == "centred":
        scores = scores - scores.mean(dim=2, keepdim=True)
    variance = scores.var(dim=0, unbiased=True)
    matching = variance[own, target].sum()
    others = variance.sum() - matching
    if variant == "hard":
        rivals = scores.mean(dim=0).scatter(1, target[:, None], -torch.inf).argmax(dim=1)
        others = variance[own, rivals].sum() * variance.shape[1]
    return torch.stack([matching, others.detach() if variant == "detached" else others])


def _check_square(logits: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise ValueError(
            f"the losses need one video per text, in the same order; got scores of shape {tuple(logits.shape)}"
        )
