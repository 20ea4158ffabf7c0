"""Evaluation of a model on a text-video dataset: encode everything once, score in blocks, on one or many processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.utils.generic import ModelOutput

from ..data.collate import part_quietly, video_inputs
from .metrics import retrieval_ranks, summarize_ranks
from .post_processing import QueryBank

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

    from ..modeling_glccl import GLCCLModel
    from ..processing_glccl import GLCCLProcessor

ItemT = TypeVar("ItemT")
# Texts are shorter than videos and far cheaper, so more of them make a batch.
TEXTS_PER_VIDEO = 8


@dataclass
class EvaluationResult:
    """What [`evaluate`] found for A captions and V distinct videos.

    Args:
        metrics: {"t2v": {"R@1", "R@5", "R@10", "MdR", "MnR"}, "v2t": {...}}.
        video_ids: V strings, in the order of their first row.
        video_rows: [V] int64, the first row of each video in the dataset.
        captions: A strings, in the order of the rows.
        caption_rows: [A] int64, the row of each caption in the dataset.
        video_index: [A] int64, the position of each caption's video in `video_ids`.
        seconds: wall time of "videos" (decode and encode), "texts" (encode and score) and the "query bank", if any.
        similarity: [A, V] float32 logits; on the main process only.
        ranks: {"t2v": [A], "v2t": [videos with captions]} int64, 1 = best; on the main process only.
        query_bank: for [`qb_norm`], with `query_bank` captions; on the main process only.
        also: {name: [A, V]} logits of the other scores that were asked for; on the main process only.
    """

    metrics: dict[str, dict[str, float]]
    video_ids: list[str]
    video_rows: np.ndarray
    captions: list[str]
    caption_rows: np.ndarray
    video_index: np.ndarray
    seconds: dict[str, float]
    similarity: np.ndarray | None = None
    ranks: dict[str, np.ndarray] | None = None
    query_bank: QueryBank | None = None
    also: dict[str, np.ndarray] = field(default_factory=dict)


def evaluate(
    model: GLCCLModel,
    processor: GLCCLProcessor,
    dataset: Dataset,
    *,
    accelerator: Accelerator | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: bool = True,
    query_bank: Sequence[str] = (),
    beta: float = 20.0,
    also: Mapping[str, Callable[[ModelOutput, ModelOutput], Tensor]] | None = None,
) -> EvaluationResult:
    """Scores every caption of a dataset against every distinct video of it.

    Each video and each text is encoded once. Every process encodes a slice of the videos and receives the features of
    all, then encodes a slice of the texts and scores them against all videos. Memory: 4 V Nf D bytes of frame features
    on the CPU of every process and on its device; on the main process 4 A V bytes of scores.

    Args:
        model: leaves in the mode (training or evaluation) in which it came.
        processor: turns texts and videos into its inputs.
        dataset: columns `video_id`, `caption` (or `captions`, lists; none for a video that is only a distractor),
            `video` (whatever the processor takes) and, where only a part of a video counts, `start` and `end`.
        accelerator: for several processes or mixed precision.
        batch_size: videos encoded at a time.
        num_workers: processes that decode videos; with 0 this one does.
        progress: shows progress bars, on the main process.
        query_bank: captions of other videos, usually of the training split, that are scored against the videos for
            [`qb_norm`]. Metrics and ranks do not depend on them.
        beta: inverse temperature of the bank for cosines; it is divided by the model's exp(logit_scale), for logits.
        also: other scores [a, V] or [a, ..., V] of the same features, by name: baselines that cost no encoding.

    Raises:
        ValueError: a missing column, no caption, a caption that is not a string, or features that are not finite.
    """
    index = read_captions(dataset)
    _, video_rows, captions, _, video_index = index
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    autocast = accelerator.autocast if accelerator else nullcontext
    model = accelerator.unwrap_model(model) if accelerator else model
    in_terminal = sys.stderr.isatty()  # where a bar can be taken away again
    bar = partial(tqdm, disable=not progress or rank > 0, leave=not in_terminal)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            started = time.perf_counter()
            own_videos = dataset.select(np.array_split(video_rows, world)[rank])
            loader = DataLoader(
                own_videos,  # pyright: ignore[reportArgumentType]
                batch_size,
                collate_fn=partial(video_inputs, processor),
                num_workers=num_workers,
                worker_init_fn=part_quietly,
            )
            features = []
            for batch in bar(loader, desc="videos", unit="batch"):
                with autocast():
                    encoded = model.get_video_features(**_inputs(batch, model))
                features.append(encoded.to("cpu", torch.float32))
            videos = model.video_features_class.concatenate(_gather(features, accelerator)).to(model.device)
            seconds = {"videos": time.perf_counter() - started}

            def scores(texts: Sequence[str], name: str, functions: Sequence[Callable]) -> Iterator[list[np.ndarray]]:
                """What each function makes of this process's slice of the texts and all videos, [a, V] float32."""
                own: list[int] = np.array_split(np.arange(len(texts)), world)[rank].tolist()
                step = TEXTS_PER_VIDEO * batch_size
                for start in bar(range(0, len(own), step), desc=name, unit="batch"):
                    inputs = processor(text=[texts[text] for text in own[start : start + step]], return_tensors="pt")
                    with autocast():
                        text = model.get_text_features(**_inputs(inputs, model))
                    yield [function(text, videos).float().cpu().numpy() for function in functions]

            started = time.perf_counter()
            functions = [model.similarity, *(also or {}).values()]
            blocks = _gather([*scores(captions, "texts", functions)], accelerator, everywhere=False)
            seconds["texts"] = time.perf_counter() - started

            bank = None
            if query_bank:
                started = time.perf_counter()
                logit_beta = beta / model.clip.logit_scale.exp().item()
                bank_scores = scores(query_bank, "query bank", [model.similarity])
                banks = [QueryBank.from_similarity(rows, logit_beta) for (rows,) in bank_scores]
                bank = reduce(QueryBank.merge, _gather(banks, accelerator))
                seconds["query bank"] = time.perf_counter() - started
    finally:
        model.train(was_training)

    if rank > 0:
        (metrics,) = _gather([], accelerator)
        return EvaluationResult(metrics, *index, seconds)
    similarity, *others = map(np.concatenate, zip(*blocks, strict=True))
    ranks = retrieval_ranks(similarity, video_index)
    (metrics,) = _gather([{way: summarize_ranks(values) for way, values in ranks.items()}], accelerator)
    named = dict(zip(also or {}, others, strict=True))
    return EvaluationResult(metrics, *index, seconds, similarity, ranks, bank, named)


def read_captions(dataset: Dataset) -> tuple[list[str], np.ndarray, list[str], np.ndarray, np.ndarray]:
    """The distinct videos and all captions: video_ids, video_rows, captions, caption_rows, video_index."""
    several = "captions" in dataset.column_names
    for column in ("video_id", "captions" if several else "caption"):
        if column not in dataset.column_names:
            raise ValueError(f"the dataset has no column {column!r}; its columns are {dataset.column_names}")
    position, video_rows, captions, caption_rows, video_index = {}, [], [], [], []
    texts = dataset["captions"] if several else ([caption] for caption in dataset["caption"])
    for row, (video_id, row_captions) in enumerate(zip(dataset["video_id"], texts, strict=True)):
        if video_id not in position:
            position[video_id] = len(position)
            video_rows.append(row)
        for caption in row_captions or ():
            if caption is None:
                continue
            if not isinstance(caption, str):
                raise ValueError(f"row {row} (video {video_id}): the caption must be a string; got {caption!r}")
            captions.append(caption)
            caption_rows.append(row)
            video_index.append(position[video_id])
    if not captions:
        raise ValueError(f"the dataset has {len(position)} videos and no caption: nothing to evaluate")
    return list(position), np.array(video_rows), captions, np.array(caption_rows), np.array(video_index)


def _inputs(batch: Mapping[str, Tensor], model: GLCCLModel) -> dict[str, Any]:
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def _gather(items: list[ItemT], accelerator: Accelerator | None, everywhere: bool = True) -> list[ItemT]:
    """The items of all processes, in their order, on every process, or all on the main one and none on the others."""
    if accelerator is None or accelerator.num_processes == 1:
        return items
    parts = [[] for _ in range(accelerator.num_processes)]
    if everywhere:
        dist.all_gather_object(parts, items)
    else:
        dist.gather_object(items, parts if accelerator.is_main_process else None)
    return [item for part in parts for item in part]
