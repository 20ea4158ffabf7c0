"""`glccl calibrate`: what makes a confidence of the scores of a search, fitted and kept in the checkpoint."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..atomic import write_whole
from ..checkpoints import check_checkpoint, load_checkpoint, place
from ..confidence import fit_confidence
from ..configuration_glccl import GLCCLConfig
from ..data import load_benchmark
from ..modeling_glccl import GLCCLModel
from ..processing_glccl import GLCCLProcessor
from .evaluator import EvaluationResult, evaluate


def score_captions(
    model: GLCCLModel, processor: GLCCLProcessor, dataset: Any, **options: Any
) -> tuple[EvaluationResult, np.ndarray, np.ndarray]:
    """The evaluation of a dataset, its four scores [4, A, V], and a group for each video [V].

    Arguments are [`evaluate`]'s. Videos of one group are twins: by a column `twin_group`, otherwise no two are.
    """
    # [a, 4, V], in the order of `SCORE_NAMES`
    also = {"all": lambda text, video: torch.stack(model.get_scores(text, video).to_tuple(), dim=1)}
    result = evaluate(model, processor, dataset, also=also, **options)
    groups = np.arange(len(result.video_ids))
    if "twin_group" in dataset.column_names:
        groups = np.array(dataset["twin_group"])[result.video_rows]
    return result, result.also["all"].swapaxes(0, 1), groups


def calibrate_checkpoint(
    checkpoint: str | Path,
    benchmark: str,
    split: str = "validation",
    *,
    batch_size: int = 32,
    num_workers: int = 0,
    **options: Any,
) -> list[float]:
    """Fits `confidence_weights` to captions that were not trained on, and writes them into the config.json.

    ValueError: no folder of a GLCCL model; the configuration of a plain CLIP has no place for them.
    """
    file = Path(checkpoint) / "config.json"
    if check_checkpoint(checkpoint) != GLCCLConfig.model_type or not file.exists():
        raise ValueError(
            f"{checkpoint}: what is calibrated is a folder with a GLCCL model (save_pretrained makes one of a plain "
            "CLIP, too)"
        )
    dataset = load_benchmark(benchmark, split=split, **options)
    model, processor = load_checkpoint(checkpoint)
    place(model, precision="fp32")
    result, scores, groups = score_captions(model, processor, dataset, batch_size=batch_size, num_workers=num_workers)
    weights = fit_confidence(scores, result.video_index, groups)
    config = json.loads(file.read_text(encoding="utf-8")) | {"confidence_weights": weights}
    write_whole(file, f"{json.dumps(config, indent=2, sort_keys=True)}\n".encode())
    print(f"{file}: confidence_weights {weights}, from {len(result.captions)} captions of {benchmark} {split}")
    return weights
