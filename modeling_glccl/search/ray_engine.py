"""Decoding and encoding on a Ray cluster. One process, the caller, plans and writes."""

import os
import pickle
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch

from ..modeling_glccl import GLCCLModel
from ..processing_glccl import GLCCLProcessor
from .clips import ClipSettings
from .ingest import Job, finish_here

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

try:
    import ray
except ImportError as error:
    raise ImportError(f"engine='ray' needs Ray: pip install 'modeling_glccl[scale]' ({error})") from error

# Jobs given to the cluster at a time. Each round ends with its slowest video, so it is long.
_ROUND = 20_000


def finish_on_ray(
    jobs: Iterator[Job],
    model: GLCCLModel,
    processor: GLCCLProcessor,
    settings: ClipSettings,
    *,
    num_workers: int,
    batch_size: int,
) -> Iterator[Job]:
    """As [`finish_here`], on `num_workers` processes of the cluster, each with a GPU if the cluster has any.

    Connects to the cluster of RAY_ADDRESS or of this machine, or starts one on this machine. All nodes must see the
    videos under the same paths. The work of a process or node that dies is done again elsewhere.
    """
    if not ray.is_initialized():
        ray.init()
    ray.data.DataContext.get_current().enable_progress_bars = False
    on_gpu = bool(ray.cluster_resources().get("GPU"))
    model.to("cpu")  # pyright: ignore[reportArgumentType]
    shared = ray.put((model, processor, settings, batch_size))
    while chunk := list(islice(jobs, _ROUND)):
        waiting = [{"job": pickle.dumps(job)} for job in chunk]
        # A few blocks for each process: the unit that is done again where one dies.
        blocks = max(1, min(len(waiting) // 4, 8 * num_workers))
        finished = ray.data.from_items(waiting, override_num_blocks=blocks).map_batches(
            _Encoder,
            fn_constructor_args=(shared,),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_workers),
            num_gpus=1 if on_gpu else None,
            batch_size=batch_size,
        )
        for row in finished.iter_rows():
            yield pickle.loads(row["job"])


class _Encoder:
    """One process of the cluster."""

    def __init__(self, shared: Any):
        self._model, self._processor, self._settings, self._batch_size = ray.get(shared)
        if torch.cuda.is_available():
            self._model.to("cuda")

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        jobs = [pickle.loads(content) for content in batch["job"]]
        options = {"num_workers": 1, "batch_size": self._batch_size}
        finished = finish_here(iter(jobs), self._model, self._processor, self._settings, **options)
        return {"job": [pickle.dumps(job) for job in finished]}
