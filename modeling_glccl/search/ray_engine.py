"""Decoding and encoding on a Ray cluster, which one process, the caller, plans; and shards held by its actors."""
# ruff: noqa: D102 - what a method does is said where it is first defined

import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..environment import resolve_device
from ..modeling_glccl import GLCCLModel
from ..packaged import install_line
from .ingest import IngestSettings, Job, finish_here
from .queries import Query
from .shards import LocalShards, Shard

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise ImportError(f"engine='ray' needs Ray: {install_line('scale')} ({error})") from error

# Jobs given to the cluster at a time. Each round ends with its slowest video, so it is long.
_ROUND = 20_000


def finish_on_ray(jobs: Iterator[Job], settings: IngestSettings) -> Iterator[Job]:
    """As [`finish_here`], on `num_workers` processes of the cluster, each with a GPU if the cluster has any.

    Connects to the cluster of RAY_ADDRESS or of this machine, or starts one on this machine. All nodes must see the
    videos under the same paths. The work of a process or node that dies is done again elsewhere.
    """
    _connect()
    ray.data.DataContext.get_current().enable_progress_bars = False
    settings.model.to("cpu")  # pyright: ignore[reportArgumentType]
    shared = ray.put(settings._replace(num_workers=1))
    while chunk := list(islice(jobs, _ROUND)):
        # A few blocks for each process: the unit that is done again where one dies.
        blocks = max(1, min(len(chunk) // 4, 8 * settings.num_workers))
        rows = [{"job": pickle.dumps(job)} for job in chunk]
        finished = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            _Worker,
            fn_constructor_args=(shared,),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=settings.num_workers),
            num_gpus=1 if ray.cluster_resources().get("GPU") else None,
            batch_size=settings.batch_size,
        )
        for row in finished.iter_rows():
            yield pickle.loads(row["job"])


class _Worker:
    """One process of the cluster."""

    def __init__(self, shared: ray.ObjectRef):
        self._settings: IngestSettings = ray.get(shared)
        self._settings.model.to(resolve_device())  # pyright: ignore[reportArgumentType]

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        jobs = map(pickle.loads, batch["job"])
        return {"job": [pickle.dumps(job) for job in finish_here(jobs, self._settings)]}


class RayShards(LocalShards):
    """The shards of an index, each held by an actor, which is started again, and asked again, where it dies.

    All nodes must see the index under the same path.
    """

    asks_again = True

    def __init__(self, uris: Sequence[str], storage_options: dict[str, str] | None):
        _connect()
        places = [uri if "://" in uri else os.path.abspath(uri) for uri in uris]
        holder = ray.remote(max_restarts=-1, max_task_retries=3, scheduling_strategy="SPREAD")(Shard)
        self.held = [holder.remote(place, storage_options) for place in places]
        self._lent: tuple[Any, Any] = None, None

    def each(self, name: str, arguments: Mapping[int, tuple]) -> list[Any]:
        try:
            return ray.get([getattr(self.held[number], name).remote(*given) for number, given in arguments.items()])
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            raise OSError(f"a shard does not answer ({type(error).__name__}): see Ray's logs") from error

    def lend(self, model: GLCCLModel, query: Query) -> tuple[Any, Query]:
        if self._lent[0] is not model:
            # Without the encoders, on the processor.
            scale = model.clip.logit_scale.detach().cpu()
            interaction, clip = deepcopy(model.interaction).cpu(), SimpleNamespace(logit_scale=scale)
            self._lent = model, ray.put(SimpleNamespace(interaction=interaction, clip=clip, device=scale.device))
        texts, examples, nots = (
            [part.to("cpu") for part in parts] for parts in (query.texts, query.examples, query.nots)
        )
        return self._lent[1], replace(query, texts=texts, examples=examples, nots=nots)


def _connect() -> None:
    if not ray.is_initialized():
        ray.init()
