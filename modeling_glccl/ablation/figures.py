"""The report's figures."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from ..evaluation.report import CORRECT, FAINT, INK, MODELS, OTHER
from .outcomes import Spread
from .strips import CaptionedVideo
from .tables import DIRECTIONS

GRID = "#e4e7eb"


def plot_eta(points: Mapping[float, Mapping[str, Spread]]) -> Figure:
    """R@1 against the weight of the CSC loss: mean over seeds, bars of one standard deviation.

    Args:
        points: eta -> direction -> R@1. Values of eta stand at equal distances.
    """
    figure = Figure(figsize=(7.6, 3.8), dpi=150, layout="constrained", facecolor="white")
    axes = figure.subplots()
    for index, (direction, label) in enumerate(DIRECTIONS.items()):
        spreads = [values[direction] for values in points.values()]
        axes.errorbar(
            np.arange(len(points)) + 0.06 * (index - 0.5),
            [spread.mean for spread in spreads],
            [spread.std or 0.0 for spread in spreads],
            color=MODELS[index],
            marker="o",
            capsize=3,
            label=label,
        )
    axes.set(xlabel="η, the weight of the CSC loss", ylabel="R@1 (%)")
    axes.set_xticks(range(len(points)), [f"{eta:g}" for eta in points])
    _bare(axes)
    axes.legend(frameon=False)
    return figure


def plot_scores(groups: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """How the scores of matching pairs and of the hardest other pairs are distributed.

    Args:
        groups: variant -> "positive" and "hard negative", the mean scores [N], and for heads with four scores
            "positive spread" and "hard negative spread", their standard deviations [N].
    """
    kinds = {"": "score", " spread": "standard deviation of the four scores"}
    rows = [kind for kind in kinds if any(f"positive{kind}" in scores for scores in groups.values())]
    figure = Figure(
        figsize=(3.7 * len(groups), 2.3 * len(rows) + 0.6), dpi=150, layout="constrained", facecolor="white"
    )
    panels = figure.subplots(len(rows), len(groups), squeeze=False, sharex="row", sharey="row")
    for row, kind in zip(panels, rows, strict=True):
        names = (f"positive{kind}", f"hard negative{kind}")
        together = np.concatenate([scores[name] for scores in groups.values() for name in names if name in scores])
        edges = np.linspace(*np.percentile(together, (0.1, 99.9)), 40)
        for axes, (variant, scores) in zip(row, groups.items(), strict=True):
            for name, colour, label in zip(
                names, (CORRECT, MODELS[1]), ("the caption's video", "best other video"), strict=True
            ):
                if name not in scores:
                    continue
                values = np.clip(scores[name], edges[0], edges[-1])
                weights = np.full(len(values), 100 / len(values))
                axes.hist(values, edges, weights=weights, color=colour, alpha=0.55, label=label)
                axes.axvline(np.median(values), color=colour, linewidth=1.2)
            axes.set_xlabel(kinds[kind], fontsize=9)
            if not kind:
                axes.set_title(variant, fontsize=11)
            _bare(axes)
    figure.supylabel("captions (%)", fontsize=10, color=INK)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def plot_length(
    accuracy: Mapping[str, Sequence[tuple[float, Spread]]],
    cost: Mapping[tuple[str, str], Sequence[tuple[int, float, float]]],
) -> Figure:
    """Accuracy and scoring cost against the number of frames.

    Args:
        accuracy: variant -> (mean frames per video, text-to-video R@1), in order.
        cost: variant, label -> (frames, microseconds per pair, multiply-adds per pair), in order. A variant has the
            same colour everywhere.
    """
    figure = Figure(figsize=(13, 3.9), dpi=150, layout="constrained", facecolor="white")
    left, middle, right = figure.subplots(1, 3)
    variants = list(dict.fromkeys([*accuracy, *(variant for variant, _ in cost)]))
    colours = {variant: MODELS[index % len(MODELS)] for index, variant in enumerate(variants)}
    for variant, points in accuracy.items():
        frames, spreads = zip(*points, strict=True)
        means, errors = [spread.mean for spread in spreads], [spread.std or 0.0 for spread in spreads]
        left.errorbar(frames, means, errors, color=colours[variant], marker="o", capsize=3, label=variant)
    left.set(xlabel="frames per video", ylabel="text-to-video R@1 (%)", title="accuracy")
    highest = max(spread.mean + (spread.std or 0.0) for points in accuracy.values() for _, spread in points)
    left.set_ylim(0, max(1.0, 1.12 * highest))
    counts = sorted({frames for points in accuracy.values() for frames, _ in points})
    left.set_xticks(counts, [f"{frames:g}" for frames in counts])
    for (variant, label), points in cost.items():
        frames, seconds, macs = zip(*points, strict=True)
        labels = [name for of_variant, name in cost if of_variant == variant]
        style = {"color": colours[variant], "linestyle": ("-", "--", ":")[labels.index(label) % 3], "marker": "o"}
        for axes, values in ((middle, seconds), (right, np.array(macs) / 1e6)):
            axes.plot(frames, values, label=label, **style)
    middle.set(ylabel="s per 1,000 x 1,000 (= µs per pair)", title="scoring, measured")
    right.set(ylabel="million multiply-adds per pair", title="scoring, counted")
    ticks = sorted({frames for points in cost.values() for frames, *_ in points})
    for axes in (middle, right):
        axes.set(xlabel="frames per video", xscale="log", yscale="log")
        axes.set_xticks(ticks, map(str, ticks))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.minorticks_off()
    for axes in (left, middle, right):
        _bare(axes)
        axes.legend(frameon=False, fontsize=9, loc="lower left" if axes is left else "upper left")
    return figure


def plot_captions(videos: Sequence[CaptionedVideo]) -> Figure:
    """Videos as frame strips, and below each the captions that score best, the right ones marked."""
    frames = max(len(video.frames) for video in videos)
    height, width = videos[0].frames.shape[1:3]
    strip, line, gap = 13 / frames * height / width, 0.27, 0.25  # inches, so that frames keep their proportions
    block = strip + gap + line * max(len(video.captions) for video in videos) + gap
    total = block * len(videos)
    figure = Figure(figsize=(13, total), dpi=150, facecolor="white")
    for index, video in enumerate(videos):
        top = total - index * block
        box = (0, (top - strip) / total, len(video.frames) / frames, strip / total)
        axes = figure.add_axes(box)
        row = np.full((height, len(video.frames), width + max(1, width // 24), 3), 255, np.uint8)
        row[:, :, :width] = video.frames.transpose(1, 0, 2, 3)
        axes.imshow(row.reshape(height, -1, 3), aspect="auto", interpolation="lanczos")
        axes.axis("off")
        for line_index, (rank, caption, score, correct) in enumerate(video.captions):
            figure.text(
                0.003,
                (top - strip - gap / 2 - line * (line_index + 0.5)) / total,
                f"{rank}   {score:6.2f}   {'✓ ' if correct else '   '}{fill(caption, 140)}",
                fontsize=11,
                color=CORRECT if correct else INK,
                fontweight="bold" if correct else "normal",
                va="center",
            )
    return figure


def _bare(axes: Axes) -> None:
    """Gridlines in place of a frame."""
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    axes.title.set_color(INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(FAINT)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(OTHER)
