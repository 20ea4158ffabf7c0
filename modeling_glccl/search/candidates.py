"""The clips of an index at one moment, and the choice of those that are scored exactly."""

from collections import defaultdict
from collections.abc import Collection
from copy import copy

import numpy as np
import pyarrow as pa
import torch
from lancedb.table import Table

from ..modeling_glccl import GLCCLModel
from .queries import Query
from .ranking import one_frame_logits, proxy_vectors
from .store import OK

# How many clips the pooled vectors keep, and how many of them the one-frame scores keep for the exact ones.
SHORTLIST, CANDIDATES = 1000, 200
# Clips of one video among the candidates, so that a film does not crowd out all others.
_CLIPS_PER_VIDEO = 5


class Snapshot:
    """All clips of a table as it was when it was opened: `row_ids` uint64 [C], where they lie in the table,
    `video_keys` int64 [C], equal for clips of one video, and in memory `pooled` float16 [C, D]; of a part of them, see
    `filtered`, the rows of `pooled` are those of the whole.
    """

    def __init__(self, table: Table, width: int, previous: "Snapshot | None" = None):
        """Does not read the pooled vectors, of `width` D, that `previous` has."""
        self.table = table
        found = table.search().where(f"status = '{OK}'").with_row_id(True)
        ids = found.select(["video_key"]).to_arrow()
        self.row_ids, self.video_keys = ids["_rowid"].to_numpy(), ids["video_key"].to_numpy()
        self.pooled = torch.empty(len(self.row_ids), width, dtype=torch.float16)
        self._pooled_rows = torch.arange(len(self.row_ids))
        pooled = self.pooled.numpy()
        missing = np.ones(len(pooled), bool)
        if previous is not None and len(previous.row_ids):
            places = _places(self.row_ids, previous.row_ids)
            missing = places < 0
            pooled[~missing] = previous.pooled.numpy()[places[~missing]]
        if not missing.any():
            return
        if missing.sum() <= len(pooled) // 4:
            found = table.take_row_ids(self.row_ids[missing].tolist()).with_row_id()
        for batch in found.select(["pooled"]).to_batches():
            pooled[_places(batch["_rowid"].to_numpy(), self.row_ids)] = (
                batch["pooled"].flatten().to_numpy().reshape(-1, width)
            )

    def __len__(self) -> int:
        return len(self.row_ids)

    def filtered(self, condition: str) -> "Snapshot":
        """Only the clips for which an SQL condition holds."""
        found = self.table.search().where(condition).with_row_id(True).select(["clip"]).to_arrow()
        kept = np.flatnonzero(np.isin(self.row_ids, found["_rowid"].to_numpy()))
        part = copy(self)
        part.row_ids, part.video_keys = self.row_ids[kept], self.video_keys[kept]
        part._pooled_rows = self._pooled_rows[kept]
        return part

    def candidates(self, model: GLCCLModel, query: Query, k: int) -> np.ndarray:
        """int64, the clips that cheap scores propose for one query of which the k best videos are wanted."""
        shortlist, count = max(SHORTLIST, 20 * k), max(CANDIDATES, 3 * k)
        while True:
            clips, keys, _, logits = self.nearest(model, query, shortlist)
            order = np.argsort(-logits, kind="stable")
            order = order[first_of_each(keys[order], _CLIPS_PER_VIDEO)]
            chosen = order[logits[order] >= logits[order[:count]][-1]]
            # A few long videos can fill the shortlist.
            if len(np.unique(keys[chosen])) >= min(k, count) or len(clips) < shortlist:
                return clips[chosen]
            shortlist *= 4

    @torch.inference_mode()
    def nearest(self, model: GLCCLModel, query: Query, shortlist: int) -> tuple[np.ndarray, ...]:
        """The clips with the largest cheap scores: int64 clips, int64 keys of their videos, and float16 scores of the
        pooled vectors and one-frame logits.

        So many, and those whose score is that of the last. Rounded to float16, clips of equal features have equal
        scores whatever lies beside them: one index and its shards choose the same.
        """
        vectors = [proxy_vectors(model, part)[0].cpu().half() for part in query.parts]
        scores = query.combine(torch.stack([(self.pooled @ vector)[self._pooled_rows] for vector in vectors]))
        clips = (scores >= scores.topk(min(shortlist, len(scores))).values[-1:]).nonzero()[:, 0]
        pooled = self.pooled[self._pooled_rows[clips]]
        logits = query.combine(torch.stack([one_frame_logits(model, part, pooled) for part in query.parts]))
        return clips.numpy(), self.video_keys[clips], scores[clips].numpy(), logits.half().cpu().numpy()

    def spans(self, video_keys: Collection[int]) -> dict[int, list[tuple[str, int, int, float, float]]]:
        """Of some videos, those of their clips that are here: id, number in the video, clip, start and end (s)."""
        clips = np.flatnonzero(np.isin(self.video_keys, np.array(list(video_keys), np.int64)))
        spans = defaultdict(list)
        columns = ["video_id", "clip", "start", "end"]
        for clip, row in zip(clips.tolist(), self.take(clips, columns).to_pylist(), strict=True):
            key = int(self.video_keys[clip])
            spans[key].append((row["video_id"], row["clip"], clip, row["start"], row["end"]))
        return spans

    def vectors(self) -> tuple[np.ndarray, torch.Tensor]:
        """`video_keys` and `pooled` of all clips."""
        return self.video_keys, self.pooled

    def take(self, clips: np.ndarray, columns: list[str]) -> pa.Table:
        """Columns of some clips, in their order."""
        if not len(clips):
            return self.table.schema.empty_table().select(columns)
        row_ids = self.row_ids[clips]
        rows = self.table.take_row_ids(row_ids.tolist()).select(columns).with_row_id().to_arrow()
        return rows.take(_places(row_ids, rows["_rowid"].to_numpy()))


def first_of_each(values: np.ndarray, count: int) -> np.ndarray:
    """Ascending positions of the first `count` occurrences of every value."""
    order = np.argsort(values, kind="stable")
    _, starts, counts = np.unique(values[order], return_index=True, return_counts=True)
    nth = np.arange(len(values)) - np.repeat(starts, counts)
    return np.sort(order[nth < count])


def _places(values: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Where every value lies in `within`, whose values differ; -1 where it does not."""
    order = np.argsort(within)
    places = order[np.searchsorted(within, values, sorter=order).clip(max=len(within) - 1)]
    return np.where(within[places] == values, places, -1)
