"""The report of an ablation: tables as CSV, figures as PNG, and one HTML file that holds all of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation import cmc_curve
from ..evaluation.report import plot_cmc, plot_retrievals
from ..peers.heads import FOUR_SCORES
from . import figures, tables
from .outcomes import Outcomes, Sections, Spread, sections, setting
from .page import Page
from .strips import retrieve_both_ways
from .tables import DIRECTIONS


def write_report(outcomes: Outcomes, costs: dict[str, Any], folder: Path) -> Path:
    """Writes everything that the finished runs allow.

    Args:
        outcomes: with the reference among the finished variants.
        costs: of [`measure_costs`].
        folder: for `index.html` and its PNG and CSV files.

    Returns:
        The path of `index.html`.
    """
    page = Page(folder)
    found = sections(outcomes)
    _head(page, outcomes, found)
    _heads(page, outcomes, found, costs)
    _glim_and_csc(page, outcomes, found)
    if found.others:
        rows = tables.comparison_table(outcomes, [outcomes.reference, *found.others])
        page.section("Other switches", "Everything else that the grid varies.")
        page.table(rows, "other", highlight=outcomes.reference)
    _scores(page, outcomes, found)
    _twins_and_frames(page, outcomes, found)
    _length(page, outcomes, costs)
    _retrievals(page, outcomes)
    rows = tables.runs_table(outcomes)
    page.section(
        "All runs", f"Every training on its own; its folder also holds its recipe and its log ({len(rows)} runs)."
    )
    page.table(rows, "runs")
    return page.write()


def _head(page: Page, outcomes: Outcomes, found: Sections) -> None:
    reference, grid = outcomes.reference, outcomes.grid
    first = outcomes.by_variant[reference][0].results
    data, size = grid.recipe(reference).data, first["test_size"]
    results = [outcome.results for of_variant in outcomes.by_variant.values() for outcome in of_variant]
    hardware = {", ".join(one["hardware"]["gpus"]) or one["hardware"]["cpu"] for one in results}
    commits = {str(one["git"])[:12] + ("-dirty" if str(one["git"]).endswith("-dirty") else "") for one in results}
    page.title = f"{reference} and its peers on {data.benchmark}"
    page.facts = {
        "test split": f"{data.test_split}: {size['captions']:,} captions, {size['videos']:,} videos",
        "runs": f"{len(results)} of {len(grid.runs)}: {len(outcomes.by_variant)} variants, seeds "
        + ", ".join(map(str, grid.settings.seeds)),
        "steps of a run": f"{first['history'][-1]['step']:,}",
        "model of a run": first["selected_by"],
        "hardware": "; ".join(sorted(hardware)),
        "commit": "; ".join(sorted(commits)),
    }
    page.card(f"{reference}, text-to-video R@1", outcomes.metric(reference, "t2v", "R@1"))
    recalls = {variant: outcomes.metric(variant, "t2v", "R@1") for variant in found.heads}
    if peers := {variant: recall for variant, recall in recalls.items() if variant != reference}:
        best = max(peers, key=lambda variant: peers[variant].mean)
        page.card(f"{best}, the best of the peers", peers[best])
    for variant, label in _switched_off(outcomes, found):
        page.card(f"R@1 {label}, difference", tables.Signed(*outcomes.difference(variant, reference)))


def _switched_off(outcomes: Outcomes, found: Sections) -> list[tuple[str, str]]:
    """The variants that switch off one thing of the reference: GLIM, CSC."""
    reference = outcomes.grid.recipe(outcomes.reference)
    weight = setting(reference, "csc_weight")
    wanted = {"without GLIM": (False, False, weight), "without CSC": (True, True, 0)}
    return [
        (variant, label)
        for label, values in wanted.items()
        for variant in found.glim_csc
        if variant != outcomes.reference
        and values == tuple(setting(outcomes.grid.recipe(variant), name) for name in (*tables.GLIM, "csc_weight"))
        and outcomes.difference(variant, outcomes.reference)
    ]


def _heads(page: Page, outcomes: Outcomes, found: Sections, costs: dict[str, Any]) -> None:
    settings, hardware = costs["settings"], costs["hardware"]
    device = (
        hardware["gpus"][0] if hardware["device"] == "cuda" else f"{hardware['cpu']}, {settings['threads']} thread(s)"
    )
    page.section(
        "Heads on the same encoders",
        "Each row scores the same features in its own way; encoders, data, steps and seeds are the same. Mean ± "
        "standard deviation over seeds; the best mean of a column is bold, which says nothing where it lies within "
        "the noise. Recalls in percent, MnR is the mean rank. “Beside CLIP” counts what is trained beyond the two "
        "CLIP towers, the temporal encoder included.",
    )
    accuracy = [*DIRECTIONS.values(), tables.DIFFERENCE]
    cost = [tables.PARAMETERS, *(tables.cost_group(settings["items"], words) for words in settings["words"])]
    page.table(tables.main_table(outcomes, found.heads, costs), "main", outcomes.reference, groups=[accuracy, cost])
    page.note(
        f"Scoring cost: {settings['items']:,} encoded texts against {settings['items']:,} encoded videos of "
        f"{settings['frames']} frames at joint width {settings['width']}, float32, with every word slot counted; "
        f"seconds measured on {device}; GMAC are 10⁹ multiply-adds in matrix products, counted as they are computed. "
        "What is done once per text or video is part of both; the encoders are not. Differences are taken seed by "
        "seed, so that what a seed does to both variants cancels."
    )
    curves = {
        variant: {direction: _mean_cmc(outcomes, variant, direction) for direction in DIRECTIONS}
        for variant in found.heads
    }
    page.section(
        "CMC curves",
        "Recall at every rank, averaged over seeds: the share of queries whose right answer is at that rank or "
        "better (the paper's Fig. 3).",
    )
    page.figure(plot_cmc(curves), "cmc", "Recall against rank, text-to-video and video-to-text.")
    rows = [
        {("", "model"): variant, ("", "direction"): direction, ("", "rank"): rank, ("", "recall"): float(recall)}
        for variant, directions in curves.items()
        for direction, recalls in directions.items()
        for rank, recall in enumerate(recalls, start=1)
    ]
    tables.write_csv(rows, page.folder / "cmc.csv")


def _mean_cmc(outcomes: Outcomes, variant: str, direction: str) -> np.ndarray:
    of_variant = outcomes.by_variant[variant]
    candidates = of_variant[0].results["test_size"]["videos"]
    if direction == "v2t":  # videos without captions are no candidates there
        candidates = len(of_variant[0].analysis["ranks"]["v2t"])
    return np.mean([cmc_curve(outcome.analysis["ranks"][direction], candidates) for outcome in of_variant], axis=0)


def _glim_and_csc(page: Page, outcomes: Outcomes, found: Sections) -> None:
    if len(found.glim_csc) > 1:
        page.section(
            "GLIM and CSC",
            "R@1 in percent with text-guided weights for the sentence (global), for the words (local), both or "
            "neither, without and with the CSC loss. Where GLIM is off, frames are averaged with equal weights.",
        )
        page.table(tables.glim_csc_table(outcomes, found), "glim_csc")
        others = [outcomes.reference, *(variant for variant in found.glim_csc if variant != outcomes.reference)]
        page.details("All metrics", tables.comparison_table(outcomes, others), "glim_csc_all", outcomes.reference)
    if len(found.eta) > 1:
        points = {
            setting(outcomes.grid.recipe(variant), "csc_weight"): {
                direction: outcomes.metric(variant, direction, "R@1") for direction in DIRECTIONS
            }
            for variant in found.eta
        }
        page.section(
            "The weight of CSC",
            "R@1 against η, mean and standard deviation over seeds (the paper's Fig. 4). η = 0 trains without CSC.",
        )
        page.figure(figures.plot_eta(points), "eta", "R@1 against the weight η of the CSC loss.")
        rows = [
            {("", "eta"): float(eta)}
            | {(DIRECTIONS[direction], "R@1"): spread for direction, spread in values.items()}
            for eta, values in points.items()
        ]
        page.details("As a table", rows, "eta")


def _scores(page: Page, outcomes: Outcomes, found: Sections) -> None:
    without = [variant for variant, label in _switched_off(outcomes, found) if label == "without CSC"]
    peers = [
        variant
        for variant in found.heads
        if outcomes.grid.recipe(variant).model.head in FOUR_SCORES and variant != outcomes.reference
    ]
    groups = {
        variant: {
            name: np.concatenate([outcome.analysis["scores"][name] for outcome in outcomes.by_variant[variant]])
            for name in outcomes.by_variant[variant][0].analysis["scores"]
        }
        for variant in [outcomes.reference, *without, *peers]
    }
    page.section(
        "Scores of right and wrong videos",
        "Each caption's score with its own video and with the best of the other videos, without the factor "
        "exp(logit_scale), over all seeds; below, the standard deviation of the four scores of these pairs, on "
        "whose variance CSC acts. Lines are medians.",
    )
    page.figure(
        figures.plot_scores(groups), "scores", "Distributions of scores for matching pairs and hard negatives."
    )
    quantiles = (5, 25, 50, 75, 95)
    rows = [
        {("", "model"): variant, ("", "pairs"): name, ("", "mean"): float(np.mean(values))}
        | {
            ("percentile", f"{q}"): float(value)
            for q, value in zip(quantiles, np.percentile(values, quantiles), strict=True)
        }
        for variant, scores in groups.items()
        for name, values in scores.items()
    ]
    page.details("As a table", rows, "scores")
    if rows := tables.single_score_table(outcomes, groups):
        page.note(
            "The model's score is the mean of four. Each of them alone, without training anew; where the mean is "
            "better than the best of them, they err differently."
        )
        page.table(rows, "single_scores", highlight=outcomes.reference)


def _twins_and_frames(page: Page, outcomes: Outcomes, found: Sections) -> None:
    variants = list(dict.fromkeys([*found.heads, *(variant for variant, _ in _switched_off(outcomes, found))]))
    if rows := tables.twin_table(outcomes, variants):
        page.section(
            "Twins",
            "How often, in percent, a caption scores its own video above the twin that differs from it in the shape "
            "of one event, in the action of one, or in the order of two. Chance is 50.",
        )
        page.table(rows, "twins", highlight=outcomes.reference)
    if rows := tables.frame_table(outcomes, variants):
        page.section(
            "Does a model find the frames that a caption is about?",
            "The benchmark knows these frames. Mean average precision in percent of ranking the frames of the "
            "caption's own video: by the weights with which the model pools them (GLIM's for the sentence, X-Pool's "
            "attention, X-CLIP's softmax over frames), and by the cosine of the sentence with each frame, which any "
            "model has. Frames of equal weight count as in random order.",
        )
        page.table(rows, "frame_weights", highlight=outcomes.reference)


def _length(page: Page, outcomes: Outcomes, costs: dict[str, Any]) -> None:
    accuracy = length_accuracy(outcomes)
    cost = length_cost(outcomes, costs["curve"])
    if not accuracy or not cost:
        return
    trained = setting(outcomes.grid.recipe(outcomes.reference), "max_frames")
    page.section(
        "Video length",
        f"Left: models trained with {trained} frames are tested with more of each video, not trained again; a video "
        "that has fewer frames shows each once. Middle and right: what scoring costs, for "
        f"{costs['settings']['items']:,} texts and {costs['settings']['curve_videos']:,} videos at joint width "
        f"{costs['settings']['width']}, on logarithmic axes.",
    )
    page.figure(figures.plot_length(accuracy, cost), "length", "Accuracy and scoring cost against frames per video.")
    rows = [
        {("", "model"): variant, ("", "frames"): float(frames), ("text-to-video", "R@1"): recall}
        for variant, points in accuracy.items()
        for frames, recall in points
    ]
    page.details("Accuracy as a table", rows, "length_accuracy")
    rows = [
        {
            ("", "model"): label,
            ("", "frames"): frames,
            ("per pair", "µs"): micro,
            ("per pair", "million MAC"): macs / 1e6,
        }
        for (_, label), points in cost.items()
        for frames, micro, macs in points
    ]
    page.details("Cost as a table", rows, "length_cost")


def length_accuracy(outcomes: Outcomes) -> dict[str, list[tuple[float, Spread]]]:
    """Variant -> (frames that the videos had on average, R@1), where a larger limit gave more frames."""
    curves = {}
    for variant in outcomes.grid.settings.length_variants:
        points: dict[float, Spread] = {}
        for index, counted in enumerate(
            outcomes.by_variant[variant][0].analysis["by_frames"] if variant in outcomes.by_variant else ()
        ):
            recall = outcomes.spread(
                variant, lambda outcome, index=index: outcome.analysis["by_frames"][index]["metrics"]["t2v"]["R@1"]
            )
            points.setdefault(counted["frames"], recall)
        if points:
            curves[variant] = sorted(points.items())
    return curves


def length_cost(
    outcomes: Outcomes, curve: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], list[tuple[int, float, float]]]:
    """Variant, label -> (frames, microseconds and multiply-adds per pair); one line for a head without word scores."""
    lines: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for variant in outcomes.grid.settings.length_variants:
        head = outcomes.grid.recipe(variant).model.head
        own = [cost for cost in curve if cost["head"] == head]
        words = list(dict.fromkeys(cost["words"] for cost in own))
        macs = {count: [cost["macs"] for cost in own if cost["words"] == count] for count in words}
        if all(values == macs[words[0]] for values in macs.values()):
            words = words[:1]
        for count in words:
            label = f"{variant}, {count} words" if len(words) > 1 else variant
            lines[variant, label] = [
                (cost["frames"], 1e6 * cost["seconds"] / pairs, cost["macs"] / pairs)
                for cost in own
                if cost["words"] == count and (pairs := cost["texts"] * cost["videos"])
            ]
    return lines


def _retrievals(page: Page, outcomes: Outcomes) -> None:
    run = outcomes.by_variant[outcomes.reference][0].run
    videos, ranks, captions = retrieve_both_ways(run, outcomes.grid.settings.queries)
    who = f"{outcomes.reference}, seed {run.seed}"
    page.section(
        "Retrieved videos",
        f"The five best videos for captions evenly spaced over the test split ({who}; the paper's Fig. 5). The "
        "caption's own video is framed in green; bars are the frame weights. Ranks of the own videos, from left to "
        f"right: {', '.join(map(str, ranks))}.",
    )
    page.figure(plot_retrievals(videos), "text_to_video", "Five best videos for some captions.")
    page.section(
        "Retrieved captions",
        f"The five best captions for videos evenly spaced over the test split ({who}; the paper's Fig. 6), with rank "
        "and score. The video's own caption is green and ticked, and stands last where it is not among the five.",
    )
    page.figure(figures.plot_captions(captions), "video_to_text", "Five best captions for some videos.")
