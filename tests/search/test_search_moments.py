"""Frame weights -> spans of time."""

import numpy as np
import pytest

from modeling_glccl.features_glccl import find_moment

TIMES = np.array([1.0, 3.0, 5.0, 7.0, 9.0])


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([0.02, 0.45, 0.48, 0.03, 0.02], (2, 6, 5)),
        ([0.90, 0.04, 0.02, 0.02, 0.02], (0, 2, 1)),  # reaches to the start of the clip
        ([0.02, 0.02, 0.02, 0.04, 0.90], (8, 10, 9)),  # and to its end
        ([0.2, 0.2, 0.2, 0.2, 0.2], (0, 10, 1)),  # no frame is preferred
        ([0.20, 0.00, 0.00, 0.40, 0.40], (6, 10, 7)),  # the heavier of two runs
        ([0.30, 0.08, 0.30, 0.30, 0.02], (0, 8, 1)),  # a short dip does not split it
    ],
)
def test_the_run_that_outweighs_the_rest(weights, expected):
    assert find_moment(np.array(weights), TIMES, 0.0, 10.0) == expected


def test_one_frame_stands_for_the_clip():
    assert find_moment(np.array([1.0]), np.array([21.5]), 20.0, 23.0) == (20.0, 23.0, 21.5)
