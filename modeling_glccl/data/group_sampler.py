"""The order of training rows."""

from collections.abc import Hashable, Iterator, Sequence

import torch
from torch.utils.data import Sampler


class GroupSampler(Sampler[int]):
    """All rows in random order, except that rows of one group follow each other: batches then hold hard negatives.

    The order depends on seed and epoch alone; `groups` holds the group of every row.
    """

    def __init__(self, groups: Sequence[Hashable], seed: int = 0):
        rows: dict[Hashable, list[int]] = {}
        for row, group in enumerate(groups):
            rows.setdefault(group, []).append(row)
        self.rows = list(rows.values())
        self.length, self.seed, self.epoch = len(groups), seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        for group in torch.randperm(len(self.rows), generator=generator).tolist():
            members = self.rows[group]
            yield from (members[index] for index in torch.randperm(len(members), generator=generator).tolist())

    def __len__(self) -> int:
        return self.length
