"""Where a video cuts from one shot to the next, by how much of the picture changes from frame to frame."""

from collections import deque

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# Frames on each side to which a change is compared. What is gone again after fewer of them is a flash.
_AROUND = 8
# A cut changes so much, on the scale of 0 to 255, and so many times as much as there is change around it.
_LEAST, _RATIO = 10, 3
# The share of the picture that may stay as it is.
_SAME = 0.3


class FrameChanges:
    """How much changes from frame to frame of a video; small copies of `_AROUND` frames are in memory."""

    def __init__(self):
        self._before: deque[np.ndarray] = deque(maxlen=_AROUND)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Called with every frame, uint8 [H, W, 3], in order.

        Returns:
            float32 [2], the change since the frame before and since that `_AROUND` before: of the greatest differences
            among the three colours of some 2,000 points, 0 to 255, the one that 30 % of the points do not exceed. So a
            small thing that moves changes nothing, and a cut does, unless both shots have their background in common.
        """
        height, width, _ = frame.shape
        points = frame[:: max(1, height // 36), :: max(1, width // 64)].astype(np.int16)
        others = [self._before[-1], self._before[0]] if self._before else [points, points]
        self._before.append(points)
        differences = np.stack([np.abs(points - other).max(axis=-1).ravel() for other in others])
        place = int(_SAME * differences.shape[1])
        return np.partition(differences, place, axis=1)[:, place].astype(np.float32)


def find_cuts(changes: np.ndarray) -> np.ndarray:
    """int64, ascending: the frames with which shots begin, the first frame of the video apart.

    As in PySceneDetect's AdaptiveDetector, a cut is a change that is large beside those around it. It also lasts: the
    frames before it differ from those after it. Dissolves and fades are no cuts.

    Args:
        changes: [N, 2], of every frame what [`FrameChanges`] returned.
    """
    step, lag = changes.T
    around = sliding_window_view(np.pad(step, _AROUND, mode="symmetric"), 2 * _AROUND + 1).sum(axis=1) - step
    lasting = sliding_window_view(np.pad(lag, (0, _AROUND - 1), mode="edge"), _AROUND).min(axis=1)
    is_cut = (step >= _LEAST) & (2 * _AROUND * step >= _RATIO * around) & (lasting >= _LEAST)
    is_cut[0] = False
    return np.flatnonzero(is_cut)
