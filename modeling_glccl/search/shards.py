"""An index of several shards, each an index in a folder of its own, written and searched as one.

A video lies in the shard that its key gives, modulo their number. The key is drawn when the video is first indexed,
and stays with it when its file moves or changes: so do its rows, and each commit to a shard is whole. What is said
stays in one table beside the shards: BM25 weighs a word by how many subtitles of the whole library have it.

A search asks every shard for its clips with the largest cheap scores, keeps the largest of all, and takes their frames
from the shards; from there on it is that of one index (`searcher`), to the last bit.
"""
# ruff: noqa: D102 - what a method does is said where it is first defined

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..modeling_glccl import GLCCLModel
from .candidates import Snapshot
from .queries import Query
from .store import GONE, Store, shard_uris, writing


class Shard(Store):
    """A shard, and its clips in memory. Every question says of which version: who answers may have begun anew."""

    def __init__(self, uri: str, storage_options: dict[str, str] | None):
        try:
            super().__init__(uri, storage_options)
        except FileNotFoundError as error:
            raise ValueError(f"{uri}: the shard is gone; bring it back, or index the videos anew") from error
        self._held: Snapshot | None = None

    def rows(self, columns: Sequence[str], condition: str) -> list[dict[str, Any]]:
        return list(super().rows(columns, condition))

    def write(self, rows: pa.Table, replaces: bool) -> None:
        with writing(self.uri):
            super().write(rows, replaces)

    def delete(self, condition: str) -> None:
        with writing(self.uri):
            super().delete(condition)

    def look(self, version: int | None, condition: str) -> tuple[int, int]:
        """A version of the clips, the newest for None, and how many of them fulfil an SQL condition, if any."""
        version = self.open_clips().version if version is None else version
        return version, len(self._at(version, condition))

    def ask(self, version: int, condition: str, name: str, *arguments: Any) -> Any:
        """What a method of the `Snapshot` of these clips returns."""
        return getattr(self._at(version, condition), name)(*arguments)

    def _at(self, version: int, condition: str) -> Snapshot:
        whole = self._held  # read once: searches come from many threads
        if whole is None or whole.version != version:
            table = self.open_clips()
            if table.version != version:
                table.checkout(version)
            self._held = whole = Snapshot(table, self.about["width"], whole)
        return whole.filtered(condition) if condition else whole


class LocalShards:
    """All shards of an index, in this process."""

    asks_again = False  # where a shard has died, which may have done what it was asked

    def __init__(self, uris: Sequence[str], storage_options: dict[str, str] | None):
        self.held: Sequence[Any] = [Shard(uri, storage_options) for uri in uris]

    def each(self, name: str, arguments: Mapping[int, tuple]) -> list[Any]:
        """Calls a method of some shards, by number; what they return, in this order."""
        return [getattr(self.held[number], name)(*given) for number, given in arguments.items()]

    def lend(self, model: GLCCLModel, query: Query) -> tuple[Any, Query]:
        """What `each` takes for a model, which is given again and again, and a query."""
        return model, query


class ShardedStore(Store):
    """A store whose clips lie in shards."""

    def __init__(self, uri: str | PathLike[str], storage_options: dict[str, str] | None = None):
        super().__init__(uri, storage_options)
        self._places = shard_uris(self.uri, self.about), storage_options
        self.shards = LocalShards(*self._places)
        for number, shard in enumerate(self.shards.held):
            if (shard.about.get("id"), shard.about.get("shard")) != (self.about.get("id"), number):
                raise ValueError(f"{shard.uri}: is another shard, or another index's: bring its own back")

    def move_to_ray(self) -> None:
        """Has the shards held by actors of a cluster from now on."""
        from .ray_engine import RayShards

        if not isinstance(self.shards, RayShards):
            self.shards = RayShards(*self._places)

    def all(self, name: str, *arguments: Any) -> list[Any]:
        """What a method of every shard returns."""
        return self.shards.each(name, dict.fromkeys(range(self.about["shards"]), arguments))

    def rows(self, columns: Sequence[str], condition: str) -> Iterable[dict[str, Any]]:
        return chain.from_iterable(self.all("rows", columns, condition))

    def count(self, condition: str) -> int:
        return sum(self.all("count", condition))

    def write(self, rows: pa.Table, replaces: bool) -> None:
        keys = rows["video_key"].to_numpy()
        stays = np.isin(keys, keys[rows["status"].to_numpy() != GONE])
        # A video that another's file has replaced goes first: a kill in between must not leave it beside its copy.
        for chosen in (~stays, stays):
            shards = np.where(chosen, keys % self.about["shards"], -1)
            parts = {int(number): rows.filter(shards == number) for number in np.unique(shards[chosen])}
            replaces = replaces or self.shards.asks_again
            self.shards.each("write", {number: (part, replaces) for number, part in parts.items()})

    def delete(self, condition: str) -> None:
        self.all("delete", condition)

    def compact(self, growing: bool = False) -> None:
        with writing(self.uri):
            self.all("compact", growing)


class ShardedSnapshot(Snapshot):
    """The clips of all shards at one moment, numbered from shard to shard."""

    def __init__(self, store: ShardedStore, versions: Sequence[int | None], condition: str = ""):
        self._store, self._condition = store, condition
        found = store.shards.each("look", {number: (version, condition) for number, version in enumerate(versions)})
        self._versions = [version for version, _ in found]
        self._starts = np.cumsum([0, *(count for _, count in found)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _ask(self, name: str, arguments: Mapping[int, tuple]) -> list[Any]:
        given = {number: (self._versions[number], self._condition, name, *arguments[number]) for number in arguments}
        return self._store.shards.each("ask", given)

    def _ask_all(self, name: str, *arguments: Any) -> list[Any]:
        return self._ask(name, dict.fromkeys(range(len(self._versions)), arguments))

    def filtered(self, condition: str) -> Snapshot:
        return ShardedSnapshot(self._store, self._versions, condition)

    def nearest(self, model: GLCCLModel, query: Query, shortlist: int) -> tuple[np.ndarray, ...]:
        found = self._ask_all("nearest", *self._store.shards.lend(model, query), shortlist)
        clips = [start + of_shard[0] for start, of_shard in zip(self._starts, found, strict=False)]
        keys, scores, logits = (np.concatenate(column) for column in list(zip(*found, strict=True))[1:])
        kept = scores >= np.sort(scores)[-min(shortlist, len(scores))]
        return np.concatenate(clips)[kept], keys[kept], scores[kept], logits[kept]

    def spans(self, video_keys: Collection[int]) -> dict[int, list[tuple[str, int, int, float, float]]]:
        return {
            key: [(video_id, number, int(start) + clip, *span) for video_id, number, clip, *span in spans]
            for start, found in zip(self._starts, self._ask_all("spans", video_keys), strict=False)
            for key, spans in found.items()
        }

    def vectors(self) -> tuple[np.ndarray, torch.Tensor]:
        keys, pooled = zip(*self._ask_all("vectors"), strict=True)
        return np.concatenate(keys), torch.cat(pooled)

    def take(self, clips: np.ndarray, columns: list[str]) -> pa.Table:
        shards = np.searchsorted(self._starts, clips, side="right") - 1
        places = {int(number): np.flatnonzero(shards == number) for number in np.unique(shards)} or {0: clips}
        given = {number: (clips[where] - self._starts[number], columns) for number, where in places.items()}
        rows = pa.concat_tables(self._ask("take", given))
        return rows.take(np.argsort(np.concatenate(list(places.values()))))


def open_store(uri: str | PathLike[str], storage_options: dict[str, str] | None = None) -> Store:
    """The store of an index, with or without shards."""
    store = Store(uri, storage_options)
    return ShardedStore(uri, storage_options) if store.about["shards"] else store


def take_snapshot(store: Store, previous: Snapshot | None = None) -> Snapshot:
    """The clips of a store as they are now; `previous` has those of an earlier moment, if any."""
    if isinstance(store, ShardedStore):
        return ShardedSnapshot(store, [None] * store.about["shards"])
    table = store.open_clips()
    if previous is not None and previous.version == table.version:
        return previous
    return Snapshot(table, store.about["width"], previous)
