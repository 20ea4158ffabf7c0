"""The processes of a run: as many as a launcher started, on GPUs or, where there is none, on the CPU."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from .environment import resolve_device

# One process may download or unpack a benchmark while the others wait for it; NCCL would give up after ten minutes.
PATIENCE = timedelta(hours=6)


def make_accelerator(precision: str, device: str = "auto", **settings: Any) -> Accelerator:
    """The accelerator of this process, which knows all that were launched.

    `precision` is "fp32", or the autocast "bf16" or "fp16"; `device` "auto", what the launcher gave, or that of a
    single process, such as "cpu" or "cuda:1". More processes launched than accelerate found, of which each would train
    alone, are a ValueError.
    """
    if device != "auto":
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(resolve_device(device))  # accelerate takes it from there alone
    accelerator = Accelerator(
        # accelerate makes a process group on the CPU only where it is told to.
        cpu=not torch.accelerator.is_available() or device == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        **settings,
    )
    found = accelerator.num_processes
    launched = dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE") or found)
    if launched != found:
        raise ValueError(
            f"{launched} processes were launched (WORLD_SIZE) but accelerate found {found}: start them with "
            f"torchrun --nproc_per_node {launched}, or unset WORLD_SIZE"
        )
    return accelerator
