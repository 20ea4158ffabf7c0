"""The losses of the full batch when its pairs are spread over processes and encoded chunk by chunk.

Each process scores its own texts against the videos of all processes, so that it does 1 / world_size of the work, and
the normalisers of the columns and the sums of the CSC loss are reduced across processes. The gradient of every
parameter, averaged over processes as DistributedDataParallel does, is that of one process with the whole batch.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..features_glccl import GLCCLVideoFeatures
from ..loss_glccl import contrastive_loss, csc_loss, csc_sums
from ..modeling_glccl import GLCCLModel, GLCCLOutput


class _AllReduce(torch.autograd.Function):
    """torch.distributed.nn.functional has the same, deprecated, with a warning in each step."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return all_reduce(gradients[0])


def all_reduce(tensor: Tensor) -> Tensor:
    """The sum of a tensor over the processes; gradients, which are summed likewise, flow back."""
    return cast(Tensor, _AllReduce.apply(tensor))


class FullBatchLoss(nn.Module):
    """Wraps a model so that calling it gives the losses of the batch of all processes together.

    `grad_cache_chunk` texts and videos are encoded at a time (gradient cache; `None`: all), and again in the backward
    pass: the activations of one chunk are alive at once, and the gradient is that of the whole batch.
    """

    def __init__(self, model: GLCCLModel, grad_cache_chunk: int | None = None):
        super().__init__()
        self.model = model
        self.grad_cache_chunk = grad_cache_chunk

    def forward(
        self,
        input_ids: Tensor,
        pixel_values_videos: Tensor,
        attention_mask: Tensor | None = None,
        padding_mask_videos: Tensor | None = None,
    ) -> GLCCLOutput:
        """Losses of B = world_size * b pairs, of which this process holds b.

        Args:
            input_ids, attention_mask: [b, Nw] int64.
            pixel_values_videos: [b, Nf, 3, H, W]; Nf may differ between processes.
            padding_mask_videos: [b, Nf].

        Returns:
            The losses, the same values on every process. Backpropagate `loss`, and average gradients over processes.

        Raises:
            ValueError: the processes hold different numbers of pairs; what [`GLCCLModel`] raises.
        """
        model, csc_weight, variant = self.model, self.model.config.csc_weight, self.model.config.csc_variant
        text = self._encode(model.get_text_features, input_ids, attention_mask)
        video = self._encode(model.get_video_features, pixel_values_videos, padding_mask_videos)
        if len(text.words) != len(video.frames):
            raise ValueError(f"a batch needs one video per text; got {len(text.words)} and {len(video.frames)}")
        world_size = dist.get_world_size() if dist.is_initialized() else 1
        auxiliary = model.auxiliary_loss(text, video, average_over_processes)
        if world_size > 1:
            video = gather_videos(video)
        scores = model.get_scores(text, video)
        csc_scores = model.csc_inputs(scores) if csc_weight else None
        if world_size > 1:
            contrastive, csc = sharded_losses(scores.logits, csc_scores, variant)
        else:
            contrastive = contrastive_loss(scores.logits)
            csc = None if csc_scores is None else csc_loss(csc_scores, variant)
        loss = contrastive if csc is None else contrastive + csc_weight * csc
        if auxiliary is not None:
            loss = loss + auxiliary
        return GLCCLOutput(loss=loss, contrastive_loss=contrastive, csc_loss=csc, auxiliary_loss=auxiliary)

    def _encode(self, encode: Callable, values: Tensor, mask: Tensor | None):
        if self.grad_cache_chunk is None:
            return encode(values, mask)
        parts = values.split(self.grad_cache_chunk)
        masks = [None] * len(parts) if mask is None else mask.split(self.grad_cache_chunk)
        chunks = [checkpoint(encode, *chunk, use_reentrant=False) for chunk in zip(parts, masks, strict=True)]
        return chunks[0].concatenate(chunks)


def gather_videos(video: GLCCLVideoFeatures) -> GLCCLVideoFeatures:
    """The videos of all processes, in the order of their ranks, padded to the most slots; gradients flow back."""
    sizes = torch.tensor([value.shape[:2] for value in video.tensors().values()], device=video.frames.device)
    all_sizes = [torch.empty_like(sizes) for _ in range(dist.get_world_size())]
    dist.all_gather(all_sizes, sizes)
    counts, slots = torch.stack(all_sizes).unbind(dim=-1)
    counts = counts[:, 0].tolist()
    if len(set(counts)) > 1:
        raise ValueError(f"a process must hold as many pairs as the others; got {counts}: use drop_last=True")
    gathered, rank = {}, dist.get_rank()
    for (name, value), most in zip(video.tensors().items(), slots.amax(dim=0).tolist(), strict=True):
        # Each process fills in its rows and adds zeros elsewhere.
        rows = rank * len(value), (len(counts) - 1 - rank) * len(value)
        padding = *[0] * (2 * value.ndim - 3), most - value.shape[1], *rows
        gathered[name] = all_reduce(F.pad(value.to(torch.uint8) if name == "frame_mask" else value, padding))
    return type(video)(**gathered | {"frame_mask": gathered["frame_mask"].bool()})


def average_over_processes(mean: Tensor) -> Tensor:
    """The mean over the pairs of all processes of a tensor that is one over those of each; gradients flow back."""
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    return mean if world_size == 1 else all_reduce(mean) / world_size


def sharded_losses(logits: Tensor, scores: Tensor | None, variant: str = "paper") -> tuple[Tensor, Tensor | None]:
    """Contrastive and CSC loss of B x B scores of which every process holds its own b rows.

    `logits` [b, B] are the rows of this process, in the order of the ranks; `scores` [S, b, B] those behind them, or
    `None` without CSC. The gradients of what is returned, averaged over processes, are the true ones.
    """
    rows, columns = logits.shape
    own = torch.arange(rows, device=logits.device)
    target = own + dist.get_rank() * rows
    highest = logits.detach().amax(dim=0)
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    column_normaliser = highest + all_reduce((logits - highest).exp().sum(dim=0)).log()
    matching = logits[own, target]
    over_rows = logits.logsumexp(dim=1) - matching
    over_columns = column_normaliser[target] - matching
    contrastive = all_reduce((over_rows + over_columns).sum()) / (2 * columns)
    if scores is None:
        return contrastive, None
    matching, others = all_reduce(csc_sums(scores, target, variant))
    return contrastive, (matching / columns) / (others / columns**2)
