"""What retrieval would score that reads some symbols perfectly and sees nothing of the others."""

from collections.abc import Sequence

import numpy as np

from .world import Clip, satisfies

ATTRIBUTES = frozenset({"colour", "shape", "size", "action", "order", "scene"})
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


def oracle_recall(clips: Sequence[Clip], seen: frozenset[str] | set[str]) -> tuple[float, float]:
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


def oracle_table(clips: Sequence[Clip]) -> str:
    """The scores of all `ORACLES` as a Markdown table."""
    lines = ["| what is seen | R@1, ties by chance | R@1, ties lost |", "|---|---|---|"]
    for name, seen in ORACLES.items():
        by_chance, lost = oracle_recall(clips, frozenset(seen))
        lines.append(f"| {name} | {by_chance:.1f} | {lost:.1f} |")
    return "\n".join(lines)
