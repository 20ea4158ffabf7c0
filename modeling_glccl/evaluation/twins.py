"""Which difference between two videos a model sees: accuracy on the hard twins of the shapes benchmark."""

import numpy as np
from torch import Tensor

from ..data.shapes.sampler import TWINS


def twin_accuracy(
    similarity: np.ndarray | Tensor, video_index: np.ndarray | Tensor, twin_groups: np.ndarray | list[int]
) -> dict[str, float]:
    """How often a caption scores its own video above a twin that differs in one thing alone.

    The videos of a group stand in the order in which the benchmark renders them: one, then its twins in shape, action
    and order. Each twin and the first video are compared twice, by the captions of both. A tie counts as a miss;
    chance gives 50. Groups that are cut short count for the twins that they have.

    Args:
        similarity: [A, V] scores, higher is better.
        video_index: [A] integers, the column of each caption's video.
        twin_groups: [V] integers, the column `twin_group` of each video.

    Returns:
        {"shape", "action", "order"} in percent.

    Raises:
        ValueError: lengths that do not fit, or no pair of twins of some kind.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_glccl.evaluation import twin_accuracy

    >>> scores = np.eye(4)
    >>> scores[3, 0] = 2.0  # the caption of the twin in order prefers the first video
    >>> twin_accuracy(scores, [0, 1, 2, 3], twin_groups=[7, 7, 7, 7])
    {'shape': 100.0, 'action': 100.0, 'order': 50.0}

    ```
    """
    similarity, video_index, twin_groups = (
        values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        for values in (similarity, video_index, twin_groups)
    )
    if similarity.shape != (len(video_index), len(twin_groups)):
        raise ValueError(
            f"similarity {similarity.shape} must have one row for each of the {len(video_index)} captions in "
            f"video_index and one column for each of the {len(twin_groups)} videos in twin_groups"
        )
    pairs: dict[str, list[tuple[int, int]]] = {name: [] for name in TWINS}
    for group in dict.fromkeys(twin_groups.tolist()):
        first, *twins = np.flatnonzero(twin_groups == group).tolist()
        for name, twin in zip(TWINS, twins, strict=False):
            pairs[name] += [(first, twin), (twin, first)]
    accuracy = {}
    for name, of_kind in pairs.items():
        right = [
            similarity[caption, own] > similarity[caption, other]
            for own, other in of_kind
            for caption in np.flatnonzero(video_index == own)
        ]
        if not right:
            raise ValueError(f"no captioned video has a twin in {name}: are the videos in the order of the benchmark?")
        accuracy[name] = float(100 * np.mean(right))
    return accuracy
