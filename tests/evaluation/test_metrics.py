"""Ranks and metrics against a naive loop, hand-made cases and the authors' numbers."""

import json

import numpy as np
import pytest
import torch
from models import random_ranking

from modeling_glccl.evaluation import bootstrap_intervals, cmc_curve, retrieval_metrics, retrieval_ranks
from modeling_glccl.evaluation.metrics import retrieval_queries, summarize_ranks

COUNTS = (3, 1, 4, 1, 2, 2, 4, 1, 3)  # captions of nine videos


def naive_ranks(similarity, video_index):
    """The definition, query by query."""
    groups = {}
    for text, video in enumerate(video_index):
        groups.setdefault(int(video), []).append(text)
    t2v = [
        1 + sum(row[other] >= row[video] for other in range(len(row)) if other != video)
        for row, video in zip(similarity, video_index, strict=True)
    ]
    v2t = []
    for video in sorted(groups):
        score = {group: max(similarity[text][video] for text in texts) for group, texts in groups.items()}
        v2t.append(1 + sum(score[group] >= score[video] for group in groups if group != video))
    return {"t2v": t2v, "v2t": v2t}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("distractors", [0, 3])
def test_ranks_equal_the_naive_loop(tied, distractors):
    similarity, video_index = random_ranking(COUNTS, distractors, tied)
    similarity = similarity.astype("float32")
    expected = naive_ranks(similarity, video_index)
    for arrays in ((similarity, video_index), map(torch.from_numpy, (similarity, video_index))):
        assert {direction: ranks.tolist() for direction, ranks in retrieval_ranks(*arrays).items()} == expected


def test_metrics_of_known_ranks():
    # Caption i puts its own video at rank ranks[i].
    ranks = [1, 1, 5, 6, 10, 11]
    similarity = np.zeros((6, 12))
    for row, rank in enumerate(ranks):
        others = [column for column in range(12) if column != row]
        similarity[row, row] = 0.5
        similarity[row, others[: rank - 1]] = 1.0
    metrics = retrieval_metrics(similarity, np.arange(6))["t2v"]
    assert metrics == pytest.approx({"R@1": 200 / 6, "R@5": 50, "R@10": 500 / 6, "MdR": 5.5, "MnR": 34 / 6})
    infinite = np.array([[-np.inf, 1.0], [0.0, -np.inf]])
    assert retrieval_ranks(infinite, [0, 1])["t2v"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("similarity", "video_index", "message"),
    [
        ([[0.0, float("nan")]], [0], r"similarity\[0, 1\] is NaN"),
        ([0.0, 1.0], [0, 1], "captions, videos"),
        (np.zeros((0, 3)), [], "at least one"),
        ([[0.0, 1.0]], [0, 1], "one integer for each of the 1 captions"),
        ([[0.0, 1.0]], [0.0], "one integer"),
        ([[0.0, 1.0]], [2], r"0\.\.1"),
        ([[0.0, 1.0]], [-1], r"0\.\.1"),
    ],
)
def test_bad_input_is_named(similarity, video_index, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(similarity, video_index)


@pytest.mark.parametrize("tied", [False, True])
def test_the_first_answer_is_the_right_one_exactly_at_rank_one(tied):
    similarity, video_index = random_ranking(COUNTS, distractors=2, tied=tied)
    for queries in retrieval_queries(similarity, video_index).values():
        top1, rows = queries.top1(), np.arange(len(queries.target))
        assert ((top1 == queries.target) == (queries.ranks() == 1)).all()
        np.testing.assert_array_equal(queries.scores[rows, top1], queries.scores.max(axis=1))
        assert 0 < (queries.ranks() == 1).sum() < len(rows)
    t2v, v2t = retrieval_queries(similarity, video_index).values()
    np.testing.assert_array_equal(t2v.videos[t2v.target], video_index)
    np.testing.assert_array_equal(v2t.videos, np.unique(video_index))
    assert v2t.scores[0, 1] == similarity[video_index == 1, 0].max()


def test_cmc_is_the_recall_at_every_rank():
    similarity, video_index = random_ranking(COUNTS, distractors=2)
    metrics = retrieval_metrics(similarity, video_index)
    for (direction, ranks), candidates in zip(retrieval_ranks(similarity, video_index).items(), (11, 9), strict=True):
        curve = cmc_curve(ranks, candidates)
        assert curve.shape == (candidates,)
        assert curve.tolist() == pytest.approx([100 * np.mean(ranks <= k) for k in range(1, candidates + 1)])
        assert [curve[0], curve[4]] == pytest.approx([metrics[direction]["R@1"], metrics[direction]["R@5"]])
        assert curve[-1] == 100


def test_cmc_refuses_ranks_outside_its_candidates():
    for ranks in ([0, 1], [1, 4], []):
        with pytest.raises(ValueError, match=r"must lie in 1\.\.3"):
            cmc_curve(np.array(ranks, int), 3)


@pytest.mark.parametrize("level", [50, 90])
def test_intervals_equal_a_bootstrap_written_out(level):
    ranks, generator = np.array([1, 1, 2, 3, 5, 8, 13, 21, 1, 1]), np.random.default_rng(7)
    drawn = [summarize_ranks(generator.choice(ranks, 10)) for _ in range(50)]
    intervals = bootstrap_intervals(ranks, level=level, resamples=50, seed=7)
    assert set(intervals) == set(summarize_ranks(ranks))
    for name, ends in intervals.items():
        values = sorted(metrics[name] for metrics in drawn)
        outside = (100 - level) / 200 * 49  # of 50 values on each side
        assert ends == pytest.approx(np.interp([outside, 49 - outside], range(50), values))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"level": 100}, "level=100"), ({"resamples": 0}, "0 resamples"), ({"ranks": np.array([], int)}, "0 ranks")],
)
def test_bad_bootstraps_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(**{"ranks": np.array([1, 2]), **arguments})


def assert_equals_release(ours, release):
    names = {"R@1": "R1", "R@5": "R5", "R@10": "R10", "MdR": "MedianR", "MnR": "MeanR"}
    for direction in ("t2v", "v2t"):
        expected = {name: release[direction][theirs] for name, theirs in names.items()}
        assert ours[direction] == pytest.approx(expected, rel=1e-6)


def test_equals_the_release_without_ties(reference_dir):
    cases = json.loads((reference_dir / "golden" / "metrics.json").read_text())
    square = cases["square"]
    metrics = retrieval_metrics(np.array(square["sim"]), np.arange(len(square["sim"])))
    assert_equals_release(metrics, square)

    several = cases["multi_sentence"]
    # cut_off_points[v] is one past the last caption of video v.
    video_index = np.searchsorted(several["cut_off_points"], np.arange(len(several["sim"])), side="right")
    metrics = retrieval_metrics(np.array(several["sim"]), video_index)
    assert_equals_release(metrics, several)


def test_the_release_counts_tied_queries_several_times_and_we_do_not(reference_dir):
    ties = json.loads((reference_dir / "golden" / "metrics.json").read_text())["ties"]
    queries = len(ties["sim"])
    ranks = retrieval_ranks(np.array(ties["sim"]), np.arange(queries))
    for direction in ("t2v", "v2t"):
        assert len(ties[direction]["cols"]) > queries
        assert len(ranks[direction]) == queries
