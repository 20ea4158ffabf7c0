"""How well weights over frames find the frames that a caption is about."""

import numpy as np


def average_precision(weights: np.ndarray, relevant: np.ndarray) -> float:
    """Average precision of ranking the frames of a video by weight.

    It is the mean, over the relevant frames, of the share of relevant ones among all down to their rank. Frames of
    equal weight stand in random order, and the result is the exact expectation over these orders: the order in which
    frames are given does not matter, and constant weights give what chance gives.

    Args:
        weights: [Nf], higher ranks earlier.
        relevant: [Nf] bool, such as [`modeling_glccl.data.shapes.relevant_frames`] gives.

    Returns:
        A share in 0..1.

    Raises:
        ValueError: no relevant frame, a NaN, or lengths that differ.

    Example:

    ```python
    >>> from modeling_glccl.evaluation import average_precision

    >>> average_precision([0.5, 0.3, 0.2], [True, False, True])  # precision 1 at rank 1, 2/3 at rank 3
    0.8333333333333333
    >>> average_precision([0.5, 0.5], [True, False])  # rank 1 or rank 2
    0.75

    ```
    """
    weights, relevant = np.asarray(weights, np.float64), np.asarray(relevant, bool)
    if weights.shape != relevant.shape or weights.ndim != 1:
        raise ValueError(f"weights {weights.shape} and relevant {relevant.shape} must both be [frames]")
    if not relevant.any() or np.isnan(weights).any():
        raise ValueError("average precision needs a relevant frame, and weights that are no NaN")
    total, before, hits = 0.0, 0, 0
    _, group = np.unique(-weights, return_inverse=True)
    for tied in (relevant[group == index] for index in range(group.max() + 1)):
        count, wanted = len(tied), int(tied.sum())
        place = np.arange(count)
        # A relevant frame at some place of its tied group has, on average, this many relevant ones before it there.
        earlier = place * (wanted - 1) / max(1, count - 1)
        total += wanted / count * ((hits + 1 + earlier) / (before + 1 + place)).sum()
        before, hits = before + count, hits + wanted
    return float(total / hits)
