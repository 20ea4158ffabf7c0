"""Ranks and recalls of text-video retrieval, every query counted once and ties resolved to the worst rank."""

import numpy as np
from torch import Tensor


def retrieval_metrics(
    similarity: np.ndarray | Tensor, video_index: np.ndarray | Tensor | list[int]
) -> dict[str, dict[str, float]]:
    """R@1, R@5, R@10 (percent), median and mean rank (1 = best), in both directions.

    Args:
        similarity: [A, V] scores, higher is better.
        video_index: [A] integers, the column of each caption's video. Videos may have several captions, or none.

    Returns:
        {"t2v": {"R@1", "R@5", "R@10", "MdR", "MnR"}, "v2t": {...}}; see [`retrieval_ranks`] for what is ranked.

    Raises:
        ValueError: see [`retrieval_ranks`].

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
        video_index: [A] integers, the column of each caption's video.

    Returns:
        {"t2v": [A] int64 in the order of the captions, "v2t": [videos with captions] int64 in the order of columns}.

    Raises:
        ValueError: a NaN, an empty or not two-dimensional matrix, or a video_index that does not fit it.
    """
    similarity, video_index = _checked(similarity, video_index)
    own = np.take_along_axis(similarity, video_index[:, None], axis=1)
    t2v = (similarity >= own).sum(axis=1)

    best_caption = np.full((similarity.shape[1],) * 2, -np.inf, dtype=similarity.dtype)
    np.maximum.at(best_caption, video_index, similarity)  # [caption groups, videos]
    captioned = np.unique(video_index)
    best_caption = best_caption[captioned][:, captioned]
    v2t = (best_caption >= best_caption.diagonal()).sum(axis=0)
    return {"t2v": t2v, "v2t": v2t}


def summarize_ranks(ranks: np.ndarray) -> dict[str, float]:
    """R@1, R@5, R@10 in percent, median and mean of ranks [Q] (1 = best)."""
    recalls = {f"R@{k}": float((ranks <= k).mean() * 100) for k in (1, 5, 10)}
    return {**recalls, "MdR": float(np.median(ranks)), "MnR": float(ranks.mean())}


def _checked(similarity, video_index) -> tuple[np.ndarray, np.ndarray]:
    similarity, video_index = (
        values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        for values in (similarity, video_index)
    )
    if similarity.ndim != 2 or not similarity.size:
        raise ValueError(f"similarity must be [captions, videos] with at least one of each; got {similarity.shape}")
    if video_index.shape != similarity.shape[:1] or not np.issubdtype(video_index.dtype, np.integer):
        raise ValueError(
            f"video_index must hold one integer for each of the {len(similarity)} captions; "
            f"got shape {video_index.shape}, dtype {video_index.dtype}"
        )
    if video_index.min() < 0 or video_index.max() >= similarity.shape[1]:
        raise ValueError(
            f"video_index must lie in 0..{similarity.shape[1] - 1}, the columns of similarity; "
            f"got {video_index.min()}..{video_index.max()}"
        )
    if np.isnan(similarity).any():
        row, column = np.argwhere(np.isnan(similarity))[0]
        raise ValueError(
            f"similarity[{row}, {column}] is NaN, which has no rank: look for a text or a video whose features are "
            "not finite"
        )
    return similarity, video_index
