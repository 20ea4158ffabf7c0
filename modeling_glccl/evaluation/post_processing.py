"""Scores corrected by those of other queries. Never part of a plain result, and labelled wherever they are used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

# Name on the command line and in files -> name in tables and pictures.
POST_PROCESSING = {"qb_norm": "QB-Norm", "dual_softmax": "DSL"}


def dual_softmax(similarity: np.ndarray) -> dict[str, np.ndarray]:
    """DSL at test time (arXiv 2109.04290): every score times the softmax of the other direction.

    A score counts more if the video prefers this caption to the others. That looks at ALL test queries before it
    answers one, and assumes that each video is somebody's answer: results are not comparable with plain ones.

    Args:
        similarity: [A, V] logits, that is times exp(logit_scale): then the temperature is 1, as its authors use it at
            test time. (A small weight lifts a negative logit towards 0, as in the original.)

    Returns:
        {"t2v": [A, V] logits times the softmax over captions, "v2t": over videos}, float64: no weight above exp(-700)
        is rounded to zero, which would make ties.
    """
    scores = torch.from_numpy(np.ascontiguousarray(similarity, "float64"))
    return {way: (scores * scores.softmax(dim=dim)).numpy() for dim, way in enumerate(("t2v", "v2t"))}


@dataclass(frozen=True)
class QueryBank:
    """What QB-Norm keeps of a bank of Q queries, scored against the V test videos: two values per video."""

    beta: float  # inverse temperature, for scores of the scale that was given
    log_sum: np.ndarray  # [V] float64, log sum over the bank of exp(beta score): large for hubs, close to many
    activated: np.ndarray  # [V] bool, the activation set: videos that some query of the bank ranks first
    size: int  # Q

    @classmethod
    def from_similarity(cls, similarity: np.ndarray, beta: float = 20.0) -> QueryBank:
        """The bank of scores [Q, V] of its queries and the TEST videos.

        `beta` 20, the value of QB-Norm's authors, is for cosine similarities; for logits, exp(logit_scale) times as
        large, it is 20 / exp(logit_scale). Raises ValueError for no query, or a beta that is not positive.
        """
        similarity = np.asarray(similarity, "float64")
        if similarity.ndim != 2 or not similarity.size:
            raise ValueError(f"the bank's scores must be [queries, videos], at least one; got {similarity.shape}")
        if beta <= 0:
            raise ValueError(f"beta={beta} must be positive")
        activated = np.zeros(similarity.shape[1], bool)
        activated[similarity.argmax(axis=1)] = True
        return cls(beta, np.logaddexp.reduce(beta * similarity, axis=0), activated, len(similarity))

    def merge(self, other: QueryBank) -> QueryBank:
        """The bank of both banks' queries, which were scored against the same videos with the same beta."""
        log_sum, activated = np.logaddexp(self.log_sum, other.log_sum), self.activated | other.activated
        return QueryBank(self.beta, log_sum, activated, self.size + other.size)


def qb_norm(similarity: np.ndarray, bank: QueryBank) -> np.ndarray:
    """QB-Norm with the dynamic inverted softmax (Bogolin et al., CVPR 2022, arXiv 2112.12777), text-to-video.

    exp(beta s_av) / sum_b exp(beta s_bv) over the bank's queries b, for every test query whose own best video is in
    the activation set; the other queries keep their scores. No test query looks at another.

    Args:
        similarity: [A, V] scores of the test queries, on the scale of the bank's.
        bank: of the training captions and the same V videos; of another number of videos it is a ValueError.

    Returns:
        [A, V] float64, the logarithm of that quotient divided by beta (s minus what the bank gives the video), which
        ranks the same and cannot overflow; rows to which it is not applied are as they were.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_glccl.evaluation.post_processing import QueryBank, qb_norm

    >>> bank = QueryBank.from_similarity(np.array([[0.9, 0.1], [0.8, 0.2]]))  # video 0 attracts every query
    >>> qb_norm(np.array([[0.6, 0.5]]), bank).argmax(axis=1)
    array([1])

    ```
    """
    similarity = np.asarray(similarity, "float64")
    if similarity.shape[1:] != bank.log_sum.shape:
        raise ValueError(f"the bank has scores for {len(bank.log_sum)} videos, similarity is {similarity.shape}")
    applied = bank.activated[similarity.argmax(axis=1)]
    return np.where(applied[:, None], similarity - bank.log_sum / bank.beta, similarity)
