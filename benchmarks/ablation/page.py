"""The report: tables as CSV, figures as PNG, and one HTML page that holds all of them."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from modeling_glccl.evaluation.metrics import DIRECTIONS, METRICS
from modeling_glccl.evaluation.retrieved_videos import retrieve
from modeling_glccl.evaluation.tables_and_plots import plot_cmc, plot_retrievals
from modeling_glccl.peers import FOUR_SCORES

from . import figures
from .analysis import TrainedModel
from .cost import CURVE_VIDEOS, FRAMES, ITEMS, WIDTH, measure_costs
from .grid import Grid, Run

ALL = {f"{label} {metric}": (way, metric) for way, label in DIRECTIONS.items() for metric in METRICS}
COMPARED = [column for column, (_, metric) in ALL.items() if metric != "MdR"]
RECALLS = [column for column, (_, metric) in ALL.items() if metric == "R@1"]
STYLE: Any = {"axes.grid": True, "axes.axisbelow": True, "axes.edgecolor": "#a9b8c9", "grid.color": "#e4e7eb"}
STYLE |= {"axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False, "legend.frameon": False}
STYLE |= {"xtick.bottom": False, "ytick.left": False, "savefig.dpi": 150}
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 84rem; margin: 2rem auto; padding: 0 1rem }}
div {{ overflow-x: auto }} table {{ border-collapse: collapse; font-size: 13px; margin: .5rem 0 }}
th, td {{ padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #e4e7eb }} img {{ max-width: 100% }}
td {{ white-space: nowrap }} th:first-child, td:first-child {{ text-align: left }}
</style><h1>{title}</h1>
"""


class Page:
    """`index.html` under construction, with its tables and figures as files beside it."""

    def __init__(self, folder: Path, title: str):
        self.folder, self.parts = folder, [PAGE.format(title=html.escape(title))]
        folder.mkdir(parents=True, exist_ok=True)

    def section(self, title: str, text: str) -> None:
        """Starts a section with a paragraph."""
        self.parts.append(f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>")

    def table(self, table: pd.DataFrame, name: str) -> None:
        """Writes `NAME.csv`, and shows it with the columns "X" and "X std", mean and standard deviation, as one."""
        spread = [column for column in table if f"{column} std" in table]
        table = table.round({name: 2 for column in spread for name in (column, f"{column} std")})
        table.to_csv(self.folder / f"{name}.csv", index=False, float_format="%.6g")
        cells = table.map(lambda cell: cell if isinstance(cell, str) else "" if pd.isna(cell) else f"{cell:,.6g}")
        for column in spread:
            deviation = cells.pop(f"{column} std")
            cells[column] += deviation.where(deviation == "", " ± " + deviation)
        self.parts.append(f"<div>{cells.to_html(index=False, border=0)}</div>{name}.csv")

    def figure(self, figure: Figure, name: str) -> None:
        """Writes `NAME.png` and shows it."""
        figure.savefig(self.folder / f"{name}.png")
        data = base64.b64encode((self.folder / f"{name}.png").read_bytes()).decode()
        self.parts.append(f'<p><img alt="{name}" src="data:image/png;base64,{data}"></p>')


def write_report(grid: Grid, folder: Path) -> Path:
    """Writes what the finished runs allow and returns the page's path; ValueError without a run of the reference."""
    runs, analyses = collect(grid)
    reference = grid.settings.reference
    if reference not in analyses:
        raise ValueError(f"no run of {reference!r}, the reference, is finished in {grid.settings.output_dir}")
    found, costs = grid.sections(analyses), measure_costs(grid)
    heads, eta = found["heads"], found["eta"]
    page = Page(folder, f"{reference}, its switches and its peers on {grid.recipe(reference).data.benchmark}")
    text = "Recalls in percent, mean ± standard deviation over seeds. A run's folder holds its log, recipe and commit."
    page.section(f"{len(runs)} of {len(grid.runs)} runs", text)
    page.table(runs.filter(["model", "seed", "epoch", "training minutes", *ALL]), "runs")
    with matplotlib.rc_context(STYLE):
        size = f"{ITEMS:,} encoded texts and as many videos of {FRAMES} frames, width {WIDTH}, all word slots counted"
        where = f"float32, {costs['hardware']}, {costs['settings']['threads']} thread(s); GMAC: 10⁹ multiply-adds"
        page.section("Heads on the same encoders", f"Scoring: {size}, {where}.")
        page.table(main_table(grid, runs, heads, costs), "main")
        curves = {
            variant: {way: np.mean([one["cmc"][way] for one in analyses[variant]], axis=0) for way in DIRECTIONS}
            for variant in heads
        }
        page.section("CMC curves", "Recall at every rank, averaged over seeds (the paper's Fig. 3): cmc.csv.")
        page.figure(plot_cmc(curves), "cmc")
        rows = [
            {"model": variant, "direction": way, "rank": rank, "recall": recall}
            for variant, ways in curves.items()
            for way, recalls in ways.items()
            for rank, recall in enumerate(recalls, start=1)
        ]
        pd.DataFrame(rows).to_csv(folder / "cmc.csv", index=False)
        if len(analyses) > len(heads):
            page.section("GLIM and CSC", "GLIM for the sentence (global), for the words (local), both or neither.")
            page.table(glim_csc(grid, runs, found["glim_csc"]), "glim_csc")
            own = [variant for variant in analyses if variant not in heads[1:]]
            page.table(comparison(runs, own, reference).reset_index(), "glim_csc_all")
        if len(eta) > 1:
            page.section("The weight of CSC", "R@1 against η (the paper's Fig. 4); η = 0 trains without CSC.")
            table = spreads(runs, eta, RECALLS)
            table.insert(0, "eta", [float(grid.switches(variant)[2]) for variant in eta])
            page.figure(figures.plot_eta(table), "eta")
            page.table(table, "eta")
        peers = [variant for variant in heads[1:] if grid.recipe(variant).model.head in FOUR_SCORES]
        without_csc = [variant for variant in eta if variant != reference and not grid.switches(variant)[2]]
        _scores(page, runs, analyses, [reference, *without_csc, *peers])
        _twins_and_frames(page, runs, list(analyses))
        _length(page, grid, analyses, costs["curve"])
        first = runs.loc[runs["model"] == reference, "seed"].iloc[0]
        _retrievals(page, grid.runs[reference, first], grid.settings.queries)
    path = folder / "index.html"
    path.write_text("\n".join([*page.parts, "</html>\n"]), encoding="utf-8")
    return path


def collect(grid: Grid) -> tuple[pd.DataFrame, dict[str, list[dict[str, Any]]]]:
    """The finished runs: a row of numbers for each, and variant -> its analyses."""
    rows, analyses = [], {}
    for run in grid.runs.values():
        if analysis := run.analysis:
            results = run.results
            analyses.setdefault(run.variant, []).append(analysis)
            row = {"model": run.variant, "seed": run.seed, "epoch": results["epoch"]}
            row["training minutes"] = results["seconds"]["training"] / 60
            row |= {column: results["test"][way][metric] for column, (way, metric) in ALL.items()}
            rows.append(row | analysis["values"])
    return pd.DataFrame(rows), analyses


def spreads(runs: pd.DataFrame, variants: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Columns "X" and "X std", mean and sample standard deviation over seeds, of those variants that have them."""
    groups = runs.dropna(subset=columns).groupby("model")
    found = [variant for variant in variants if variant in groups.groups]
    table = pd.DataFrame(index=pd.Index(found, name="model"))
    for column in columns:
        table[column], table[f"{column} std"] = groups[column].mean(), groups[column].std()
    return table


def comparison(runs: pd.DataFrame, variants: Sequence[str], reference: str) -> pd.DataFrame:
    """Accuracy of variants, and the difference of their R@1 to the reference's, seed by seed."""
    table = spreads(runs, variants, COMPARED)
    for column, label in zip(RECALLS, DIRECTIONS.values(), strict=True):
        recalls = runs.pivot(index="seed", columns="model", values=column)
        differences = recalls.sub(recalls[reference], axis=0).drop(columns=reference)
        table[f"R@1 against the reference {label}"] = differences.mean()
        table[f"R@1 against the reference {label} std"] = differences.std()
    return table


def main_table(grid: Grid, runs: pd.DataFrame, variants: Sequence[str], costs: dict[str, Any]) -> pd.DataFrame:
    """The heads: accuracy, parameters and scoring cost."""
    table = comparison(runs, variants, grid.settings.reference)
    table = table.join(runs.groupby("model")[["parameters all", "parameters beside CLIP"]].first())
    for cost in costs["main"]:
        rows = [variant for variant in variants if grid.recipe(variant).model.head == cost["head"]]
        name = f"scoring {cost['texts']:,} x {cost['videos']:,}, {cost['words']} words"
        table.loc[rows, [f"{name} seconds", f"{name} GMAC"]] = cost["seconds"], cost["macs"] / 1e9
    return table.reset_index()


def glim_csc(grid: Grid, runs: pd.DataFrame, variants: Sequence[str]) -> pd.DataFrame:
    """R@1 with GLIM's switches down and CSC across."""
    labels = {(True, True): "global and local", (True, False): "global", (False, True): "local", (False, False): "off"}
    table = spreads(runs, variants, RECALLS)
    table["GLIM"] = [labels[grid.switches(variant)[:2]] for variant in variants]
    table["CSC"] = ["with CSC" if grid.switches(variant)[2] else "without CSC" for variant in variants]
    wide = table.drop_duplicates(["GLIM", "CSC"]).pivot(index="GLIM", columns="CSC")
    wide = wide.loc[[label for label in labels.values() if label in wide.index]]
    order = [(name, csc, std) for name in RECALLS for csc in ("without CSC", "with CSC") for std in ("", " std")]
    cells = {f"{name} {csc}{std}": wide[name + std, csc] for name, csc, std in order if (name + std, csc) in wide}
    return pd.DataFrame(cells).reset_index()


def length_cost(grid: Grid, curve: list[dict[str, Any]]) -> pd.DataFrame:
    """Scoring cost per pair against frames, as "model" a line for each number of words where it matters."""
    lines, costs = [], pd.DataFrame(curve)
    pairs = costs["texts"] * costs["videos"]
    costs["per pair µs"], costs["per pair million MAC"] = 1e6 * costs["seconds"] / pairs, costs["macs"] / pairs / 1e6
    for variant in grid.settings.length_variants:
        own = costs[costs["head"] == grid.recipe(variant).model.head].assign(variant=variant, model=variant)
        if len(set(zip(own["frames"], own["macs"], strict=True))) == own["frames"].nunique():  # it scores no words
            own = own.drop_duplicates("frames")
        else:
            own["model"] += [f", {words} words" for words in own["words"]]
        lines.append(own)
    return pd.concat(lines).filter(["variant", "model", "frames", "per pair µs", "per pair million MAC"])


def _scores(page: Page, runs: pd.DataFrame, analyses: dict[str, list], variants: Sequence[str]) -> None:
    groups = {}
    for variant in variants:
        scores = [analysis["scores"] for analysis in analyses[variant]]
        groups[variant] = {name: np.concatenate([one[name] for one in scores]) for name in scores[0]}
    text = "Without the factor exp(logit_scale); the spread is that of the four scores of a pair, on which CSC acts."
    page.section("Scores of each caption's video and of the best other one", text)
    page.figure(figures.plot_scores(groups), "scores")
    rows = [
        {"model": variant, "pairs": name, "mean": np.mean(values)}
        | {f"percentile {share}": np.percentile(values, share) for share in (5, 25, 50, 75, 95)}
        for variant, scores in groups.items()
        for name, values in scores.items()
    ]
    page.table(pd.DataFrame(rows), "scores")
    if single := [column for column in runs if "of one score" in column]:
        runs = runs.assign(**{f"{RECALLS[0]} mean of all": runs[RECALLS[0]]})
        page.table(spreads(runs, variants, [*single, f"{RECALLS[0]} mean of all"]).reset_index(), "single_scores")


def _twins_and_frames(page: Page, runs: pd.DataFrame, variants: Sequence[str]) -> None:
    if twins := [column for column in runs if "twin" in column]:
        page.section("Twins", "How often, in percent, a caption prefers its video to a twin; chance is 50.")
        page.table(spreads(runs, variants, twins).reset_index(), "twins")
    if found := [column for column in runs if str(column).startswith("frames ranked by")]:
        ways, chance = found[:-1], found[-1]
        table = spreads(runs, variants, ways).reset_index()
        table.loc[len(table), ["model", ways[0]]] = "equal weights: any order", runs[chance].iloc[0]
        page.section("Frames", "Mean average precision in percent of finding the frames that a caption is about.")
        page.table(table, "frame_weights")


def _length(page: Page, grid: Grid, analyses: dict[str, list], curve: list[dict[str, Any]]) -> None:
    rows = [
        {"model": variant, "run": run, "frames": frames, "recall": recall}
        for variant in grid.settings.length_variants
        for run, analysis in enumerate(analyses.get(variant, []))
        for frames, recall in analysis["by_frames"]
    ]
    if rows:
        # A video with fewer frames than allowed shows each once: a larger limit then changes nothing.
        points = pd.DataFrame(rows).drop_duplicates(["model", "run", "frames"])
        points = points.groupby(["model", "frames"], sort=False)["recall"].agg(["mean", "std"])
        accuracy, cost = points.set_axis([RECALLS[0], f"{RECALLS[0]} std"], axis=1), length_cost(grid, curve)
        text = (
            f"Tested with more frames, not trained again; scoring cost of {ITEMS:,} texts and {CURVE_VIDEOS} videos."
        )
        page.section("Video length", text)
        page.figure(figures.plot_length(accuracy.reset_index(), cost), "length")
        page.table(accuracy.reset_index(), "length_accuracy")
        page.table(cost.drop(columns="variant"), "length_cost")


def _retrievals(page: Page, run: Run, queries: int) -> None:
    tested = TrainedModel(run)
    captions = np.linspace(0, len(tested.result.captions) - 1, queries, dtype=int)
    retrieved = retrieve(tested.model, tested.processor, tested.dataset, tested.result, captions)
    text = "Five best videos for captions, bars are frame weights; five best captions for the first of these videos"
    page.section("Retrievals", f"{text} (the paper's Figs. 5 and 6): {run}.")
    page.figure(plot_retrievals(retrieved), "text_to_video")
    page.figure(figures.plot_captions(tested.result, [videos[0] for videos in retrieved.values()]), "video_to_text")
