"""Draws how a text and a video become a score.

python benchmarks/architecture_picture.py docs/images/architecture.svg
"""

import argparse
from pathlib import Path

import errors

import matplotlib
import matplotlib.patches
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.rcParams |= {"svg.hashsalt": "glccl", "font.family": "DejaVu Sans"}  # the same file every time

_FEATURES, _LEARNED, _FREE = "#ffffff", "#cfe3f7", "#fbdcc8"


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    axes.add_patch(
        matplotlib.patches.FancyBboxPatch((x, y), width, height, "round,pad=0,rounding_size=.08", fc=colour)
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9, linespacing=1.35)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#444444", "shrinkA": 0, "shrinkB": 0})


def draw() -> Figure:
    """Boxes from left to right: inputs, encoders, features, GLIM, four scores, their mean, the losses."""
    figure = Figure(figsize=(11, 4.2))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 11), ylim=(0, 4.2))
    axes.set_axis_off()
    _box(axes, 0.1, 2.75, 1.3, 0.7, "a caption", _FEATURES)
    _box(axes, 0.1, 0.75, 1.3, 0.7, "a video:\nNf frames", _FEATURES)
    _box(axes, 1.8, 2.65, 1.5, 0.9, "CLIP's\ntext encoder", _LEARNED)
    _box(axes, 1.8, 0.65, 1.5, 0.9, "CLIP's\nimage encoder", _LEARNED)
    _box(axes, 3.7, 0.65, 1.4, 0.9, "temporal\nencoder", _LEARNED)
    _box(axes, 3.7, 3.2, 1.4, 0.6, "sentence  [D]", _FEATURES)
    _box(axes, 3.7, 2.4, 1.4, 0.6, "words  [Nw, D]", _FEATURES)
    _box(axes, 5.5, 0.8, 1.3, 0.6, "frames  [Nf, D]", _FEATURES)
    _box(axes, 5.5, 2.3, 1.6, 1.6, "GLIM:\nweighs the frames\nby the sentence\nand by each word", _FREE)
    scores = ("video - sentence", "video - word", "sentence - frame", "frame - word")
    for row, name in enumerate(scores):
        y = 3.35 - 0.75 * row
        _box(axes, 7.6, y, 1.6, 0.55, name, _LEARNED)
        _arrow(axes, (7.1, 3.1), (7.6, y + 0.275))
        _arrow(axes, (9.2, y + 0.275), (9.7, 2.9))
    _box(axes, 9.7, 2.5, 1.2, 0.8, "mean:\nthe logit", _FEATURES)
    _box(axes, 9.7, 0.75, 1.2, 0.9, "losses:\nretrieval\n+ η CSC", _FREE)
    for start, end in (
        ((1.4, 3.1), (1.8, 3.1)),
        ((1.4, 1.1), (1.8, 1.1)),
        ((3.3, 1.1), (3.7, 1.1)),
        ((5.1, 1.1), (5.5, 1.1)),
        ((3.3, 3.1), (3.7, 3.5)),
        ((3.3, 3.1), (3.7, 2.7)),
        ((5.1, 3.5), (5.5, 3.3)),
        ((5.1, 2.7), (5.5, 2.9)),
        ((6.15, 1.4), (6.15, 2.3)),
        ((10.3, 2.5), (10.3, 1.65)),
    ):
        _arrow(axes, start, end)
    axes.text(8.4, 4.0, "AOSM: four scores", ha="center", va="center", fontsize=9)
    for x, colour, text in ((0.1, _LEARNED, "learned"), (1.5, _FREE, "no parameters"), (3.5, _FEATURES, "data")):
        axes.add_patch(matplotlib.patches.Rectangle((x, 0.12), 0.25, 0.2, fc=colour, ec="black", lw=0.8))
        axes.text(x + 0.35, 0.22, text, va="center", fontsize=8)
    return figure


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draws how a text and a video become a score")
    parser.add_argument("file", type=Path, help="a .svg or .png file")
    arguments = parser.parse_args()
    metadata = {"Date": None} if arguments.file.suffix == ".svg" else None
    draw().savefig(arguments.file, facecolor="white", metadata=metadata)


if __name__ == "__main__":
    main()
