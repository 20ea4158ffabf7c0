"""From GLIM's frame weights to the span of time that a query is about."""

from typing import NamedTuple

import numpy as np


class Moment(NamedTuple):
    """Seconds in the video: the span, and the frame within it that counts most."""

    start: float
    end: float
    peak: float


def find_moment(weights: np.ndarray, times: np.ndarray, start: float, end: float) -> Moment:
    """The run of frames that outweighs all others, where frames with less than half of an equal weight count against.

    Half, because GLIM's weights spread over all frames that a text is about, and a caption of several events gives
    each of them less than an equal weight where one event stands out (docs/search.md has the measurements). A frame
    stands for the time nearer to it than to its neighbours, so a moment is no finer than their spacing.

    Args:
        weights: [n], GLIM's weights of a text over the frames of a clip (they sum to 1).
        times: [n] seconds of the frames, ascending.
        start, end: seconds of the clip.
    """
    excess = weights - weights.mean() / 2
    best, first, last = -np.inf, 0, 0
    total, run_start = 0.0, 0
    for position, value in enumerate(excess):
        if total <= 0:
            total, run_start = 0.0, position
        total += value
        if total > best:
            best, first, last = total, run_start, position
    borders = np.concatenate([[start], (times[1:] + times[:-1]) / 2, [end]])
    peak = first + int(weights[first : last + 1].argmax())
    return Moment(float(borders[first]), float(borders[last + 1]), float(times[peak]))
