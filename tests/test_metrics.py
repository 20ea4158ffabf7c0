"""Ranks and metrics against a naive loop, hand-made cases and the authors' numbers."""

import json

import numpy as np
import pytest
import torch

from modeling_glccl.evaluation import retrieval_metrics, retrieval_ranks


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
    rng = np.random.default_rng(0)
    video_index = rng.permutation(np.repeat(np.arange(9), rng.integers(1, 5, 9)))
    similarity = rng.normal(size=(len(video_index), 9 + distractors)).astype("float32")
    if tied:
        similarity = similarity.round()
    expected = naive_ranks(similarity, video_index)
    for ranks in (
        retrieval_ranks(similarity, video_index),
        retrieval_ranks(torch.from_numpy(similarity), torch.from_numpy(video_index)),
    ):
        assert ranks["t2v"].tolist() == expected["t2v"]
        assert ranks["v2t"].tolist() == expected["v2t"]


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


def test_a_tied_query_counts_once_at_the_worst_rank():
    ranks = retrieval_ranks(np.zeros((4, 4)), np.arange(4))
    assert ranks["t2v"].tolist() == [4] * 4
    assert ranks["v2t"].tolist() == [4] * 4


def test_several_captions_count_as_their_best_in_video_to_text():
    # Video 0's second caption beats video 1's caption on video 0; its first one does not.
    similarity = np.array([[0.1, 0.0], [0.9, 0.2], [0.5, 0.8]])
    assert retrieval_ranks(similarity, [0, 0, 1]) == {"t2v": pytest.approx([1, 1, 1]), "v2t": pytest.approx([1, 1])}


def test_minus_infinity_is_a_score():
    similarity = np.array([[-np.inf, 1.0], [0.0, -np.inf]])
    assert retrieval_ranks(similarity, [0, 1])["t2v"].tolist() == [2, 2]


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


def assert_equals_release(ours, release):
    assert ours == pytest.approx(
        {
            "R@1": release["R1"],
            "R@5": release["R5"],
            "R@10": release["R10"],
            "MdR": release["MedianR"],
            "MnR": release["MeanR"],
        },
        rel=1e-6,
    )


def test_equals_the_release_without_ties(reference_dir):
    cases = json.loads((reference_dir / "golden" / "metrics.json").read_text())
    square = cases["square"]
    metrics = retrieval_metrics(np.array(square["sim"]), np.arange(len(square["sim"])))
    assert_equals_release(metrics["t2v"], square["t2v"])
    assert_equals_release(metrics["v2t"], square["v2t"])

    several = cases["multi_sentence"]
    # cut_off_points[v] is one past the last caption of video v.
    video_index = np.searchsorted(several["cut_off_points"], np.arange(len(several["sim"])), side="right")
    metrics = retrieval_metrics(np.array(several["sim"]), video_index)
    assert_equals_release(metrics["t2v"], several["t2v"])
    assert_equals_release(metrics["v2t"], several["v2t"])


def test_the_release_counts_tied_queries_several_times_and_we_do_not(reference_dir):
    ties = json.loads((reference_dir / "golden" / "metrics.json").read_text())["ties"]
    queries = len(ties["sim"])
    ranks = retrieval_ranks(np.array(ties["sim"]), np.arange(queries))
    for direction in ("t2v", "v2t"):
        assert len(ties[direction]["cols"]) > queries
        assert len(ranks[direction]) == queries
