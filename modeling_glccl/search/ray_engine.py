"""Decoding and encoding on a Ray cluster. One process, the caller, plans and writes."""

import os
import pickle
from collections.abc import Iterator
from itertools import islice

import numpy as np

from ..environment import resolve_device
from ..packaged import install_line
from .ingest import IngestSettings, Job, finish_here

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

try:
    import ray
except ImportError as error:
    raise ImportError(f"engine='ray' needs Ray: {install_line('scale')} ({error})") from error

# Jobs given to the cluster at a time. Each round ends with its slowest video, so it is long.
_ROUND = 20_000


def finish_on_ray(jobs: Iterator[Job], settings: IngestSettings) -> Iterator[Job]:
    """As [`finish_here`], on `num_workers` processes of the cluster, each with a GPU if the cluster has any.

    Connects to the cluster of RAY_ADDRESS or of this machine, or starts one on this machine. All nodes must see the
    videos under the same paths. The work of a process or node that dies is done again elsewhere.
    """
    if not ray.is_initialized():
        ray.init()
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
