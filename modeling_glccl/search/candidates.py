"""The clips of an index at one moment, and the choice of those that are scored exactly."""

from collections import defaultdict
from collections.abc import Collection
from copy import copy

import numpy as np
import pyarrow as pa
import torch
from lancedb.table import Table
from torch.nn.functional import pad

from ..modeling_glccl import GLCCLModel
from .queries import Query
from .ranking import one_frame_logits, proxy_vectors
from .store import OK

# How many clips the pooled vectors keep, and how many of them the one-frame scores keep for the exact ones.
SHORTLIST, CANDIDATES = 1000, 128
# Columns in memory, as LanceDB takes as long for these of a few rows as for their frames.
_HELD = ["video_id", "clip", "path", "start", "end", "duration", "mtime_ns", "num_frames"]
# Of a few columns, as LanceDB takes far longer for many small batches than for one.
_MANY_ROWS = 1 << 20
# A multiple of it is the width of int8 matrices that PyTorch multiplies without reading past the end of a row.
_ALIGNED = 32
# Clips of one video among the candidates, so that a film does not crowd out all others.
_CLIPS_PER_VIDEO = 5


class Snapshot:
    """All clips of a table as it was when it was opened: `row_ids` uint64 [C], where they lie in the table,
    `video_keys` int64 [C], equal for clips of one video, and in memory what results say, `held` [P], and the pooled
    vectors, `pooled` int8 [P, D] times `scales` float32 [P], with zeros after column D. Clip c is row c of these; in a
    part of the clips, see `filtered`, row `rows[c]`.
    """

    def __init__(self, table: Table, width: int, previous: "Snapshot | None" = None):
        """Does not read the pooled vectors, of `width` D, that `previous` has."""
        self.table, self.version = table, table.version
        found = table.search().where(f"status = '{OK}'").with_row_id(True)
        held = found.select(["video_key", *_HELD]).to_batches(batch_size=_MANY_ROWS).read_all()
        # To take rows, Arrow joins pieces each time, and strings of more than 2 GB only where they are large.
        large = [field.with_type(pa.large_string()) if field.type == pa.string() else field for field in held.schema]
        self.held = held.cast(pa.schema(large)).combine_chunks()
        self.row_ids, self.video_keys = self.held["_rowid"].to_numpy(), self.held["video_key"].to_numpy()
        self.width = width
        self.pooled = np.zeros((len(self.row_ids), -(-width // _ALIGNED) * _ALIGNED), np.int8)
        self.scales = np.empty(len(self.row_ids), np.float32)
        self.rows: np.ndarray | None = None
        self._part: tuple[str, Snapshot] | None = None
        missing = np.ones(len(self.row_ids), bool)
        if previous is not None and len(previous.row_ids):
            places = _places(self.row_ids, previous.row_ids)
            missing = places < 0
            self.pooled[~missing] = previous.pooled[places[~missing]]
            self.scales[~missing] = previous.scales[places[~missing]]
        if not missing.any():
            return
        if missing.sum() <= len(missing) // 4:
            found = table.take_row_ids(self.row_ids[missing].tolist()).with_row_id()
            batches = found.select(["pooled"]).to_batches()
        else:
            batches = found.select(["pooled"]).to_batches(batch_size=1 << 14)
        for batch in batches:
            places = _places(batch["_rowid"].to_numpy(), self.row_ids)
            vectors = batch["pooled"].flatten().to_numpy().reshape(-1, width).astype(np.float32)
            self.scales[places] = scales = np.abs(vectors).max(axis=1) / 127
            self.pooled[places, :width] = np.rint(vectors / np.where(scales, scales, 1)[:, None])

    def __len__(self) -> int:
        return len(self.row_ids)

    def filtered(self, condition: str) -> "Snapshot":
        """Only the clips for which an SQL condition holds."""
        held = self._part  # read once: searches come from many threads
        if held is not None and held[0] == condition:
            return held[1]
        found = self.table.search().where(condition).with_row_id(True).select(["_rowid"])
        ids = found.to_batches(batch_size=_MANY_ROWS).read_all()["_rowid"].to_numpy()
        kept = np.sort(_places(ids, self.row_ids))
        kept = kept[kept >= 0]  # others could not be read
        part = copy(self)
        part._part = None  # or every part would keep the one before it
        part.row_ids, part.video_keys, part.rows = self.row_ids[kept], self.video_keys[kept], kept
        if len(kept) <= len(self) // 4:
            part.pooled, part.scales, part.rows = self.pooled[kept], self.scales[kept], None
            part.held = self.held.take(kept)
        self._part = condition, part
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
        """The clips with the largest cheap scores: int64 clips, int64 keys of their videos, and float32 scores of the
        pooled vectors and float16 one-frame logits.

        So many, and those whose score is that of the last. Clips of equal features have equal scores whatever lies
        beside them, as the numbers are rounded more coarsely than they are summed: one index and its shards choose the
        same.
        """
        padding = 0, self.pooled.shape[1] - self.width
        vectors = [pad(proxy_vectors(model, part).cpu().bfloat16(), padding) for part in query.parts]
        # Of int8 matrices the fastest product that PyTorch has without special instructions; its result is bfloat16.
        matrix, ones = torch.from_numpy(self.pooled), torch.ones(len(self.pooled), dtype=torch.bfloat16)
        products = [torch.ops.aten._weight_int8pack_mm(vector, matrix, ones)[0] for vector in vectors]
        scores = query.combine(torch.stack(products) * torch.from_numpy(self.scales)).numpy()
        scores = scores if self.rows is None else scores[self.rows]
        count = min(shortlist, len(scores))
        least = np.partition(scores, -count)[-count] if count else 0  # a shard may have no clip that passes a filter
        clips = np.flatnonzero(scores >= least)
        chosen = clips if self.rows is None else self.rows[clips]
        pooled = torch.from_numpy(self.pooled[chosen, : self.width] * self.scales[chosen, None])
        logits = query.combine(torch.stack([one_frame_logits(model, part, pooled) for part in query.parts]))
        return clips, self.video_keys[clips], scores[clips], logits.half().cpu().numpy()

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
        """`video_keys`, and the pooled vectors of all clips, float16 [C, D]."""
        pooled = torch.from_numpy(self.pooled[:, : self.width])
        return self.video_keys, pooled * torch.from_numpy(self.scales)[:, None].half()

    def take(self, clips: np.ndarray, columns: list[str]) -> pa.Table:
        """Columns of some clips, in their order."""
        if not len(clips):
            return self.table.schema.empty_table().select(columns)
        rows = self.held.take(clips if self.rows is None else self.rows[clips])
        if missing := [name for name in columns if name not in rows.column_names]:
            row_ids = self.row_ids[clips]
            found = self.table.take_row_ids(row_ids.tolist()).select(missing).with_row_id().to_arrow()
            places = _places(row_ids, found["_rowid"].to_numpy())
            for name in missing:
                rows = rows.append_column(name, found[name].take(places))
        return rows.select(columns)


def frames_of(rows: pa.Table, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Of one row or more, frames float16 [C, Nf, D] and how many of them count [C]."""
    frames = rows["frames"].combine_chunks().flatten().to_numpy()
    return frames.reshape(len(rows), -1, width), rows["num_frames"].to_numpy().copy()


def first_of_each(values: np.ndarray, count: int) -> np.ndarray:
    """Ascending positions of the first `count` occurrences of every value."""
    order = np.argsort(values, kind="stable")
    _, starts, counts = np.unique(values[order], return_index=True, return_counts=True)
    nth = np.arange(len(values)) - np.repeat(starts, counts)
    return np.sort(order[nth < count])


def _places(values: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Where every value lies in `within`, whose values differ; -1 where it does not."""
    order = np.argsort(within, kind="stable")  # nearly sorted, as tables have them, in no time
    places = order[np.searchsorted(within, values, sorter=order).clip(max=len(within) - 1)]
    return np.where(within[places] == values, places, -1)
