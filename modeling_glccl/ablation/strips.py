"""What a trained model retrieves: videos for captions, captions for videos."""

from dataclasses import dataclass

import numpy as np

from ..data.collate import video_inputs
from ..evaluation import EvaluationResult, evaluate
from ..evaluation.retrieval import RetrievedVideo, retrieve
from ..processing_glccl import GLCCLProcessor
from ..training.loop import load_splits
from .analysis import FeatureRecorder, open_model
from .grid import Run

BEST = 5


@dataclass
class CaptionedVideo:
    """A video with its best captions, best first.

    Args:
        frames: [Nf, H, W, 3] uint8.
        captions: rank, text, score, and whether it is one of the video's own; the best of its own stands last where
            it is not among the best.
    """

    frames: np.ndarray
    captions: list[tuple[int, str, float, bool]]


def retrieve_both_ways(
    run: Run, queries: int
) -> tuple[dict[str, list[RetrievedVideo]], list[int], list[CaptionedVideo]]:
    """What some captions and some videos, evenly spaced over the test split, retrieve.

    Args:
        run: a trained one.
        queries: captions, and videos.

    Returns:
        The five best videos of each caption, the ranks of the captions' own videos, and the videos with their best
        captions.
    """
    dataset = load_splits(run.recipe)["test"]
    model, processor = open_model(run)
    recorder = FeatureRecorder(model, run.precision)
    result = evaluate(recorder, processor, dataset, batch_size=run.recipe.train.eval_batch_size, progress=False)
    captions = np.linspace(0, len(result.captions) - 1, queries, dtype=int)
    # Other videos than those of the captions.
    videos = (
        np.linspace(0, len(result.video_ids), queries, endpoint=False) + len(result.video_ids) / queries / 2
    ).astype(int)
    found = [
        captioned(result, int(video), read_frames(processor, dataset[int(result.video_rows[video])]))
        for video in videos
    ]
    ranks = result.ranks["t2v"][captions].tolist()
    return retrieve(model, processor, dataset, result, captions, k=BEST), ranks, found


def captioned(result: EvaluationResult, video: int, frames: np.ndarray) -> CaptionedVideo:
    """A video with its best captions and, behind them if need be, the best of its own."""
    scores = result.similarity[:, video]
    order = np.argsort(-scores, kind="stable")
    own = np.flatnonzero(result.video_index[order] == video)[:1]
    shown = [*range(min(BEST, len(order))), *own[own >= BEST].tolist()]
    captions = [
        (
            rank + 1,
            result.captions[order[rank]],
            float(scores[order[rank]]),
            bool(result.video_index[order[rank]] == video),
        )
        for rank in shown
    ]
    return CaptionedVideo(frames, captions)


def read_frames(processor: GLCCLProcessor, row: dict) -> np.ndarray:
    """The frames of a row's video as the model sees them, [Nf, H, W, 3] uint8."""
    inputs = video_inputs(processor, [row])
    settings = processor.video_processor
    real = inputs["padding_mask_videos"][0].bool().numpy()
    pixels = inputs["pixel_values_videos"][0].movedim(1, -1).numpy()[real]
    pixels = pixels * np.array(settings.image_std, "float32") + np.array(settings.image_mean, "float32")
    return (pixels.clip(0, 1) * 255).round().astype("uint8")
