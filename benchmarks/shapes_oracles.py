"""What judges score on the shapes benchmark that see only some attributes: `python benchmarks/shapes_oracles.py`."""

import argparse
from collections.abc import Sequence, Set

import errors

import numpy as np

from modeling_glccl.data.shapes.sampler import sample_clips
from modeling_glccl.data.shapes.world import Clip, satisfies

ATTRIBUTES = {"colour", "shape", "size", "action", "order", "scene"}
# Name -> what retrieval would see that reads some symbols perfectly and nothing of the others.
ORACLES = {
    "scene": {"scene"},
    "colours": {"colour"},
    "colours + scene": {"colour", "scene"},
    "colours + scene + order": {"colour", "scene", "order"},
    "colours + scene + shapes": {"colour", "scene", "shape"},
    "colours + scene + actions": {"colour", "scene", "action"},
    "everything but order": ATTRIBUTES - {"order"},
    "everything but shapes": ATTRIBUTES - {"shape"},
    "everything but actions": ATTRIBUTES - {"action"},
    "everything but colours": ATTRIBUTES - {"colour"},
    "everything but scene": ATTRIBUTES - {"scene"},
    "everything but sizes": ATTRIBUTES - {"size"},
    "everything": ATTRIBUTES,
}


def oracle_recall(clips: Sequence[Clip], seen: Set[str]) -> tuple[float, float]:
    """Text-to-video R@1 in percent of a judge that sees only the attributes `seen`, over the videos of a split.

    To it, all videos that satisfy what it sees of a caption are equal.

    Returns:
        The expected R@1 if it picks one of them by chance, and R@1 if a tie counts as a miss.
    """
    unseen = ATTRIBUTES - seen
    ties = np.array(
        [sum(satisfies(clip.scene, clip.events, query.meaning, unseen) for clip in clips) for query in clips]
    )
    return float(100 * (1 / ties).mean()), float(100 * (ties == 1).mean())


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    clips = sample_clips(arguments.split, arguments.count, arguments.seed)
    print("| what is seen | R@1, ties by chance | R@1, ties lost |\n|---|---|---|", flush=True)
    for name, seen in ORACLES.items():
        by_chance, lost = oracle_recall(clips, seen)
        print(f"| {name} | {by_chance:.1f} | {lost:.1f} |", flush=True)


if __name__ == "__main__":
    main()
