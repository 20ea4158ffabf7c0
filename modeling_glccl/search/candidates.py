"""The clips of an index at one moment, and those nearest to a query among them."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from .store import OK

_FOUND = f"status = '{OK}'"


class Candidates(NamedTuple):
    """Some clips of an index.

    Args:
        row_ids: uint64 [C], where they lie in the table.
        video_keys: int64 [C], equal for clips of one video.
        pooled: float16 [C, D].
    """

    row_ids: np.ndarray
    video_keys: np.ndarray
    pooled: Tensor


class Snapshot:
    """All clips of a table as it was when it was opened, their pooled vectors in memory."""

    def __init__(self, table: Any, width: int, previous: "Snapshot | None" = None):
        """Reads the pooled vectors, but not those that `previous` has."""
        self.table = table
        self.row_ids, self.video_keys = read_ids(table)
        self._pooled = torch.empty(len(self), width, dtype=torch.float16)
        pooled = self._pooled.numpy()
        missing = np.ones(len(self), bool)
        if previous is not None and len(previous):
            places = _places(self.row_ids, previous.row_ids)
            missing = places < 0
            pooled[~missing] = previous._pooled.numpy()[places[~missing]]
        if not missing.any():
            return
        if missing.sum() > len(self) // 4:
            query = table.search().where(_FOUND).with_row_id(True)
        else:
            query = table.take_row_ids(self.row_ids[missing].tolist()).with_row_id()
        for batch in query.select(["pooled"]).to_batches():
            pooled[_places(batch["_rowid"].to_numpy(), self.row_ids)] = matrix(batch["pooled"], width)

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self._pooled.nbytes + self.row_ids.nbytes + self.video_keys.nbytes

    def nearest(self, vector: Tensor, count: int) -> Candidates:
        """The clips of the largest dot products with a vector [D], best first."""
        best = (self._pooled @ vector.half()).topk(min(count, len(self))).indices
        return Candidates(self.row_ids[best.numpy()], self.video_keys[best.numpy()], self._pooled[best])


def read_ids(table: Any) -> tuple[np.ndarray, np.ndarray]:
    """Row ids and video keys of all clips."""
    ids = table.search().where(_FOUND).select(["video_key"]).with_row_id(True).to_arrow()
    return ids["_rowid"].to_numpy(), ids["video_key"].to_numpy()


def matrix(column: pa.Array | pa.ChunkedArray, width: int) -> np.ndarray:
    """[rows, width] of a column of float16 lists of that size; read-only where it could be left in place."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, width) for chunk in chunks]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty((0, width), np.float16)


def _places(values: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Where every value lies in `within`, whose values differ; -1 where it does not."""
    order = np.argsort(within)
    places = order[np.searchsorted(within, values, sorter=order).clip(max=len(within) - 1)]
    return np.where(within[places] == values, places, -1)
