"""Tables and pictures: metrics of several models, what was retrieved, and where the model looked."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .metrics import DIRECTIONS, METRICS, RECALL_RANKS
from .retrieved_videos import RetrievedVideo

INK, FAINT, CORRECT, DESCRIBED, OTHER = "#1f2933", "#7b8794", "#1a9850", "#f28e2b", "#a9b8c9"
GRID = "#e4e7eb"
MODELS = ("#1f5fa8", "#f28e2b", "#76a95a", "#b07aa1", "#9c755f", "#59a1a0")


def metrics_table(
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]],
    title: str,
    intervals: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]] | None = None,
) -> Table:
    """One row per model and direction, for the terminal.

    `metrics`: model name -> what [`retrieval_metrics`] returns; what is not known may be left out. `intervals`, shown
    in rows below: model name -> direction -> what [`bootstrap_intervals`] returns.
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("model", overflow="fold")
    table.add_column("direction", no_wrap=True)
    for metric in METRICS:
        table.add_column(metric, justify="right", no_wrap=True)
    for model, directions in metrics.items():
        for direction, values in directions.items():
            known = [f"{values[metric]:.1f}" if metric in values else "" for metric in METRICS]
            table.add_row(model, DIRECTIONS[direction], *known)
            if intervals:
                ends = [intervals[model][direction][metric] for metric in METRICS]
                for end, name in enumerate(("  from", "  to")):
                    table.add_row("", name, *(f"{interval[end]:.1f}" for interval in ends), style="dim")
    return table


def retrieval_tables(queries: Mapping[str, Sequence[RetrievedVideo]]) -> Group:
    """The videos retrieved for each query, best first, for the terminal; the one that it describes is marked."""
    tables = []
    for query, videos in queries.items():
        table = Table(title=f"“{query}”", title_justify="left", title_style="bold")
        cells = []
        for rank, video in enumerate(videos, start=1):
            table.add_column(f"{rank}", no_wrap=True)
            mark, style = (" ✓", "bold green") if video.correct else ("", "")
            cells.append(Text(f"{video.video_id}\n{video.score:.1f}{mark}", style=style))
        table.add_row(*cells)
        tables.append(table)
    return Group(*tables)


def plot_retrievals(queries: Mapping[str, Sequence[RetrievedVideo]]) -> Figure:
    """The videos retrieved for each query, best first, as frame strips with the frame weights as bars below."""
    rows = max(map(len, queries.values()))
    videos = [video for retrieved in queries.values() for video in retrieved]
    slots = max(len(video.frames) for video in videos)
    frame_height, frame_width = videos[0].frames.shape[1:3]
    # Inches: exact, so that frames keep their proportions.
    label, strip, bars, gap, header, footer = 0.85, 5.7, 0.34, 0.2, 0.75, 0.4
    strip_height = strip / slots * frame_height / frame_width
    pitch = strip_height + bars + gap
    width, height = len(queries) * (label + strip) + 0.1, header + rows * pitch + footer
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    for column, (query, videos) in enumerate(queries.items()):
        left = (label + column * (label + strip)) / width
        title: dict[str, Any] = {"fontsize": 12, "fontweight": "bold", "color": INK, "ha": "center", "va": "center"}
        figure.text(left + strip / 2 / width, 1 - 0.4 * header / height, fill(f"“{query}”", 60), **title)
        for rank, video in enumerate(videos, start=1):
            top = height - header - (rank - 1) * pitch
            box = (left, (top - strip_height) / height, strip / width, strip_height / height)
            _plot_strip(figure.add_axes(box, xlim=(-0.5, slots - 0.5)), video, rank)
            box = (left, (top - strip_height - bars) / height, strip / width, 0.92 * bars / height)
            _plot_weights(figure.add_axes(box, xlim=(-0.5, slots - 0.5)), video)
    handles = [
        Patch(facecolor="white", edgecolor=CORRECT, linewidth=2.5, label="the video the query describes"),
        Patch(color=DESCRIBED, label="frame weight, frame of a described event"),
        Patch(color=OTHER, label="frame weight, any other frame"),
        Line2D([], [], color=FAINT, linewidth=0.8, linestyle=":", label="equal weights"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=4, frameon=False, fontsize=10)
    return figure


def _plot_strip(axes: Axes, video: RetrievedVideo, rank: int) -> None:
    count, height, width = video.frames.shape[:3]
    gap = max(1, width // 24)
    strip = np.full((height, count, width + gap, 3), 255, np.uint8)
    strip[:, :, :width] = video.frames.transpose(1, 0, 2, 3)
    # Each frame is one unit wide, so that its bar stands below it.
    limits, extent = axes.get_xlim(), (-0.5, count - 0.5, 0, 1)
    axes.imshow(strip.reshape(height, -1, 3), extent=extent, aspect="auto", interpolation="lanczos")
    axes.set(xticks=[], yticks=[], xlim=limits)
    colour = CORRECT if video.correct else INK
    _label_left(axes, 0.5, f"{rank}", fontsize=17, fontweight="bold", color=colour, va="center")
    axes.spines[:].set(color=CORRECT if video.correct else "white", linewidth=3)


def _plot_weights(axes: Axes, video: RetrievedVideo) -> None:
    count = len(video.frame_weights)
    described = np.zeros(count, bool) if video.described is None else video.described
    axes.bar(range(count), video.frame_weights, width=0.82, color=np.where(described, DESCRIBED, OTHER))
    axes.axhline(1 / count, color=FAINT, linewidth=0.8, linestyle=":")
    axes.set(ylim=(0, 1.25 * max(video.frame_weights.max(), 2 / count)), xticks=[], yticks=[])
    # There is room for 13 characters, and ids differ at their ends.
    _label_left(axes, 0, f"{video.video_id[-13:]}\n{video.score:.1f}", fontsize=7.5, color=FAINT, va="bottom")
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(OTHER)


def _label_left(axes: Axes, height: float, text: str, **style: Any) -> None:
    axes.annotate(text, (0, height), (-9, 0), "axes fraction", "offset points", ha="right", **style)


def plot_recalls(metrics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """R@1, R@5 and R@10 as bars, of model name -> what [`retrieval_metrics`] returns."""
    figure, panels = _recall_panels()
    recalls = METRICS[: len(RECALL_RANKS)]
    width = 0.82 / len(metrics)
    for direction, axes in panels.items():
        for model, (label, values) in enumerate(metrics.items()):
            heights = [values[direction][recall] for recall in recalls]
            positions = np.arange(3) + (model - (len(metrics) - 1) / 2) * width
            bars = axes.bar(positions, heights, 0.92 * width, color=MODELS[model % len(MODELS)], label=label)
            axes.bar_label(bars, fmt="%.1f", fontsize=8, color=INK, padding=2)
        axes.set_xticks(range(3), recalls)
    handles = panels["t2v"].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(metrics), frameon=False)
    return figure


def plot_cmc(curves: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Recall at every rank, of model name -> direction -> what [`cmc_curve`] returns; a direction may be left out."""
    figure, panels = _recall_panels()
    labels = {}
    for direction, axes in panels.items():
        longest = 1
        for model, (label, directions) in enumerate(curves.items()):
            if direction not in directions:
                continue
            recalls = directions[direction]
            longest, style = max(longest, len(recalls)), {"marker": ".", "markevery": [0]}
            (line,) = axes.plot(range(1, len(recalls) + 1), recalls, color=MODELS[model % len(MODELS)], **style)
            labels.setdefault(label, line)
        ticks = [rank for rank in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if rank <= longest]
        axes.set(xlabel="rank", xscale="log")
        axes.set_xticks(ticks, [f"{rank:,}" for rank in ticks])
        axes.minorticks_off()
        axes.grid(axis="x", color=GRID)
    figure.legend(labels.values(), labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _recall_panels() -> tuple[Figure, dict[str, Axes]]:
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained", facecolor="white")
    panels = dict(zip(DIRECTIONS, figure.subplots(1, 2, sharey=True), strict=True))
    for direction, axes in panels.items():
        axes.set(title=DIRECTIONS[direction], ylim=(0, 108), yticks=range(0, 101, 20))
        axes.grid(axis="y", color=GRID)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, colors=INK)
        axes.spines[:].set_visible(False)
    figure.supylabel("recall (%)", fontsize=10, color=INK)
    return figure, panels
