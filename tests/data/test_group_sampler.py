"""Groups stay together in training batches, in an order that epochs change and resumption repeats."""

from itertools import pairwise

from modeling_glccl.data.group_sampler import GroupSampler

GROUPS = [0, 1, 2, 0, 1, 2, 3, 0]


def test_every_row_once_and_groups_together():
    order = list(GroupSampler(GROUPS, seed=3))
    assert sorted(order) == list(range(8))
    assert len(GroupSampler(GROUPS)) == 8
    groups = [GROUPS[row] for row in order]
    assert sum(a != b for a, b in pairwise(groups)) == 3


def test_order_depends_on_seed_and_epoch_alone():
    sampler = GroupSampler(range(50), seed=1)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(GroupSampler(range(50), seed=2)) == list(sampler)
