"""From GLIM's frame weights to the span of time that a query is about."""

from typing import NamedTuple

import numpy as np


class Moment(NamedTuple):
    """Seconds in the video: the span, and the frame within it that counts most."""

    start: float
    end: float
    peak: float


def find_moment(weights: np.ndarray, times: np.ndarray, start: float, end: float) -> Moment:
    """The run of frames whose weights exceed equal weights by the most, summed.

    A frame stands for the time nearer to it than to its neighbours, so a moment is no finer than the spacing of the
    frames.

    Args:
        weights: [n], GLIM's weights of a text over the frames of a clip (they sum to 1).
        times: [n] seconds of the frames, ascending.
        start, end: seconds of the clip.
    """
    excess = weights - weights.mean()
    best, first, last = -np.inf, 0, 0
    total, run_start = 0.0, 0
    for position, value in enumerate(excess):
        if total <= 0:
            total, run_start = 0.0, position
        total += value
        if total > best:
            best, first, last = total, run_start, position
    if np.ptp(weights) < 1e-6:  # the text prefers no frame
        first, last = 0, len(weights) - 1
    borders = np.concatenate([[start], (times[1:] + times[:-1]) / 2, [end]])
    peak = first + int(weights[first : last + 1].argmax())
    return Moment(float(borders[first]), float(borders[last + 1]), float(times[peak]))
