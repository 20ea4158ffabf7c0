"""QB-Norm and dual softmax: cases worked out by hand, the formulas written out in loops, and where they apply."""

import math

import numpy as np
import pytest

from modeling_glccl.evaluation import QueryBank, dual_softmax, qb_norm


def naive_dual_softmax(similarity):
    """The formulas, entry by entry."""
    captions, videos = range(len(similarity)), range(len(similarity[0]))
    t2v, v2t = np.zeros((2, len(captions), len(videos)))
    for a in captions:
        for v in videos:
            e = math.exp(similarity[a][v])
            t2v[a, v] = similarity[a][v] * e / sum(math.exp(similarity[other][v]) for other in captions)
            v2t[a, v] = similarity[a][v] * e / sum(math.exp(similarity[a][other]) for other in videos)
    return {"t2v": t2v, "v2t": v2t}


def naive_qb_norm(similarity, bank, beta):
    """Dynamic inverted softmax as the paper has it, query by query; None where it does not apply."""
    first = [max(range(len(row)), key=row.__getitem__) for row in bank]
    rows = []
    for row in similarity:
        if max(range(len(row)), key=row.__getitem__) not in first:
            rows.append(None)
            continue
        rows.append([math.exp(beta * s) / sum(math.exp(beta * query[v]) for query in bank) for v, s in enumerate(row)])
    return rows


def random_scores(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.2, 0.6, shape)


@pytest.mark.parametrize("shape", [(5, 5), (12, 5), (3, 7)])
def test_dual_softmax_equals_its_formula(shape):
    similarity = 10 * random_scores(*shape)
    for array in (similarity, similarity[::-1].T):
        expected, scores = naive_dual_softmax(array.tolist()), dual_softmax(array)
        assert set(scores) == {"t2v", "v2t"}
        for direction, values in scores.items():
            np.testing.assert_allclose(values, expected[direction], rtol=1e-12)


def test_dual_softmax_of_logits_overflows_nowhere_and_makes_no_ties():
    """Logits of 100 cosines: weights down to exp(-150), which float32 rounds to 0 and so to a tie."""
    similarity = np.array([[100.0, -45.0, -46.0], [90.0, 99.0, -44.0], [-50.0, 0.5, 98.0]], "float32")
    scores = dual_softmax(similarity)
    assert all(np.isfinite(values).all() for values in scores.values())
    assert all(len(np.unique(values)) == values.size for values in scores.values())


@pytest.mark.parametrize("beta", [1.0, 20.0])
def test_qb_norm_equals_its_formula(beta):
    similarity, bank = random_scores(30, 12), random_scores(9, 12, seed=1)
    expected = naive_qb_norm(similarity.tolist(), bank.tolist(), beta)
    normalised = qb_norm(similarity, QueryBank.from_similarity(bank, beta))
    applied = [row is not None for row in expected]
    assert 0 < sum(applied) < len(applied)
    for row, before, now in zip(expected, similarity, normalised, strict=True):
        np.testing.assert_allclose(now if row is None else np.exp(beta * now), before if row is None else row)


def test_qb_norm_of_logits_equals_that_of_cosines():
    """beta divided by exp(logit_scale) is beta of the cosines."""
    similarity, bank, scale = random_scores(20, 8), random_scores(15, 8, seed=1), 87.0
    cosines = qb_norm(similarity, QueryBank.from_similarity(bank, 20))
    logits = qb_norm(scale * similarity, QueryBank.from_similarity(scale * bank, 20 / scale))
    np.testing.assert_allclose(logits / scale, cosines, atol=1e-12)
    assert np.isfinite(qb_norm(1e4 * similarity, QueryBank.from_similarity(1e4 * bank, 20))).all()


def test_banks_merge_as_if_they_were_one():
    scores = random_scores(10, 6)
    whole = QueryBank.from_similarity(scores)
    merged = QueryBank.from_similarity(scores[:3]).merge(QueryBank.from_similarity(scores[3:]))
    np.testing.assert_allclose(merged.log_sum, whole.log_sum)
    np.testing.assert_array_equal(merged.activated, whole.activated)
    assert merged.size == whole.size == 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: QueryBank.from_similarity(np.zeros((0, 3))), "at least one"),
        (lambda: QueryBank.from_similarity(np.zeros((2, 3)), beta=0), "beta=0 must be positive"),
        (lambda: qb_norm(np.zeros((2, 4)), QueryBank.from_similarity(np.zeros((2, 3)))), "3 videos"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
