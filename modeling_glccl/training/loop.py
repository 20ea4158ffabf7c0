"""A training run from its recipe to its results, in the order in which things happen: [`train`]."""

import json
import os
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from huggingface_hub import HfApi
from tqdm.auto import tqdm
from transformers.utils import logging

from ..atomic import write_whole
from ..checkpoints import load_checkpoint
from ..environment import describe_environment, resolve_precision
from ..evaluation import evaluate
from ..model_card import make_card
from ..processes import make_accelerator
from ..publish import collect, push
from .build import build_loader, build_model, cache_frames, check_batches, check_start, load_splits
from .full_batch import FullBatchLoss
from .optimization import add_lora, build_optimizer, build_scheduler, freeze_clip, training_step
from .recipe import Recipe
from .run_folder import Progress, RunFolder


def train(recipe: Recipe) -> dict[str, Any]:
    """Trains and evaluates what a recipe describes, and continues a run that was interrupted.

    Writes into `output_dir`: `last` (model, processor and training state of the newest checkpoint), `best` (model and
    processor of the epoch with the highest validation R@1), `logs` (TensorBoard), `recipe.yaml` and `results.json`,
    whose content it returns. Where validation and test are the same split the result is that of `last`, and `best`
    only stands beside it.

    Raises:
        ValueError: `output_dir` holds a run of another recipe or a user's files, another training is at work there,
            fewer training pairs than one batch, a loss that is not finite (the error names the step and the videos of
            the batch).
        FileNotFoundError: no such CLIP, checkpoint or data.
        KeyboardInterrupt: Ctrl-C; its message says what is kept.
    """
    logging.disable_progress_bar()  # of every model file read or written, in the middle of the run's own
    accelerator = make_accelerator(
        resolve_precision(recipe.train.precision, training=True),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=recipe.seed),
        step_scheduler_with_optimizer=False,
        log_with="tensorboard",
        project_dir=recipe.output_dir,
    )
    # `accelerate launch --num_processes N` sets these for N > 1, but without GPUs it starts one process, of no group.
    asked_for_more = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys()
    if asked_for_more and "WORLD_SIZE" not in os.environ and accelerator.device.type == "cpu":
        accelerator.print(
            "one process trains on the CPU: accelerate launch starts no more there, whatever --num_processes says; "
            "torchrun --nproc_per_node N starts N"
        )
    check_start(recipe)
    processes = accelerator.num_processes
    progress = Progress(processes, recipe.train.pairs_per_process(processes) * processes)
    with RunFolder(recipe, accelerator) as folder:
        if recipe.push_to_hub and accelerator.is_main_process:
            HfApi().create_repo(recipe.push_to_hub, exist_ok=True)  # fails now rather than after the training
        try:
            results = run(recipe, accelerator, folder, progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(folder.kept(progress.step)) from None
        if recipe.push_to_hub and accelerator.is_main_process:  # the other processes need not wait for it
            chosen = folder.path / results["model"]
            push(collect(chosen, make_card(chosen, recipe.push_to_hub)), recipe.push_to_hub)
    return results


def run(recipe: Recipe, accelerator: Accelerator, folder: RunFolder, progress: Progress) -> dict[str, Any]:
    """The run itself: data, model, optimiser, loop, evaluation, saving, results; `progress` tells where it is."""
    # Data and model. One process renders, downloads or indexes; the others find it done.
    set_seed(recipe.seed)
    with accelerator.main_process_first():
        splits = load_splits(recipe)
    check_batches(recipe, splits["train"], accelerator.num_processes)
    model, processor = build_model(recipe, splits["train"]["caption"])
    splits = cache_frames(recipe, splits, processor, accelerator)
    loader = build_loader(recipe, splits["train"], processor, accelerator.num_processes)
    evaluate_on = partial(
        evaluate,
        processor=processor,
        accelerator=accelerator,
        batch_size=recipe.train.eval_batch_size,
        num_workers=recipe.data.num_workers,
    )
    # The split that is evaluated after each epoch.
    selection = "test" if recipe.data.selects_on_test else "validation" if "validation" in splits else None

    # Optimiser
    freeze_clip(model, recipe.train.freeze_layer_num)
    add_lora(model, recipe.train.lora_rank)
    optimizer = build_optimizer(model, recipe.train)
    if recipe.train.activation_checkpointing:
        model.activation_checkpointing_enable()
    losses_of = FullBatchLoss(model, recipe.train.grad_cache_chunk)
    losses_of, optimizer, loader = accelerator.prepare(losses_of, optimizer, loader)
    steps = min(len(loader) * recipe.train.epochs, recipe.train.max_steps or sys.maxsize)
    scheduler = build_scheduler(optimizer, recipe.train, steps)

    # Where the run stands
    accelerator.register_for_checkpointing(scheduler, progress)
    if folder.begin():
        told = f"continuing at epoch {progress.epoch + 1}, step {progress.step + 1} of {steps}"
        if progress.step == steps:
            told = f"{progress.epoch} epochs and {progress.step} steps are done, testing again"
        accelerator.print(f"{folder.path}: {told}")
        folder.saved_step = progress.step
    accelerator.init_trackers("logs", init_kwargs={"tensorboard": {"purge_step": progress.step + 1}})

    bar = tqdm(
        desc="training", total=steps, initial=progress.step, unit="step", disable=not accelerator.is_main_process
    )
    while progress.step < steps:
        # An epoch, or what an interruption left of it
        loader.set_epoch(progress.epoch)
        losses_of.train()
        batches = accelerator.skip_first_batches(loader, progress.step_in_epoch)
        started = time.perf_counter()
        for batch in batches:
            where = f"step {progress.step + 1}, videos {', '.join(batch['videos'])}"
            losses = training_step(
                accelerator, losses_of, optimizer, scheduler, batch["inputs"], recipe.train.max_grad_norm, where
            )
            progress.end_step(losses["loss"], time.perf_counter() - started)
            accelerator.log({f"train/{name}": value for name, value in losses.items()}, step=progress.step)
            bar.set_postfix_str(f"loss {losses['loss']:.3f}, {progress.describe(selection)}", refresh=False)
            bar.update()
            if progress.step == steps:
                break
            save_steps = recipe.train.save_steps
            if save_steps and progress.step % save_steps == 0 and progress.step_in_epoch < len(loader):
                folder.save(model, processor, progress.step)
            started = time.perf_counter()

        # Evaluation, the best model, a checkpoint
        row = progress.end_epoch()
        if selection and (progress.step == steps or progress.epoch % recipe.train.eval_epochs == 0):
            row[selection] = evaluate_on(model, dataset=splits[selection], progress=False).metrics
            for direction, metrics in row[selection].items():
                values = {f"{selection}/{direction}/{name}": value for name, value in metrics.items()}
                accelerator.log(values, step=progress.step)
            if progress.is_best(row[selection]["t2v"]["R@1"]):
                folder.save_model(folder.best, model, processor)
        folder.save(model, processor, progress.step)
        if accelerator.is_main_process:
            bar.write(f"epoch {row['epoch']}: mean loss {row['loss']:.4f}, {progress.describe(selection)}")
    bar.close()

    # Results: of the chosen model, loaded as a user would
    chosen = folder.best if selection == "validation" else folder.last
    results = summarize(recipe, progress, chosen)
    if "test" in splits:
        started = time.perf_counter()
        tested, _ = load_checkpoint(chosen)
        result = evaluate_on(tested.to(accelerator.device), dataset=splits["test"])
        results["test"] = result.metrics
        results["test_size"] = {"captions": len(result.captions), "videos": len(result.video_ids)}
        results["seconds"]["test"] = time.perf_counter() - started
        text = ", ".join(f"{name} {value:.1f}" for name, value in result.metrics["t2v"].items())
        accelerator.print(f"test, {chosen.name} model (epoch {results['epoch']}), text to video: {text}")
    if "best_on_test" in results:
        best = results["best_on_test"]
        recall = f"R@1 {best['test']['t2v']['R@1']:.1f} (epoch {best['epoch']})"
        accelerator.print(f"selected on the test split, for comparison with published figures: {recall}")
    if accelerator.is_main_process:
        for place in (chosen, folder.path):  # the one is beside the model that they are about
            write_whole(place / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    accelerator.wait_for_everyone()
    # DistributedDataParallel must be gone before end_training closes the process group: else it may hang there.
    losses_of, optimizer, loader = accelerator.free_memory(losses_of, optimizer, loader)
    accelerator.end_training()
    return results


def summarize(recipe: Recipe, progress: Progress, chosen: Path) -> dict[str, Any]:
    """`results.json` of a finished training, but for the test of the chosen model, `best` or `last`."""
    best = progress.history[progress.best_epoch - 1] if progress.best_epoch else {}
    validated = chosen.name == "best"
    results = {
        "model": chosen.name,
        "selected_by": "R@1 on the validation split" if validated else "nothing: it is the last epoch",
        "epoch": progress.best_epoch if validated else progress.epoch,
        "validation": best.get("validation"),
        "history": progress.history,
        "seed": recipe.seed,
        "precision": resolve_precision(recipe.train.precision, training=True),
        "processes": progress.num_processes,
        "samples_per_second": progress.samples_per_second,
        "seconds": {"training": progress.training_seconds},
        **describe_environment(),
        "recipe": asdict(recipe),
    }
    if "test" in best:
        results["best_on_test"] = {
            "selected_by": "R@1 on the test split itself: higher than an unseen split would give",
            "model": "best",
            "epoch": progress.best_epoch,
            "test": best["test"],
        }
    return results
