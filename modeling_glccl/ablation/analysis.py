"""What the report needs of one trained model beyond its test metrics."""

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import normalize
from transformers.utils import ModelOutput

from ..checkpoints import load_checkpoint
from ..data.collate import video_inputs
from ..data.shapes import relevant_frames
from ..evaluation import EvaluationResult, average_precision, evaluate, retrieval_metrics, twin_accuracy
from ..evaluation.run import override_settings
from ..modeling_glccl import GLCCLModel
from ..peers.heads import FOUR_SCORES
from ..processing_glccl import GLCCLProcessor
from ..training.loop import load_splits
from .grid import GridRecipe, Run

# Frame weights are made for all pairs of so many texts and videos, of which the matching ones are kept.
PAIRS = 16


class FeatureRecorder:
    """A model for [`evaluate`] that keeps the features it scores and, of heads with several scores, all of them.

    Args:
        model: encodes and scores.
        precision: "fp32", or the autocast "bf16" or "fp16" in which it encodes.
    """

    def __init__(self, model: GLCCLModel, precision: str):
        self.model, self.precision, self.videos = model, precision, None
        self.texts: list[ModelOutput] = []
        self.scores: list[dict[str, np.ndarray]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def get_text_features(self, **inputs: Tensor) -> ModelOutput:
        """As the model's."""
        with self._autocast():
            return self.model.get_text_features(**inputs)

    def get_video_features(self, **inputs: Tensor) -> ModelOutput:
        """As the model's."""
        with self._autocast():
            return self.model.get_video_features(**inputs)

    def similarity(self, text: ModelOutput, video: ModelOutput) -> Tensor:
        """As the model's."""
        scores = self.model.get_scores(text, video)
        self.texts.append(text)
        self.videos = video
        self.scores.append({name: values.cpu().numpy() for name, values in scores.items()})
        return scores.logits

    def all_scores(self) -> dict[str, np.ndarray]:
        """[A, V] logits of each score of the head."""
        return {name: np.concatenate([block[name] for block in self.scores]) for name in self.scores[0]}

    def _autocast(self) -> torch.autocast:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return torch.autocast(self.model.device.type, dtype, enabled=dtype is not None)


def analysis_settings(grid: GridRecipe, variant: str) -> dict[str, Any]:
    """What of a grid changes the analysis of a variant's runs."""
    return {"frame_counts": grid.frame_counts if variant in grid.length_variants else []}


def analyse(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    """Tests the model of a run once more and looks closer.

    Args:
        run: a trained one.
        settings: of [`analysis_settings`].

    Returns:
        Values that JSON can hold: `settings`, `parameters`, `ranks` (both directions), `scores` (of each caption with
        its video and with the best other one, without exp(logit_scale); for heads with four scores also their standard
        deviations, and `single_scores`, the metrics of each score without the others), `by_frames` and, of the shapes
        benchmark, `twins` and `frame_precision`.
    """
    dataset = load_splits(run.recipe)["test"]
    model, processor = open_model(run)
    recorder = FeatureRecorder(model, run.precision)
    result = evaluate(recorder, processor, dataset, batch_size=run.recipe.train.eval_batch_size, progress=False)
    analysis = {
        "settings": settings,
        "parameters": count_parameters(model),
        "ranks": {direction: ranks.tolist() for direction, ranks in result.ranks.items()},
    }
    scores = recorder.all_scores() if run.recipe.model.head in FOUR_SCORES else {}
    analysis["scores"] = pair_scores(result, float(model.clip.logit_scale.detach().exp()), scores)
    if scores:
        analysis["single_scores"] = {
            name: retrieval_metrics(values, result.video_index) for name, values in scores.items()
        }
    if "twin_group" in dataset.column_names:
        groups = np.array(dataset["twin_group"])[result.video_rows]
        analysis["twins"] = twin_accuracy(result.similarity, result.video_index, groups)
    if "caption_events" in dataset.column_names:
        analysis["frame_precision"] = frame_precision(model, processor, dataset, result, recorder)
    analysis["by_frames"] = [
        {"max_frames": count, **with_frames(run, model, processor, dataset, count)}
        for count in settings["frame_counts"]
    ]
    return analysis


def open_model(run: Run) -> tuple[GLCCLModel, GLCCLProcessor]:
    """The model of a trained run, on the GPU if there is one, and its processor."""
    model, processor = load_checkpoint(run.model_folder)
    model.set_attn_implementation(run.recipe.model.attn_implementation)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model, processor


def count_parameters(model: GLCCLModel) -> dict[str, int]:
    """Trained numbers in all, and those that CLIP does not have."""
    total, clip = (
        sum(weight.numel() for weight in part.parameters() if weight.requires_grad) for part in (model, model.clip)
    )
    return {"total": total, "beside CLIP": total - clip}


def pair_scores(result: EvaluationResult, scale: float, scores: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """For each caption, the score of its video and of the best other video, and the spread of several scores of both.

    Args:
        result: of the evaluation.
        scale: exp(logit_scale), which is divided out.
        scores: [A, V] logits of each of the head's scores, or nothing where it has one.
    """
    captions = np.arange(len(result.captions))
    others = result.similarity.copy()
    others[captions, result.video_index] = -np.inf
    columns = {"positive": result.video_index, "hard negative": others.argmax(axis=1)}
    found = {name: result.similarity[captions, column] / scale for name, column in columns.items()}
    if scores:
        spread = np.std(list(scores.values()), axis=0, ddof=1) / scale
        found |= {f"{name} spread": spread[captions, column] for name, column in columns.items()}
    return {name: values.astype(float).round(5).tolist() for name, values in found.items()}


@torch.inference_mode()
def frame_precision(
    model: GLCCLModel,
    processor: GLCCLProcessor,
    dataset: Dataset,
    result: EvaluationResult,
    recorder: FeatureRecorder,
) -> dict[str, float]:
    """Mean average precision over captions, in percent, of finding the frames that each is about in its video.

    Returns:
        "weights": of the model's frame weights for the sentence; "cosine": of the cosine of sentence and frame;
        "random": of any order, which is that of equal weights.
    """
    times = [
        metadata["timestamps"]
        for start in range(0, len(result.video_rows), PAIRS)
        for metadata in video_inputs(
            processor,
            [dataset[int(row)] for row in result.video_rows[start : start + PAIRS]],
            return_metadata=True,
        )["video_metadata"]
    ]
    precisions: dict[str, list[float]] = {"weights": [], "cosine": [], "random": []}
    caption = 0
    for block in recorder.texts:
        for start in range(0, len(block.sentence), PAIRS):
            text = select(block, slice(start, start + PAIRS))
            own = result.video_index[caption : caption + len(text.sentence)]
            video = select(recorder.videos, own)
            all_pairs = model.frame_weights(text, video).sentence
            matching = torch.arange(len(own))
            weights = all_pairs[matching, matching].numpy(force=True)
            cosines = torch.einsum(
                "ad,amd->am", normalize(text.sentence, dim=-1), normalize(video.frames, dim=-1)
            ).numpy(force=True)
            for position, column in enumerate(own):
                row = dataset[int(result.caption_rows[caption + position])]
                relevant = relevant_frames(times[column], row["events"], row["caption_events"])
                count = len(relevant)
                precisions["weights"].append(average_precision(weights[position, :count], relevant))
                precisions["cosine"].append(average_precision(cosines[position, :count], relevant))
                precisions["random"].append(average_precision(np.zeros(count), relevant))
            caption += len(own)
    return {name: float(100 * np.mean(values)) for name, values in precisions.items()}


def select(features: ModelOutput, rows: Any) -> ModelOutput:
    """Some rows of features, in float32."""
    return type(features)(
        **{
            name: values[rows].float() if values.is_floating_point() else values[rows]
            for name, values in features.items()
        }
    )


def with_frames(
    run: Run, model: GLCCLModel, processor: GLCCLProcessor, dataset: Dataset, count: int
) -> dict[str, Any]:
    """`metrics` with at most so many frames of each video, and the `frames` that the videos had on average."""
    override_settings(model, processor, max_frames=count)
    recorder = FeatureRecorder(model, run.precision)
    result = evaluate(recorder, processor, dataset, batch_size=run.recipe.train.eval_batch_size, progress=False)
    frames = recorder.videos.frame_mask.sum(dim=1).float().mean()
    return {"frames": float(frames), "metrics": result.metrics}
