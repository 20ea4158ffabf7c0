"""How likely what a query describes is in the library, judged from a result: a logistic regression on its scores.

A logit ranks the videos of one query; how large one is that means a match differs from model to model, and the best of
many videos that do not match is larger than the best of few. So the regression sees the four scores of the result, and
its distance to the results that follow. It is fitted to captions whose videos are in the library, and taken out.
"""

from collections.abc import Sequence

import numpy as np

# The results after one whose mean logit says how near videos come that are not meant.
FOLLOWING = 20
# Shares of the other videos that make the libraries of the fit, so that it holds for small and large ones.
_LIBRARIES = (1, 0.5, 0.25, 0.125)
# Of the squared weights of standardised features, beside the sum of the log losses.
_RIDGE = 1.0


def confidence_features(scores: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """[k, 5], of each of the k best results of a search its four scores and its distance to the results that follow.

    Args:
        scores: [4, k], the four scores of the results, best first.
        logits: [N], of the N >= k best videos, best first; `FOLLOWING` more than k where there are so many. The
            distance of the last one, if none follows, is 0.
    """
    logits = np.asarray(logits, "float64")
    sums = np.concatenate([[0.0], logits.cumsum()])
    first = np.arange(1, scores.shape[1] + 1)
    last = np.minimum(first + FOLLOWING, len(logits))
    following = (sums[last] - sums[first]) / np.maximum(last - first, 1)
    distance = np.where(last > first, logits[first - 1] - following, 0)
    return np.column_stack([*np.asarray(scores, "float64"), distance])


def confidences(weights: Sequence[float], scores: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """[k] float64 in 0..1, the probability that what the query describes is in the library, judged from each result.

    `weights` are `GLCCLConfig.confidence_weights`, scores and logits as [`confidence_features`] takes them.
    """
    return _sigmoid(weights[0] + confidence_features(scores, logits) @ np.array(weights[1:]))


def fit_confidence(
    scores: np.ndarray, video_index: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> list[float]:
    """`GLCCLConfig.confidence_weights` for a model, from its scores of captions that it was not trained on.

    Every caption searches libraries of all videos, and of random shares of them, with its own video and without; the
    weights are those of a logistic regression that tells the two apart by the best result.

    Args:
        scores: [4, A, V], the four scores of A captions with V videos.
        video_index: [A], the video of each caption.
        groups: [V], equal for videos that are nearly the same: they are taken out together. By default all differ.
        seed: of the random shares.

    Raises:
        ValueError: all videos are of one group, or scores that are not finite.
    """
    groups = np.arange(scores.shape[2]) if groups is None else np.asarray(groups)
    distinct = np.unique(groups)
    if len(distinct) < 2:
        raise ValueError(f"{len(groups)} videos of one group: without them there is no library to search")
    if not np.isfinite(scores).all():
        raise ValueError("scores that are not finite (NaN or infinity): no confidence can be fitted to them")
    generator, logits = np.random.default_rng(seed), scores.mean(axis=0, dtype="float64")
    rows, there = [], []
    for caption, video in enumerate(video_index):
        own = groups == groups[video]
        others = distinct[distinct != groups[video]]
        for share in _LIBRARIES:
            drawn = generator.permutation(others)[: max(1, round(share * len(others)))]
            kept = np.isin(groups, drawn)
            for library in (np.flatnonzero(kept | own), np.flatnonzero(kept)):
                best = library[np.argsort(-logits[caption, library], kind="stable")[: FOLLOWING + 1]]
                rows.append(confidence_features(scores[:, caption, best[:1]], logits[caption, best])[0])
        there += [1.0, 0.0] * len(_LIBRARIES)
    return _logistic_regression(np.array(rows), np.array(there))


def _logistic_regression(features: np.ndarray, labels: np.ndarray) -> list[float]:
    """The constant and the weights [F] of features [N, F] that have the least log loss, by Newton's method."""
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-9
    inputs = np.column_stack([np.ones(len(features)), (features - mean) / deviation])
    ridge = _RIDGE * np.diag([0.0] + [1.0] * features.shape[1])
    weights = np.zeros(inputs.shape[1])
    for _ in range(50):
        found = _sigmoid(inputs @ weights)
        curvature = (inputs.T * (found * (1 - found))) @ inputs + ridge
        step = np.linalg.solve(curvature, inputs.T @ (found - labels) + ridge @ weights)
        weights -= step
        if abs(step).max() < 1e-8:
            break
    slopes = weights[1:] / deviation
    return [float(f"{weight:.4g}") for weight in (weights[0] - slopes @ mean, *slopes)]


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(values / 2))
