"""`glccl evaluate`: a checkpoint on a benchmark, from loading to a table, results.json, ranks.parquet and pictures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from rich.console import Console

from ..checkpoints import check_checkpoint, load_checkpoint
from ..data import load_benchmark
from ..environment import describe_environment, resolve_precision
from ..modeling_glccl import GLCCLModel
from ..peers import CLIP4ClipModel
from ..processes import make_accelerator
from ..processing_glccl import GLCCLProcessor
from ..runtime import with_runtime
from .evaluator import EvaluationResult, evaluate, read_captions
from .metrics import RankedQueries, bootstrap_intervals, cmc_curve, retrieval_queries, summarize_ranks
from .post_processing import POST_PROCESSING, dual_softmax, qb_norm
from .retrieved_videos import retrieve
from .tables_and_plots import metrics_table, plot_cmc, plot_retrievals, retrieval_tables

BOOTSTRAP = {"resamples": 1000, "seed": 0}
# QB-Norm's inverse temperature on the scale of cosines, that of its authors.
BETA = 20.0


def evaluate_checkpoint(
    checkpoint: str,
    benchmark: str,
    split: str = "test",
    *,
    max_frames: int | None = None,
    max_words: int | None = None,
    mask_padding: bool | None = None,
    post_processing: str | None = None,
    confidence: float | None = None,
    device: str = "auto",
    precision: str = "fp32",
    runtime: str | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    queries: int = 0,
    output_dir: Path | None = None,
    **options: Any,
) -> dict[str, Any] | None:
    """Evaluates a checkpoint and prints a table; runs on one process or, under a launcher, on several.

    Args (`glccl evaluate --help` explains the others):
        post_processing: "qb_norm" (its bank: the captions of the split "train") or "dual_softmax"; the plain metrics
            are reported beside the post-processed ones.
        precision: of the autocast. Others than fp32 change a few ranks, and published results are of fp32.
        runtime: what encodes frames and texts, see [`~runtime.with_runtime`]; torch by default.
        queries: so many captions, evenly spaced over the split (without post-processing).
        output_dir: folder for results.json, ranks.parquet, cmc.png and, with `queries`, retrieved.png.
        **options: further arguments of [`load_benchmark`].

    Returns the content of results.json on the main process, None on the others. Raises ValueError for a value that
    does not fit the checkpoint, an unknown post-processing, or no training captions.
    """
    if post_processing not in (None, *POST_PROCESSING):
        raise ValueError(f"post_processing={post_processing!r} must be one of {', '.join(POST_PROCESSING)}")
    if confidence is not None and not 0 < confidence < 100:
        raise ValueError(f"confidence={confidence} must lie between 0 and 100 percent, such as 95")
    check_checkpoint(checkpoint)  # before anything is rendered
    precision = resolve_precision(precision, device)
    accelerator = make_accelerator(precision, device)
    # One process renders or downloads; the others find it done.
    with accelerator.main_process_first():
        dataset = load_benchmark(benchmark, split=split, **options)
        bank = []  # every training caption, as often as it is there
        if post_processing == "qb_norm":
            bank = read_captions(load_benchmark(benchmark, split="train", **{**options, "with_videos": False}))[2]
    model, processor = load_checkpoint(checkpoint)
    model = with_runtime(model.to(accelerator.device), runtime or "torch")
    override_settings(model, processor, max_frames, max_words, mask_padding)
    result = evaluate(
        model,
        processor,
        dataset,
        accelerator=accelerator,
        batch_size=batch_size,
        num_workers=num_workers,
        query_bank=bank,
        beta=BETA,
        also=baselines(model),
    )
    accelerator.end_training()
    if not accelerator.is_main_process:
        return None

    assert result.similarity is not None
    ranked = {"none": retrieval_queries(result.similarity, result.video_index)}
    if post_processing:
        # QB-Norm has a bank of captions, and so text-to-video alone.
        bank = result.query_bank
        scores = {"t2v": qb_norm(result.similarity, bank)} if bank else dual_softmax(result.similarity)
        ranked[post_processing] = {
            way: retrieval_queries(matrix, result.video_index)[way] for way, matrix in scores.items()
        }
    ranked |= {name: retrieval_queries(matrix, result.video_index) for name, matrix in result.also.items()}
    summaries = {name: summarize(directions, confidence) for name, directions in ranked.items()}
    results = {
        "checkpoint": checkpoint,
        "model": type(model).__name__,
        "benchmark": benchmark,
        "split": split,
        "protocol": dataset.info.description,
        "captions": len(result.captions),
        "videos": len(result.video_ids),
        **summaries["none"],
        "ties": "worst rank",
        "post_processing": None,
        "settings": {
            "max_frames": processor.video_processor.max_frames,
            "max_words": processor.max_words,
            "mask_padding": processor.mask_padding,
            "sampling": processor.video_processor.sampling,
            "image_size": processor.video_processor.crop_size,
            "batch_size": batch_size,
            "num_workers": num_workers,
            "benchmark_options": {
                name: value if isinstance(value, int | float | str | dict) else str(value)
                for name, value in options.items()
                if value is not None
            },
        },
        "precision": precision,
        "runtime": runtime or "torch",
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "seconds": result.seconds,
        **describe_environment(),
    }
    if model.config.zero_shot:
        results["glim_temperature"] = model.config.glim_temperature
    if result.also:
        results["baselines"] = {name: summaries[name] for name in result.also}
    if post_processing:
        results["post_processing"] = {"name": post_processing, **summaries[post_processing]}
    if result.query_bank:
        activated = int(result.query_bank.activated.sum())
        results["post_processing"] |= {"beta": BETA, "bank_captions": result.query_bank.size, "activated": activated}
    trained = " (zero-shot)" if model.config.zero_shot else ""
    labels = {name: f"+ {POST_PROCESSING[name]}" if name in POST_PROCESSING else name for name in ranked}
    labels["none"] = f"{checkpoint}{trained}"
    title = f"{benchmark} {split}: {len(result.captions)} captions, {len(result.video_ids)} videos"
    intervals = None
    if confidence is not None:
        title += f"; from, to: {confidence:g} % bootstrap interval"
        intervals = {labels[name]: summary["confidence"]["intervals"] for name, summary in summaries.items()}
    metrics = {labels[name]: summary["metrics"] for name, summary in summaries.items()}
    Console().print(metrics_table(metrics, title, intervals))
    if output_dir:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        table = rank_table(result, {name: ranks for name, ranks in ranked.items() if name not in result.also})
        pyarrow.parquet.write_table(table, output_dir / "ranks.parquet")
        curves = {
            labels[name]: {way: cmc_curve(asked.ranks(), len(asked.videos)) for way, asked in directions.items()}
            for name, directions in ranked.items()
        }
        plot_cmc(curves).savefig(output_dir / "cmc.png")
    if queries:
        spaced = np.linspace(0, len(result.captions) - 1, queries, dtype=int)
        retrieved = retrieve(model, processor, dataset, result, spaced)
        Console().print(retrieval_tables(retrieved))
        if output_dir:
            plot_retrievals(retrieved).savefig(output_dir / "retrieved.png")
    return results


def baselines(model: GLCCLModel) -> dict[str, Any]:
    """What is reported beside a zero-shot model: mean pooling, which is how CLIP is used without GLCCL."""
    if not model.config.zero_shot:
        return {}
    pooling = CLIP4ClipModel.interaction_class(model.config)
    return {"mean pooling": lambda text, video: pooling(text, video, model.clip.logit_scale).logits}


def override_settings(
    model: GLCCLModel,
    processor: GLCCLProcessor,
    max_frames: int | None = None,
    max_words: int | None = None,
    mask_padding: bool | None = None,
) -> None:
    """Evaluates with other counts than those of the training, as a benchmark of longer videos or texts may ask for.

    Model and processor are changed in place; what is None stays as it is. Raises ValueError for counts that the
    position table and the learned matrices do not allow.
    """
    config = model.config
    if mask_padding is not None:
        config.mask_padding = processor.mask_padding = mask_padding
    if max_frames is not None:
        if not 1 <= max_frames <= config.max_positions:
            raise ValueError(f"max_frames={max_frames} must lie in 1..{config.max_positions}, the frame positions")
        processor.video_processor.max_frames = max_frames
    if max_words is not None:
        if not 3 <= max_words <= (most := config.max_words):
            raise ValueError(f"max_words={max_words} must lie in 3..{most}: the learned matrices have no more rows")
        processor.max_words = max_words
    if not config.mask_padding and processor.max_words != config.max_words:
        raise ValueError(
            f"max_words={processor.max_words} needs mask_padding: else padding is scored too, and texts have exactly "
            f"the checkpoint's {config.max_words} slots"
        )


def summarize(directions: Mapping[str, RankedQueries], confidence: float | None) -> dict[str, Any]:
    """`metrics` by direction and, if asked for, `confidence` with the intervals and how they were drawn."""
    ranks = {way: queries.ranks() for way, queries in directions.items()}
    summary: dict[str, Any] = {"metrics": {way: summarize_ranks(values) for way, values in ranks.items()}}
    if confidence is not None:
        drawn = {"level": confidence, "method": "percentile bootstrap over queries", **BOOTSTRAP}
        intervals = {way: bootstrap_intervals(values, confidence, **BOOTSTRAP) for way, values in ranks.items()}
        summary["confidence"] = {**drawn, "intervals": intervals}
    return summary


def rank_table(result: EvaluationResult, queries: Mapping[str, Mapping[str, RankedQueries]]) -> pa.Table:
    """One row per query, the columns of docs/evaluation.md; `queries` by post-processing, or "none", and direction.

    A rank is the worst among ties. What came first is, in "v2t", the video whose caption did; it is `video_id` exactly
    where `rank` is 1.
    """
    video_ids = np.array(result.video_ids, dtype=object)
    parts = []
    for name, directions in queries.items():
        for direction, ranked in directions.items():
            count, top1 = len(ranked.target), ranked.top1()
            right = ranked.videos[ranked.target]
            rows, captions = result.video_rows[right], [None] * count
            if direction == "t2v":
                rows, captions = result.caption_rows, result.captions
            columns = {
                "post_processing": [name] * count,
                "direction": [direction] * count,
                "query": np.arange(count),
                "row": rows,
                "caption": captions,
                "video_id": video_ids[right],
                "rank": ranked.ranks(),
                "score": ranked.target_scores().astype("float64"),
                "top1_video_id": video_ids[ranked.videos[top1]],
                "top1_score": ranked.scores[np.arange(count), top1].astype("float64"),
            }
            parts.append(pa.table(columns))
    return pa.concat_tables(parts, promote_options="default")  # no caption at all has a type of its own
