"""The report's own figures; cmc.png and text_to_video.png are drawn as `glccl evaluate` draws them."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from modeling_glccl.evaluation import EvaluationResult
from modeling_glccl.evaluation.metrics import DIRECTIONS
from modeling_glccl.evaluation.retrieved_videos import RetrievedVideo
from modeling_glccl.evaluation.tables_and_plots import CORRECT, INK, MODELS


def plot_eta(table: pd.DataFrame) -> Figure:
    """R@1 against the weight of the CSC loss, the table eta.csv: means over seeds, bars of one standard deviation."""
    figure = Figure(figsize=(7.6, 3.8), layout="constrained")
    axes = figure.subplots()
    for colour, direction in zip(MODELS, DIRECTIONS.values(), strict=False):
        recalls, deviations = table[f"{direction} R@1"], table[f"{direction} R@1 std"]
        axes.errorbar(table["eta"], recalls, deviations, color=colour, marker="o", capsize=3, label=direction)
    axes.set(xlabel="η, the weight of the CSC loss", ylabel="R@1 (%)")
    axes.legend()
    return figure


def plot_scores(groups: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """How the scores of matching pairs and of the hardest other pairs are distributed; lines are medians.

    Args:
        groups: variant -> what [`pair_scores`] returns, of all seeds.
    """
    kinds = {"": "score", " spread": "standard deviation of the four scores"}
    kinds = {kind: label for kind, label in kinds.items() if any(f"positive{kind}" in one for one in groups.values())}
    figure = Figure(figsize=(3.7 * len(groups), 2.3 * len(kinds) + 0.6), layout="constrained")
    panels = figure.subplots(len(kinds), len(groups), squeeze=False, sharex="row", sharey="row")
    for row, (kind, label) in zip(panels, kinds.items(), strict=True):
        pairs = {f"positive{kind}": ("the caption's video", CORRECT)}
        pairs |= {f"hard negative{kind}": ("best other video", MODELS[1])}
        together = np.concatenate([one[name] for one in groups.values() for name in pairs if name in one])
        edges = np.linspace(np.percentile(together, 0.1), np.percentile(together, 99.9), 40)
        for axes, (variant, scores) in zip(row, groups.items(), strict=True):
            axes.set(xlabel=label, title="" if kind else variant)
            for name, (pair, colour) in pairs.items():
                if name in scores:
                    values = np.clip(scores[name], edges[0], edges[-1])
                    shares = np.full(len(values), 100 / len(values))
                    axes.hist(values, edges, weights=shares, color=colour, alpha=0.55, label=pair)
                    axes.axvline(np.median(values), color=colour, linewidth=1.2)
    figure.supylabel("captions (%)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def plot_length(accuracy: pd.DataFrame, cost: pd.DataFrame) -> Figure:
    """Accuracy and scoring cost against the number of frames, the tables length_accuracy.csv and length_cost.csv.

    Lines of one variant, which in `cost` is a column beside "model", have the same colour.
    """
    figure = Figure(figsize=(13, 3.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    colours = dict(zip(cost["variant"].unique(), MODELS, strict=False))
    for variant, points in accuracy.groupby("model", sort=False):
        means, deviations = points["text-to-video R@1"], points["text-to-video R@1 std"]
        style = {"color": colours[variant], "marker": "o", "capsize": 3}
        left.errorbar(points["frames"], means, deviations, label=variant, **style)
    left.set(ylabel="text-to-video R@1 (%)", title="accuracy", ylim=(0, None))
    for variant, lines in cost.groupby("variant", sort=False):
        for style, (model, line) in zip(("-", "--", ":"), lines.groupby("model", sort=False), strict=False):
            options = {"color": colours[variant], "linestyle": style, "marker": "o", "label": model}
            middle.loglog(line["frames"], line["per pair µs"], **options)
            right.loglog(line["frames"], line["per pair million MAC"], **options)
    middle.set(ylabel="s per 1,000 x 1,000 (= µs per pair)", title="scoring, measured")
    right.set(ylabel="million multiply-adds per pair", title="scoring, counted")
    for axes, frames in ((left, accuracy["frames"]), (middle, cost["frames"]), (right, cost["frames"])):
        axes.minorticks_off()
        axes.set_xticks(frames.unique(), [f"{count:g}" for count in frames.unique()])
        axes.yaxis.set_major_formatter("{x:g}")
        if axes is not left:
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.set_xlabel("frames per video")
        axes.legend(fontsize=9)
    return figure


def plot_captions(result: EvaluationResult, videos: Sequence[RetrievedVideo]) -> Figure:
    """Videos as strips of frames, and below each its [`best_captions`], the right ones ticked."""
    figure = Figure(figsize=(13, 3.2 * len(videos)), layout="constrained")
    for axes, video in zip(figure.subplots(len(videos), squeeze=False)[:, 0], videos, strict=True):
        axes.imshow(np.concatenate([*video.frames], axis=1))
        axes.set(xticks=[], yticks=[])
        lines = [
            f"{'✓' if right else ' '} {rank:3}  {score:6.2f}  {caption}"
            for rank, caption, score, right in best_captions(result, result.video_ids.index(video.video_id))
        ]
        axes.set_xlabel("\n".join(lines), loc="left", family="monospace", color=INK)
    return figure


def best_captions(result: EvaluationResult, video: int) -> list[tuple[int, str, float, bool]]:
    """Rank, text, score and whether it is right, of a video's five best captions, and of its own if none is right."""
    scores = cast(np.ndarray, result.similarity)[:, video]
    order = np.argsort(-scores, kind="stable")
    right = result.video_index[order] == video
    shown = [*range(min(5, len(order))), *(rank for rank in np.flatnonzero(right)[:1] if rank >= 5)]
    return [(rank + 1, result.captions[order[rank]], float(scores[order[rank]]), bool(right[rank])) for rank in shown]
