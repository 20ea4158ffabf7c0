"""What a model retrieves for single captions, with the frames it saw and how much each counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data.collate import video_inputs
from ..data.shapes import relevant_frames
from .evaluator import EvaluationResult

if TYPE_CHECKING:
    from datasets import Dataset

    from ..modeling_glccl import GLCCLModel
    from ..processing_glccl import GLCCLProcessor


@dataclass
class RetrievedVideo:
    """One retrieved video, its frames in the order in which the model saw them."""

    video_id: str
    score: float  # logit of query and video
    frames: np.ndarray  # [Nf, H, W, 3] uint8 RGB
    frame_weights: np.ndarray  # [Nf] float32, how much each frame counts for the query's sentence; they sum to 1
    correct: bool  # whether it is the video that the query describes
    described: np.ndarray | None  # [Nf] bool, the frames that the query is about; None where the dataset does not tell


@torch.inference_mode()
def retrieve(
    model: GLCCLModel,
    processor: GLCCLProcessor,
    dataset: Dataset,
    result: EvaluationResult,
    queries: Iterable[int],
    top_k: int = 5,
) -> dict[str, list[RetrievedVideo]]:
    """The `top_k` best videos of some captions, positions in `result.captions`, best first.

    `model`, in evaluation mode, `processor` and `dataset` are those whose `result` [`evaluate`] returned on the main
    process. Where the dataset has columns `events` (with `start` and `end` in seconds) and `caption_events` (which of
    them the caption is about), the described frames are marked.
    """
    settings = processor.video_processor
    mean, std = (np.array(values, "float32") for values in (settings.image_mean, settings.image_std))
    assert result.similarity is not None, "only the main process has the scores"
    retrieved = {}
    for query in queries:
        caption, row = result.captions[query], dataset[int(result.caption_rows[query])]
        best = np.argsort(-result.similarity[query], kind="stable")[:top_k]
        rows = [dataset[int(result.video_rows[video])] for video in best]
        videos = video_inputs(processor, rows, return_metadata=True)
        timestamps = [metadata["timestamps"] for metadata in videos.pop("video_metadata")]
        text = model.get_text_features(**processor(text=[caption], return_tensors="pt").to(model.device))
        weights = model.frame_weights(text, model.get_video_features(**videos.to(model.device))).sentence[0]
        pixels = videos["pixel_values_videos"].movedim(2, -1).cpu().numpy() * std + mean
        retrieved[caption] = []
        for position, video in enumerate(best):
            real = videos["padding_mask_videos"][position].bool().cpu().numpy()
            correct, described = bool(video == result.video_index[query]), None
            if correct and "caption_events" in row and timestamps[position] is not None:
                described = relevant_frames(timestamps[position], row["events"], row["caption_events"])
            retrieved[caption].append(
                RetrievedVideo(
                    video_id=result.video_ids[video],
                    score=float(result.similarity[query, video]),
                    frames=(pixels[position, real].clip(0, 1) * 255).round().astype("uint8"),
                    frame_weights=weights[position].float().cpu().numpy()[real],
                    correct=correct,
                    described=described,
                )
            )
    return retrieved
