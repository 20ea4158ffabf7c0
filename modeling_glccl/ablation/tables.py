"""The report's tables: rows of cells, written as CSV and as HTML."""

import csv
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .outcomes import GLIM, Outcomes, Sections, Spread, setting

# A column is (group, name); columns of one group stand under a common head.
Row = dict[tuple[str, str], Any]

DIRECTIONS = {"t2v": "text-to-video", "v2t": "video-to-text"}
METRICS = ("R@1", "R@5", "R@10", "MnR")
LOWER_IS_BETTER = {"MnR"}
MODEL = ("", "model")
DIFFERENCE, PARAMETERS = "R@1 against the reference", "parameters"


def metric_columns(outcomes: Outcomes, variant: str) -> Row:
    """All metrics of a variant, both ways."""
    return {
        (label, name): outcomes.metric(variant, direction, name)
        for direction, label in DIRECTIONS.items()
        for name in METRICS
    }


def comparison_table(outcomes: Outcomes, variants: Sequence[str]) -> list[Row]:
    """Accuracy of variants, and the difference of their R@1 to the reference's, seed by seed."""
    rows = []
    seeds = {variant: len(outcomes.by_variant[variant]) for variant in variants}
    for variant in variants:
        row = {MODEL: variant, **metric_columns(outcomes, variant)}
        for direction, label in DIRECTIONS.items():
            difference = outcomes.difference(variant, outcomes.reference, direction)
            is_other = variant != outcomes.reference
            row[DIFFERENCE, label] = Signed(*difference) if difference and is_other else None
        if len(set(seeds.values())) > 1:
            row[DIFFERENCE, "seeds"] = seeds[variant]
        rows.append(row)
    return rows


def main_table(outcomes: Outcomes, variants: Sequence[str], costs: dict[str, Any]) -> list[Row]:
    """The heads: what [`comparison_table`] has, then parameters and scoring cost."""
    rows = comparison_table(outcomes, variants)
    for row, variant in zip(rows, variants, strict=True):
        counts = outcomes.by_variant[variant][0].analysis["parameters"]
        row |= {(PARAMETERS, "all"): counts["total"], (PARAMETERS, "beside CLIP"): counts["beside CLIP"]}
        head = outcomes.grid.recipe(variant).model.head
        for cost in costs["main"]:
            if cost["head"] == head:
                group = cost_group(costs["settings"]["items"], cost["words"])
                row[group, "seconds"], row[group, "GMAC"] = float(cost["seconds"]), cost["macs"] / 1e9
    return rows


def cost_group(items: int, words: int) -> str:
    """The head of the columns of scoring cost."""
    return f"scoring {items:,} x {items:,}, {words} words"


def glim_csc_table(outcomes: Outcomes, found: Sections) -> list[Row]:
    """R@1 with GLIM's switches down and CSC across."""
    names = {(True, True): "global and local", (True, False): "global", (False, True): "local", (False, False): "off"}
    recipes = {variant: outcomes.grid.recipe(variant) for variant in found.glim_csc}
    cells = {
        (*(setting(recipe, name) for name in GLIM), bool(setting(recipe, "csc_weight"))): variant
        for variant, recipe in recipes.items()
    }
    rows = []
    for glim, label in names.items():
        row: Row = {("", "GLIM"): label}
        for direction, name in DIRECTIONS.items():
            for csc, column in ((False, "without CSC"), (True, "with CSC")):
                variant = cells.get((*glim, csc))
                row[f"{name} R@1", column] = variant and outcomes.metric(variant, direction, "R@1")
        if any(isinstance(cell, Spread) for cell in row.values()):
            rows.append(row)
    return rows


def single_score_table(outcomes: Outcomes, variants: Iterable[str]) -> list[Row]:
    """R@1 of each of the four scores without the others, beside that of their mean, for heads that have four."""
    return [
        {MODEL: variant}
        | {
            ("text-to-video R@1 of one score", name.replace("_", "-")): outcomes.spread(
                variant, lambda outcome, name=name: outcome.analysis["single_scores"][name]["t2v"]["R@1"]
            )
            for name in outcomes.by_variant[variant][0].analysis["single_scores"]
        }
        | {("text-to-video R@1", "mean of all"): outcomes.metric(variant, "t2v", "R@1")}
        for variant in variants
        if "single_scores" in outcomes.by_variant[variant][0].analysis
    ]


def twin_table(outcomes: Outcomes, variants: Sequence[str]) -> list[Row]:
    """Accuracy on twins; empty where the benchmark has none."""
    kinds = list(next(iter(outcomes.by_variant.values()))[0].analysis.get("twins", {}))
    return [
        {MODEL: variant}
        | {
            ("the caption prefers its video to the twin in", kind): outcomes.spread(
                variant, lambda outcome, kind=kind: outcome.analysis["twins"][kind]
            )
            for kind in kinds
        }
        for variant in variants
        if kinds
    ]


def frame_table(outcomes: Outcomes, variants: Sequence[str]) -> list[Row]:
    """Mean average precision of finding a caption's frames; empty where the benchmark does not know them."""
    rows: list[Row] = []
    columns = {"weights": "its frame weights", "cosine": "cosine of sentence and frame"}
    for variant in variants:
        if "frame_precision" not in outcomes.by_variant[variant][0].analysis:
            return []
        cells = {
            ("frames ranked by", label): outcomes.spread(
                variant, lambda outcome, name=name: outcome.analysis["frame_precision"][name]
            )
            for name, label in columns.items()
        }
        rows.append({MODEL: variant, **cells})
    if rows:
        chance = outcomes.by_variant[variants[0]][0].analysis["frame_precision"]["random"]
        rows.append(
            {MODEL: "equal weights: any order", ("frames ranked by", columns["weights"]): Spread(chance, None)}
        )
    return rows


def runs_table(outcomes: Outcomes) -> list[Row]:
    """Every run with its metrics: what the means are made of."""
    return [
        {
            MODEL: variant,
            ("", "seed"): outcome.run.seed,
            ("", "epoch"): outcome.results["epoch"],
            ("", "training minutes"): outcome.results["seconds"]["training"] / 60,
            **{
                (label, name): float(outcome.results["test"][direction][name])
                for direction, label in DIRECTIONS.items()
                for name in (*METRICS[:3], "MdR", "MnR")
            },
        }
        for variant, of_variant in outcomes.by_variant.items()
        for outcome in of_variant
    ]


class Signed(Spread):
    """A difference: shown with its sign."""


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Writes rows; mean and standard deviation are columns of their own."""
    flat_rows = []
    for row in rows:
        flat: dict[str, Any] = {}
        for column, cell in row.items():
            name = " ".join(filter(None, column))
            if isinstance(cell, Spread):
                flat[name] = f"{cell.mean:.2f}"
                flat[f"{name} std"] = "" if cell.std is None else f"{cell.std:.2f}"
            else:
                flat[name] = f"{cell:.6g}" if isinstance(cell, float) else cell
        flat_rows.append(flat)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in flat_rows for name in row)))
        writer.writeheader()
        writer.writerows(flat_rows)


def html_table(rows: Sequence[Row], highlight: str | None = None, shown: Sequence[str] | None = None) -> str:
    """A table under two rows of heads, in which the best mean of a column is bold.

    Args:
        rows: whose keys are the columns.
        highlight: the model whose row is tinted.
        shown: the groups of columns that are shown beside the first column; None: all.
    """
    first, *columns = dict.fromkeys(column for row in rows for column in row)
    columns = [first, *(column for column in columns if shown is None or column[0] in shown)]
    best = {column: _best(rows, column) for column in columns}
    groups = []
    for group, _ in columns:
        if groups and groups[-1][0] == group:
            groups[-1][1] += 1
        else:
            groups.append([group, 1])
    lines = ["<div class=wide><table><thead>"]
    if any(group for group, _ in groups):
        heads = (f'<th class=group colspan="{span}">{html.escape(group)}</th>' for group, span in groups)
        lines.append(f"<tr>{''.join(heads)}</tr>")
    lines.append(f"<tr>{''.join(f'<th>{html.escape(name)}</th>' for _, name in columns)}</tr></thead><tbody>")
    for row in rows:
        tinted = " class=reference" if highlight and row.get(MODEL) == highlight else ""
        cells = "".join(_cell(row.get(column), best[column]) for column in columns)
        lines.append(f"<tr{tinted}>{cells}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def html_spread(spread: Spread, bold: bool = False) -> str:
    """Mean and standard deviation."""
    sign = "+" if isinstance(spread, Signed) else ""
    mean = f"{spread.mean:{sign}.1f}".replace("-", "−")  # noqa: RUF001 (a minus as wide as the plus)
    deviation = "" if spread.std is None else f"<i> ± {spread.std:.1f}</i>"
    return f"<b>{mean}</b>{deviation}" if bold else f"{mean}{deviation}"


def _best(rows: Sequence[Row], column: tuple[str, str]) -> float | None:
    means = [cell.mean for row in rows if type(cell := row.get(column)) is Spread]
    if len(means) < 2:
        return None
    return min(means) if column[1] in LOWER_IS_BETTER else max(means)


def _cell(cell: Any, best: float | None) -> str:
    if cell is None:
        return "<td></td>"
    if isinstance(cell, str):
        return f"<td class=name>{html.escape(cell)}</td>"
    if isinstance(cell, Spread):
        return f"<td>{html_spread(cell, bold=type(cell) is Spread and cell.mean == best)}</td>"
    if isinstance(cell, int) or cell >= 100:
        return f"<td>{cell:,.0f}</td>"
    return f"<td>{cell:.1f}</td>" if cell >= 1 else f"<td>{cell:.3g}</td>"
