"""The nearest-neighbour index of a large table: built, measured, and rebuilt or dropped when it finds too little."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lancedb.index import IvfSq
from torch import Tensor

from .candidates import IndexedSnapshot, matrix
from .store import OK, Store, explained

# Clips beyond which a reader no longer holds all pooled vectors in memory (2 GB at 512 numbers each) and scans them.
ANN_CLIPS = 2_000_000
# What the index must find of the 100 nearest clips, among the candidates of a search.
RECALL_GATE = 0.98
_NEAREST, _CANDIDATES = 100, 1000
_PROBES = (16, 32, 64, 128, 256)
# Share of the clips that must have come, gone or changed to make it worth measuring again.
_CHANGED = 0.05

# Queries of which the recall is measured, so that they lie where sentences lie and not where videos do.
SAMPLE_QUERIES = [
    f"{subject} {action}"
    for subject in ("a man", "a woman", "two children", "a dog", "a car", "people in a street", "a cartoon", "hands")
    for action in ("moving slowly", "in the kitchen", "on a field outdoors", "talking to the camera")
]


def update_ann(store: Store, sample: Callable[[], Tensor]) -> None:
    """Builds or checks the index of a store, if it is large enough for one.

    `about["ann"]` then says its kind, on how many partitions (`probes`) a search looks, what it found of the 100
    nearest clips of a sample of queries (`recall`), at how many clips that was, and how many have been written since
    (`unmeasured`).

    Args:
        store: with all commits done.
        sample: returns [Q, D], proxy vectors of queries.
    """
    table = store.open_clips()
    count = table.count_rows(f"status = '{OK}'")
    known = store.about.get("ann")
    if count < ANN_CLIPS:
        if known:  # what it found is no longer looked after
            store.update_about(ann=None)
        return
    if known:
        unmeasured = known["unmeasured"] + store.written_clips
        store.written_clips = 0
        if max(unmeasured, abs(count - known["clips"])) < _CHANGED * known["clips"]:
            if unmeasured != known["unmeasured"]:
                store.update_about(ann={**known, "unmeasured": unmeasured})
            return
    queries = sample()
    truth = _scan(table, queries, store.about["width"])
    probes, recall = _tune(table, queries, truth, store.about["width"]) if _has_index(table) else (0, 0.0)
    if recall < RECALL_GATE:
        kind = IvfSq(distance_type="dot", num_partitions=math.isqrt(count), max_iterations=10, sample_rate=64)
        with explained(store.uri):
            table.create_index("pooled", config=kind, replace=True)
        table = store.open_clips()
        probes, recall = _tune(table, queries, truth, store.about["width"])
    kind = "IVF_SQ" if recall >= RECALL_GATE else None  # else searches scan in memory
    store.written_clips = 0
    store.update_about(
        ann={"kind": kind, "probes": probes, "recall": round(recall, 4), "clips": count, "unmeasured": 0}
    )


def _has_index(table: Any) -> bool:
    return any(index.columns == ["pooled"] for index in table.list_indices())


def _scan(table: Any, queries: Tensor, width: int) -> list[set[int]]:
    """Row ids of the nearest clips of every query."""
    scores, ids = torch.empty(len(queries), 0), np.empty(0, np.uint64)
    query = table.search().where(f"status = '{OK}'").select(["pooled"]).with_row_id(True)
    for batch in query.to_batches():
        new = queries @ torch.from_numpy(matrix(batch["pooled"], width).astype(np.float32)).T
        scores, ids = torch.cat([scores, new], dim=1), np.concatenate([ids, batch["_rowid"].to_numpy()])
        kept = torch.cat([row.topk(min(_NEAREST, len(row))).indices for row in scores]).unique()
        scores, ids = scores[:, kept], ids[kept.numpy()]
    return [set(ids[row.topk(min(_NEAREST, len(row))).indices.numpy()].tolist()) for row in scores]


def _tune(table: Any, queries: Tensor, truth: list[set[int]], width: int) -> tuple[int, float]:
    """The fewest partitions to look at that pass the gate, and the recall; the most if none does."""
    for probes in _PROBES:
        snapshot = IndexedSnapshot(table, width, probes)
        found = [set(snapshot.nearest(query, _CANDIDATES).row_ids.tolist()) for query in queries]
        hits = sum(len(rows & nearest) for rows, nearest in zip(found, truth, strict=True))
        recall = hits / sum(map(len, truth))
        if recall >= RECALL_GATE:
            break
    return probes, recall
