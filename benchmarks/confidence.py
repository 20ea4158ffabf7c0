r"""Whether a search knows that nothing fits: confidences, calibrated on validation captions, beside raw logits.

    python benchmarks/confidence.py runs/shapes/data hub/models/glccl-shapes hub/models/glccl-shapes/clip

Captions of the shapes benchmark's test split search libraries of its videos in which the right one is, or from which
it was taken with its twins. "half out": ten random halves of the groups of twins are taken out, and all captions
search the rest. "with and without": each caption searches a random share of the groups with its own, and without.
Rules: the best logit; that logit less mean and deviation of the query's other logits, or of those that captions of the
validation split have with each video ("background"); "no labels": the share of those captions whose best logit is
lower, a probability that needs no right video; "confidence": as `glccl calibrate` fits it on the validation split.
AUROC and expected calibration error (ten bins) are those of "the right video is there".

Prints tables and writes them below benchmarks/results: confidence_<hardware>.csv, and for bins of confidence how often
the right video was there, was first, or it or its twin was, confidence_bins_<hardware>.csv.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import errors

import numpy as np
from datasets import concatenate_datasets
from table import show, write_csv

from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.confidence import FOLLOWING, confidences, fit_confidence
from modeling_glccl.data import load_benchmark
from modeling_glccl.evaluation.calibrate import score_captions

HALVES = range(10)
SHARES = (1, 0.5, 0.25, 0.125, 0.0625)


def auroc(there: np.ndarray, values: np.ndarray) -> float:
    """The probability that a search with the right video has the larger value; ties count half."""
    difference = values[there][:, None] - values[~there]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def calibration_error(there: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """The mean over all searches of |share - mean probability| of their bin, of `bins` equally wide ones."""
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [abs(there[bin_of == b].mean() - probabilities[bin_of == b].mean()) for b in bin_of]
    return float(np.mean(gaps))


def halves(groups: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Captions, and the videos [V] bool that they search: "half out"."""
    for seed in HALVES:
        kept = np.random.default_rng(seed).permutation(np.unique(groups))[: len(np.unique(groups)) // 2]
        for caption in range(len(groups)):
            yield caption, np.isin(groups, kept)


def with_and_without(groups: np.ndarray, share: float) -> Iterator[tuple[int, np.ndarray]]:
    """The same: "with and without"."""
    generator = np.random.default_rng(0)
    for caption in range(len(groups)):
        others = np.unique(groups[groups != groups[caption]])
        kept = np.isin(groups, generator.permutation(others)[: round(share * len(others))])
        yield caption, kept | (groups == groups[caption])
        yield caption, kept


def measure(folder: Path, dataset: Any, tests: int) -> tuple[list[dict], list[dict]]:
    """Rows of one checkpoint, of the rules and of the bins; the last `tests` rows are those of the test split."""
    model, processor = load_checkpoint(folder)
    result, scores, groups = score_captions(model, processor, dataset, progress=False)
    assert (result.video_index == np.arange(len(dataset))).all()
    test, validation = slice(len(dataset) - tests, None), slice(len(dataset) - tests)
    own = np.arange(len(dataset))[validation]
    weights = fit_confidence(scores[:, validation, validation], own, groups[validation])
    logits = scores.mean(axis=0)
    logits, bank = logits[test, test], logits[validation, test]
    scores, groups = scores[:, test, test], groups[test]
    background = (logits - bank.mean(axis=0)) / bank.std(axis=0)
    protocols = {("half out", 0.5): halves(groups)}
    protocols |= {("with and without", share): with_and_without(groups, share) for share in SHARES}
    rules, bins = [], []
    for (protocol, share), searches in protocols.items():
        found, kinds = [], []
        for caption, library in searches:
            videos = np.flatnonzero(library)
            best = videos[np.argsort(-logits[caption, videos], kind="stable")[: FOLLOWING + 1]]
            own_logits = logits[caption, videos]
            first, ranked = best[:1], logits[caption, best]
            four = scores[:, caption, first]
            found.append(
                {
                    "best logit": ranked[0],
                    "other results": (ranked[0] - own_logits.mean()) / own_logits.std(),
                    "background": background[caption, videos].max(),
                    "no labels": (bank[:, videos].max(axis=1) < ranked[0]).mean(),
                    "confidence": confidences(weights, four, ranked)[0],
                }
            )
            kinds.append((library[caption], first[0] == caption, groups[first[0]] == groups[caption]))
        there, right, twin = np.array(kinds).T
        for rule in found[0]:
            values = np.array([row[rule] for row in found])
            row = {"model": folder.name, "library": protocol, "share": share, "rule": rule}
            row["AUROC"] = round(auroc(there, values), 3)
            row["ECE"] = round(calibration_error(there, values), 3) if rule in ("no labels", "confidence") else ""
            rules.append(row)
        if share == SHARES[0] or protocol == "half out":
            for low in np.arange(10) / 10:
                inside = (low <= values) & ((values < low + 0.1) | (low == 0.9))
                shares = [values[inside].mean(), there[inside].mean(), right[inside].mean(), twin[inside].mean()]
                names = ("mean confidence", "right video there", "right video first", "it or a twin first")
                row = {"model": folder.name, "library": protocol, "confidence": f"{low:.1f}-{low + 0.1:.1f}"}
                row |= {"searches": int(inside.sum())} | dict(zip(names, np.round(shares, 3).tolist(), strict=True))
                bins.append(row)
    return rules, bins


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder of the shapes benchmark")
    parser.add_argument("checkpoint", type=Path, nargs="+", help="folder of a GLCCL model, or of a plain CLIP")
    parser.add_argument("--large", action="store_true", help="1,296 more validation videos in place of the test split")
    arguments = parser.parse_args()
    options = {"data_dir": arguments.data_dir, "num_train": 0}
    splits: list[Any] = [load_benchmark("shapes", split=split, **options) for split in ("validation", "test")]
    if arguments.large:
        more: Any = load_benchmark("shapes", split="validation", num_validation=1600, **options)
        splits[1] = more.select(range(len(splits[0]), len(more)))
    offset = max(splits[0]["twin_group"]) + 1
    splits[1] = splits[1].map(lambda row: {"twin_group": row["twin_group"] + offset})
    dataset = concatenate_datasets(splits)
    rules, bins = [], []
    for checkpoint in arguments.checkpoint:
        found = measure(checkpoint, dataset, len(splits[1]))
        rules, bins = rules + found[0], bins + found[1]
    name = "confidence_large" if arguments.large else "confidence"
    for rows, file, wide in ((rules, name, ("library", "rule")), (bins, f"{name}_bins", ("library",))):
        for number, row in enumerate(rows):
            show(row, header=not number, wide=wide)
        write_csv(rows, file)


if __name__ == "__main__":
    main()
