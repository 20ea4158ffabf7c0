"""`glccl evaluate`: a checkpoint on a benchmark, from loading to a table, results.json and a picture."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from rich.console import Console

from .. import peers
from ..configuration_glccl import GLCCLConfig
from ..data import load_benchmark
from ..environment import describe_environment
from ..modeling_glccl import GLCCLModel
from ..processing_glccl import GLCCLProcessor
from .evaluator import evaluate
from .report import metrics_table, plot_retrievals, retrieval_tables
from .retrieval import retrieve


def evaluate_checkpoint(
    checkpoint: str,
    benchmark: str,
    split: str = "test",
    *,
    precision: str = "fp32",
    batch_size: int = 32,
    num_workers: int = 0,
    queries: int = 0,
    output_dir: Path | None = None,
    **options: Any,
) -> dict[str, Any] | None:
    """Evaluates a checkpoint and prints a table; runs on one process or, under `accelerate launch`, on several.

    Args:
        checkpoint: folder or Hub repository of model and processor.
        benchmark: name for [`load_benchmark`].
        split: of the benchmark.
        precision: "fp32", or the autocast "bf16" or "fp16".
        batch_size: videos encoded at a time.
        num_workers: processes that decode videos.
        queries: shows what so many captions, evenly spaced over the split, retrieve.
        output_dir: folder for results.json and, with `queries`, retrieved.png.
        **options: further arguments of [`load_benchmark`].

    Returns:
        The content of results.json on the main process, None on the others.
    """
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
    # One process renders or downloads; the others find it done.
    with accelerator.main_process_first():
        dataset = load_benchmark(benchmark, split=split, **options)
    model = load_model(checkpoint).to(accelerator.device)
    processor = GLCCLProcessor.from_pretrained(checkpoint)
    result = evaluate(
        model, processor, dataset, accelerator=accelerator, batch_size=batch_size, num_workers=num_workers
    )
    accelerator.end_training()
    if not accelerator.is_main_process:
        return None

    results = {
        "checkpoint": checkpoint,
        "model": type(model).__name__,
        "benchmark": benchmark,
        "split": split,
        "captions": len(result.captions),
        "videos": len(result.video_ids),
        "metrics": result.metrics,
        "precision": precision,
        "processes": accelerator.num_processes,
        "seconds": result.seconds,
        **describe_environment(),
    }
    console = Console()
    title = f"{benchmark} {split}: {results['captions']} captions, {results['videos']} videos"
    console.print(metrics_table({checkpoint: result.metrics}, title))
    if output_dir:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if queries:
        spaced = np.linspace(0, len(result.captions) - 1, queries, dtype=int)
        retrieved = retrieve(model, processor, dataset, result, spaced)
        console.print(retrieval_tables(retrieved))
        if output_dir:
            plot_retrievals(retrieved).savefig(output_dir / "retrieved.png")
    return results


def load_model(checkpoint: str) -> GLCCLModel:
    """The model of a checkpoint, of the class that it was saved from: GLCCL or one of the peers."""
    (architecture,) = GLCCLConfig.from_pretrained(checkpoint).architectures or ("GLCCLModel",)
    classes = {"GLCCLModel": GLCCLModel} | {name: getattr(peers, name) for name in peers.__all__}
    if architecture not in classes:
        raise ValueError(f"{checkpoint} is a {architecture}; known are {', '.join(classes)}")
    return classes[architecture].from_pretrained(checkpoint)
