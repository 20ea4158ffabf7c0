"""One process of the multi-process loss tests."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from models import full_batch, tiny_model
from peer_models import peer_model
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from modeling_glccl.training.full_batch import FullBatchLoss


def make_model(head: str):
    """A tiny model in training that has no dropout."""
    return tiny_model(csc_weight=0.5) if head == "glccl" else peer_model(head).train()


def step(model, losses) -> dict[str, torch.Tensor]:
    """The losses and, by the names of the model's parameters, their gradients."""
    losses.loss.backward()
    values = {name: losses[name].detach() for name in ("loss", "csc_loss", "auxiliary_loss") if name in losses}
    return values | {name: weight.grad for name, weight in model.named_parameters()}


def main(output: Path, chunk: int, head: str) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    batch = full_batch()
    rows = len(batch["input_ids"]) // world_size
    part = {name: values[rank * rows : (rank + 1) * rows] for name, values in batch.items()}
    # Ranks hold different numbers of frame slots, as their longest videos differ.
    slots = int(part["padding_mask_videos"].sum(dim=1).max())
    part["pixel_values_videos"] = part["pixel_values_videos"][:, :slots]
    part["padding_mask_videos"] = part["padding_mask_videos"][:, :slots]

    model = make_model(head)
    full_batch_loss = FullBatchLoss(model, chunk or None)
    wrapped = DistributedDataParallel(full_batch_loss)
    results = step(model, wrapped(**part))
    if rank == 0:
        save_file(results | {"world_size": torch.tensor(world_size)}, output)

    if rank == 1:
        part = {name: values[1:] for name, values in part.items()}
    if world_size > 1:
        with pytest.raises(ValueError, match="as many pairs as the others"):
            full_batch_loss(**part)
    del wrapped  # before the process group: gloo may wait for a wrapper that outlives it
    dist.barrier()
    dist.destroy_process_group()
