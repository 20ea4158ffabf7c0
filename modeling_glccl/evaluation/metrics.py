"""Ranks of text-video retrieval and what is reported of them; every query counts once, ties take the worst rank."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

RECALL_RANKS = (1, 5, 10)
# The names of what is reported, in the order of every table and file.
METRICS = (*(f"R@{rank}" for rank in RECALL_RANKS), "MdR", "MnR")
DIRECTIONS = {"t2v": "text-to-video", "v2t": "video-to-text"}


def retrieval_metrics(
    similarity: np.ndarray | Tensor, video_index: np.ndarray | Tensor | list[int]
) -> dict[str, dict[str, float]]:
    """{"t2v": {"R@1", "R@5", "R@10" (percent), "MdR", "MnR" (median and mean rank, 1 = best)}, "v2t": {...}}.

    Arguments, errors and what is ranked are those of [`retrieval_ranks`].

    Example:

    ```python
    >>> from modeling_glccl.evaluation import retrieval_metrics

    >>> retrieval_metrics([[0.9, 0.1], [0.8, 0.3], [0.2, 0.7]], [0, 0, 1])["t2v"]["R@1"]
    100.0

    ```
    """
    return {direction: summarize_ranks(ranks) for direction, ranks in retrieval_ranks(similarity, video_index).items()}


def retrieval_ranks(
    similarity: np.ndarray | Tensor, video_index: np.ndarray | Tensor | list[int]
) -> dict[str, np.ndarray]:
    """The rank of the right answer for every query, 1 = best.

    Text-to-video: every caption ranks all V videos. Video-to-text: every video that has captions ranks the videos'
    caption groups, a group scoring as its best caption, as in the authors' release; a video without captions is a
    distractor for text-to-video only. A tied query takes the worst rank among its ties, so equal scores everywhere
    give the last place. (The release counts a tied query once per tied position; without ties the numbers are equal.)

    Args:
        similarity: [A, V] scores, higher is better.
        video_index: [A] integers, the column of each caption's video. Videos may have several captions, or none.

    Returns:
        {"t2v": [A] int64 in the order of the captions, "v2t": [videos with captions] int64 in the order of columns}.

    Raises:
        ValueError: a NaN, an empty or not two-dimensional matrix, or a video_index that does not fit it.
    """
    return {direction: queries.ranks() for direction, queries in retrieval_queries(similarity, video_index).items()}


class RankedQueries(NamedTuple):
    """The queries of one direction and what they rank."""

    scores: np.ndarray  # [Q, K] score of every candidate for every query
    target: np.ndarray  # [Q] int64, the column of the right answer
    videos: np.ndarray  # [K] int64, the video (or, in video-to-text, the captions of which video) that each column is

    def ranks(self) -> np.ndarray:
        """[Q] int64, rank of the right answer, 1 = best, the worst rank among ties."""
        return (self.scores >= self.target_scores()[:, None]).sum(axis=1)

    def target_scores(self) -> np.ndarray:
        """[Q] score of the right answer."""
        return np.take_along_axis(self.scores, self.target[:, None], axis=1)[:, 0]

    def top1(self) -> np.ndarray:
        """[Q] int64, the column ranked first; the right answer exactly where its rank is 1, hence not in a tie."""
        first = self.scores.argmax(axis=1)
        tied = np.flatnonzero((first == self.target) & (self.ranks() > 1))
        rivals = self.scores[tied]
        np.put_along_axis(rivals, self.target[tied, None], -np.inf, axis=1)
        first[tied] = rivals.argmax(axis=1)
        return first


def retrieval_queries(
    similarity: np.ndarray | Tensor, video_index: np.ndarray | Tensor | list[int]
) -> dict[str, RankedQueries]:
    """The queries of both directions, "t2v" and "v2t"; arguments, order and errors as [`retrieval_ranks`]."""
    similarity, video_index = (
        values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        for values in (similarity, video_index)
    )
    if similarity.ndim != 2 or not similarity.size:
        raise ValueError(f"similarity must be [captions, videos] with at least one of each; got {similarity.shape}")
    videos = similarity.shape[1]
    if video_index.shape != similarity.shape[:1] or not np.issubdtype(video_index.dtype, np.integer):
        raise ValueError(
            f"video_index must hold one integer for each of the {len(similarity)} captions; "
            f"got shape {video_index.shape}, dtype {video_index.dtype}"
        )
    if video_index.min() < 0 or video_index.max() >= videos:
        raise ValueError(
            f"video_index must lie in 0..{videos - 1}, the columns of similarity; "
            f"got {video_index.min()}..{video_index.max()}"
        )
    if np.isnan(similarity).any():
        row, column = np.argwhere(np.isnan(similarity))[0]
        raise ValueError(
            f"similarity[{row}, {column}] is NaN, which has no rank: look for a text or a video whose features are "
            "not finite"
        )
    best_caption = np.full((videos, videos), -np.inf, dtype=similarity.dtype)
    np.maximum.at(best_caption, video_index, similarity)  # [caption groups, videos]
    captioned = np.unique(video_index)
    groups = best_caption[captioned][:, captioned].T
    return {
        "t2v": RankedQueries(similarity, video_index, np.arange(videos)),
        "v2t": RankedQueries(groups, np.arange(len(captioned)), captioned),
    }


def summarize_ranks(ranks: np.ndarray) -> dict[str, float]:
    """R@1, R@5, R@10 in percent, median and mean of ranks [Q] (1 = best)."""
    recalls = [float((ranks <= rank).mean() * 100) for rank in RECALL_RANKS]
    return dict(zip(METRICS, [*recalls, float(np.median(ranks)), float(ranks.mean())], strict=True))


def cmc_curve(ranks: np.ndarray, num_candidates: int) -> np.ndarray:
    """The cumulative match characteristic: recall at every rank.

    Args:
        ranks: [Q] integers, 1 = best, of one direction of [`retrieval_ranks`].
        num_candidates: K, how many were ranked: the videos for text-to-video, those with captions for video-to-text.

    Returns:
        [K] float64 percent; entry k - 1 is R@k. It never falls and ends at 100.

    Raises:
        ValueError: no rank, or one outside 1..K.

    Example:

    ```python
    >>> from modeling_glccl.evaluation import cmc_curve, retrieval_ranks

    >>> ranks = retrieval_ranks([[0.9, 0.1], [0.3, 0.2]], [0, 1])
    >>> cmc_curve(ranks["t2v"], num_candidates=2).tolist()
    [50.0, 100.0]

    ```
    """
    ranks = np.asarray(ranks)
    if not ranks.size or ranks.min() < 1 or ranks.max() > num_candidates:
        found = f"{ranks.min()}..{ranks.max()}" if ranks.size else "none"
        raise ValueError(f"ranks must lie in 1..{num_candidates}, the number of candidates; got {found}")
    return np.bincount(ranks, minlength=num_candidates + 1)[1:].cumsum() * 100 / len(ranks)


def bootstrap_intervals(
    ranks: np.ndarray, level: float = 95.0, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Confidence intervals of the metrics of one direction: percentile bootstrap over its queries.

    The middle `level` percent of each metric over `resamples` draws of Q of the Q queries with replacement: how far it
    depends on which queries were asked, all else fixed. Captions of one video count as independent queries, which
    makes text-to-video intervals of benchmarks with several captions per video narrower than they should be.

    Args:
        ranks: [Q] integers, 1 = best, of one direction of [`retrieval_ranks`].
        level: percent, between 0 and 100.
        seed: of the draws.

    Returns:
        Low and high end of "R@1", "R@5", "R@10" (percent), "MdR" and "MnR".

    Raises:
        ValueError: a level outside 0..100, no resample or no rank.
    """
    ranks = np.asarray(ranks)
    if not 0 < level < 100:
        raise ValueError(f"level={level} must lie between 0 and 100 percent, such as 95")
    if resamples < 1 or not ranks.size:
        raise ValueError(f"{resamples} resamples of {ranks.size} ranks: at least one of each is needed")
    generator = np.random.default_rng(seed)
    drawn = [summarize_ranks(generator.choice(ranks, len(ranks))) for _ in range(resamples)]
    tails = (100 - level) / 2, (100 + level) / 2
    return {name: tuple(np.percentile([metrics[name] for metrics in drawn], tails).tolist()) for name in METRICS}
