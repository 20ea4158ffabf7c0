"""The training loop: steps, evaluation, checkpoints that resume exactly, and the results of a run."""

import json
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from datasets import Dataset
from huggingface_hub import HfApi
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.utils import logging

from ..atomic import recover_folder, replace_folder
from ..checkpoints import load_checkpoint
from ..data import load_benchmark
from ..data.collate import RetrievalCollator
from ..data.frame_cache import with_frame_cache
from ..data.group_sampler import GroupSampler
from ..environment import describe_environment, resolve_precision
from ..evaluation import EvaluationResult, evaluate
from ..model_card import make_card
from ..modeling_glccl import GLCCLModel
from ..processing_glccl import GLCCLProcessor
from ..publish import collect, push
from .build import build_model
from .full_batch import FullBatchLoss
from .optimization import build_optimizer, build_scheduler, freeze_clip
from .recipe import Recipe, differences, load_recipe, save_recipe
from .step import training_step

# What may differ between a run and its continuation: nothing here changes a step.
MAY_CHANGE = {
    "output_dir",
    "resume",
    "push_to_hub",
    "data.data_dir",
    "data.num_workers",
    "data.frame_cache_dir",
    "train.eval_batch_size",
    "train.save_steps",
}


def train(recipe: Recipe) -> dict[str, Any]:
    """Trains and evaluates what a recipe describes, and continues a run that was interrupted.

    Writes into `output_dir`: `last` (model, processor and training state of the newest checkpoint), `best` (model and
    processor of the epoch with the highest validation R@1), `logs` (TensorBoard), `recipe.yaml` and `results.json`.
    Where validation and test are the same split the result is that of `last`, and `best` only stands beside it.

    Returns:
        The content of `results.json`.

    Raises:
        ValueError: `output_dir` holds a run of another recipe, fewer training pairs than one batch, a loss that is
            not finite (the error names the step and the videos of the batch).
    """
    data = recipe.data
    logging.disable_progress_bar()  # of every model file read or written, in the middle of the run's own
    precision = resolve_precision(recipe.train.precision)
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=recipe.seed),
        step_scheduler_with_optimizer=False,
        log_with="tensorboard",
        project_dir=recipe.output_dir,
    )
    set_seed(recipe.seed)
    # One process renders, downloads or indexes; the others find it done.
    with accelerator.main_process_first():
        splits = load_splits(recipe)
        model, processor = build_model(recipe, splits["train"]["caption"])
        if data.frame_cache:  # decoded by all cores: nothing else runs yet
            splits = {
                role: with_frame_cache(split, processor, data.frame_cache_dir, data.frame_cache, os.cpu_count())
                for role, split in splits.items()
            }
    return Trainer(recipe, model, processor, splits, accelerator).run()


def load_splits(recipe: Recipe) -> dict[str, Dataset]:
    """The recipe's splits under the names "train", "validation" and "test"; absent ones are left out.

    So is "validation" where it is the test split: nothing then passes for a validation result that is none.
    """
    data = recipe.data
    validation_split = None if data.selects_on_test else data.validation_split
    names = {"train": data.train_split, "validation": validation_split, "test": data.test_split}
    return {
        role: load_benchmark(data.benchmark, data_dir=data.data_dir, repo_id=data.repo_id, split=name, **data.options)
        for role, name in names.items()
        if name
    }


@dataclass
class Progress:
    """How far a run is: saved with every checkpoint."""

    num_processes: int
    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    training_seconds: float = 0.0
    loss_sum: float = 0.0
    best_epoch: int | None = None
    best_recall: float | None = None
    history: list[dict] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """For accelerate's checkpoints."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For accelerate's checkpoints."""
        if state["num_processes"] != self.num_processes:
            raise ValueError(
                f"the checkpoint was written by {state['num_processes']} processes and this run has "
                f"{self.num_processes}: the batches would differ. Use as many, or resume=false to start over"
            )
        self.__dict__.update(state)


class Trainer:
    """One run of a recipe on given data. `run` does everything; the other methods are its parts."""

    def __init__(
        self,
        recipe: Recipe,
        model: GLCCLModel,
        processor: GLCCLProcessor,
        splits: dict[str, Dataset],
        accelerator: Accelerator,
    ):
        self.recipe, self.processor, self.splits, self.accelerator = recipe, processor, splits, accelerator
        self.output_dir = Path(recipe.output_dir)
        world = accelerator.num_processes
        self.batch_size = batch_size = recipe.train.pairs_per_process(world)
        # The split that is evaluated after each epoch.
        self.selection = "test" if recipe.data.selects_on_test else "validation" if "validation" in splits else None
        if len(splits["train"]) < batch_size * world:
            raise ValueError(
                f"the training split has {len(splits['train'])} pairs but one step takes {world} x {batch_size}: "
                "lower train.batch_size"
            )
        group_by = recipe.data.group_by
        if group_by and group_by not in splits["train"].column_names:
            raise ValueError(
                f"data.group_by={group_by}: the training split has no such column, but {splits['train'].column_names}"
            )
        loader = DataLoader(
            splits["train"],
            batch_size,
            shuffle=group_by is None,
            sampler=GroupSampler(splits["train"][group_by], recipe.seed) if group_by else None,
            drop_last=True,  # the losses of a smaller batch are not comparable, and CSC needs two pairs
            collate_fn=RetrievalCollator(processor),
            num_workers=recipe.data.num_workers,
            # Without its own generator every new iterator draws from the global one, and a resumed run has one more.
            generator=torch.Generator(),
        )
        freeze_clip(model, recipe.train.freeze_layer_num)
        optimizer = build_optimizer(model, recipe.train)
        self.bare_model = model
        if recipe.train.activation_checkpointing:
            model.activation_checkpointing_enable()
        step = FullBatchLoss(model, recipe.train.grad_cache_chunk)
        self.model, self.optimizer, self.loader = accelerator.prepare(step, optimizer, loader)
        self.steps = min(len(self.loader) * recipe.train.epochs, recipe.train.max_steps or sys.maxsize)
        self.scheduler = build_scheduler(optimizer, recipe.train, self.steps)
        self.progress = Progress(num_processes=world)
        accelerator.register_for_checkpointing(self.scheduler, self.progress)

    def run(self) -> dict[str, Any]:
        """Trains to the end, tests the chosen model, writes and publishes the results."""
        self.prepare_output()
        progress, accelerator = self.progress, self.accelerator
        accelerator.init_trackers("logs", init_kwargs={"tensorboard": {"purge_step": progress.step + 1}})
        with tqdm(
            total=self.steps, initial=progress.step, unit="step", disable=not accelerator.is_main_process
        ) as bar:
            while progress.step < self.steps:
                self.train_epoch(bar)
                self.finish_epoch(bar)
        results = self.test()
        # DistributedDataParallel must be gone before end_training closes the process group: else it may hang there.
        self.model, self.optimizer, self.loader = accelerator.free_memory(self.model, self.optimizer, self.loader)
        accelerator.end_training()
        return results

    def prepare_output(self) -> None:
        """Continues the run found in `output_dir`, or clears what a former run left there."""
        recipe, accelerator, last = self.recipe, self.accelerator, self.output_dir / "last"
        if accelerator.is_main_process:
            for folder in (last, self.output_dir / "best"):
                recover_folder(folder)
                if not recipe.resume:
                    shutil.rmtree(folder, ignore_errors=True)
            if not last.exists():
                shutil.rmtree(self.output_dir / "logs", ignore_errors=True)
            if recipe.push_to_hub:
                HfApi().create_repo(recipe.push_to_hub, exist_ok=True)  # fails now rather than after the training
        accelerator.wait_for_everyone()
        if last.exists():
            changed = differences(load_recipe(last / "recipe.yaml"), recipe)
            changed = [f"{key}: {old!r} -> {new!r}" for key, (old, new) in changed.items() if key not in MAY_CHANGE]
            if changed:
                raise ValueError(
                    f"{self.output_dir} holds a run of another recipe ({'; '.join(changed)}): choose another "
                    "output_dir, or resume=false to replace that run"
                )
            accelerator.load_state(last / "training_state")
        if accelerator.is_main_process:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            save_recipe(recipe, self.output_dir / "recipe.yaml")

    def train_epoch(self, bar: tqdm) -> None:
        """The remaining steps of the current epoch."""
        progress, save_steps = self.progress, self.recipe.train.save_steps
        self.loader.set_epoch(progress.epoch)
        batches = self.accelerator.skip_first_batches(self.loader, progress.step_in_epoch)
        self.model.train()
        started = time.perf_counter()
        for batch in batches:
            losses = self.train_step(batch)
            progress.step += 1
            progress.step_in_epoch += 1
            progress.loss_sum += losses["loss"]
            now = time.perf_counter()
            progress.training_seconds += now - started
            started = now
            self.accelerator.log({f"train/{name}": value for name, value in losses.items()}, step=progress.step)
            bar.set_postfix_str(f"loss {losses['loss']:.3f}, {self.describe()}", refresh=False)
            bar.update()
            if progress.step == self.steps:
                break
            if save_steps and progress.step % save_steps == 0 and progress.step_in_epoch < len(self.loader):
                self.save()
                started = time.perf_counter()

    def train_step(self, batch: dict[str, Any]) -> dict[str, float]:
        """One optimiser step; returns what is logged of it."""
        return training_step(
            self.accelerator,
            self.model,
            self.optimizer,
            self.scheduler,
            batch["inputs"],
            self.recipe.train.max_grad_norm,
            where=f"step {self.progress.step + 1}, videos {', '.join(batch['videos'])}",
        )

    def describe(self) -> str:
        """R@1 of the last evaluation and the speed, for the progress bar."""
        progress = self.progress
        pairs = progress.step * self.batch_size * progress.num_processes
        recalls = [row[self.selection]["t2v"]["R@1"] for row in progress.history if self.selection in row]
        recall = f"R@1 {recalls[-1]:.1f}, " if recalls else ""
        return f"{recall}{pairs / progress.training_seconds:.0f} samples/s"

    def finish_epoch(self, bar: tqdm) -> None:
        """Evaluates if it is time to, keeps the best model and saves the checkpoint."""
        progress, train = self.progress, self.recipe.train
        row = {"epoch": progress.epoch + 1, "step": progress.step, "loss": progress.loss_sum / progress.step_in_epoch}
        progress.epoch, progress.step_in_epoch, progress.loss_sum = progress.epoch + 1, 0, 0.0
        progress.history.append(row)
        due = progress.step == self.steps or progress.epoch % train.eval_epochs == 0
        if self.selection and due:
            row[self.selection] = self.evaluate(self.bare_model, self.selection, progress=False).metrics
            for direction, metrics in row[self.selection].items():
                values = {f"{self.selection}/{direction}/{name}": value for name, value in metrics.items()}
                self.accelerator.log(values, step=progress.step)
            recall = row[self.selection]["t2v"]["R@1"]
            if progress.best_recall is None or recall > progress.best_recall:
                progress.best_epoch, progress.best_recall = progress.epoch, recall
                self.save_model("best")
        self.save()
        if self.accelerator.is_main_process:
            bar.write(f"epoch {row['epoch']}: mean loss {row['loss']:.4f}, {self.describe()}")

    def evaluate(self, model: nn.Module, role: str, progress: bool) -> EvaluationResult:
        """Retrieval metrics of a model on the split "validation" or "test"."""
        return evaluate(
            model,
            self.processor,
            self.splits[role],
            accelerator=self.accelerator,
            batch_size=self.recipe.train.eval_batch_size,
            num_workers=self.recipe.data.num_workers,
            progress=progress,
        )

    def save(self) -> None:
        """Replaces `last` by the present model, processor and training state: completely or not at all."""
        if self.accelerator.is_main_process:
            self.accelerator.get_tracker("tensorboard", unwrap=True).flush()  # what is logged is saved, too
        self.save_model("last", with_state=True)

    def save_model(self, name: str, with_state: bool = False) -> None:
        """Replaces a model folder; `from_pretrained` of model and processor read it."""
        accelerator, folder = self.accelerator, self.output_dir / name
        new = folder.with_name(f"{name}.new")
        if accelerator.is_main_process:
            shutil.rmtree(new, ignore_errors=True)
            self.bare_model.save_pretrained(new)
            self.processor.save_pretrained(new)
            save_recipe(self.recipe, new / "recipe.yaml")
        accelerator.wait_for_everyone()
        if with_state:
            accelerator.save_state(new / "training_state")
            accelerator.wait_for_everyone()  # save_state returns before the other processes have written
        if accelerator.is_main_process:
            replace_folder(new, folder)
        accelerator.wait_for_everyone()

    def test(self) -> dict[str, Any]:
        """Loads the chosen model as a user would, tests it, and writes and publishes the results."""
        recipe, progress, accelerator = self.recipe, self.progress, self.accelerator
        chosen = "best" if self.selection == "validation" else "last"
        folder = self.output_dir / chosen
        best = next((row for row in progress.history if row["epoch"] == progress.best_epoch), {})
        results = {
            "model": chosen,
            "selected_by": "R@1 on the validation split" if chosen == "best" else "nothing: it is the last epoch",
            "epoch": progress.best_epoch if chosen == "best" else progress.epoch,
            "validation": best.get("validation"),
            "history": progress.history,
            "seed": recipe.seed,
            "precision": resolve_precision(recipe.train.precision),
            "processes": progress.num_processes,
            "samples_per_second": progress.step * self.batch_size * progress.num_processes / progress.training_seconds,
            "seconds": {"training": progress.training_seconds},
            **describe_environment(),
            "recipe": asdict(recipe),
        }
        if "test" in self.splits:
            started = time.perf_counter()
            model, _ = load_checkpoint(folder)
            result = self.evaluate(model.to(accelerator.device), "test", progress=True)
            results["test"] = result.metrics
            results["test_size"] = {"captions": len(result.captions), "videos": len(result.video_ids)}
            results["seconds"]["test"] = time.perf_counter() - started
            text = ", ".join(f"{name} {value:.1f}" for name, value in result.metrics["t2v"].items())
            accelerator.print(f"test, {chosen} model (epoch {results['epoch']}), text to video: {text}")
        if self.selection == "test":
            results["best_on_test"] = {
                "selected_by": "R@1 on the test split itself: higher than an unseen split would give",
                "model": "best",
                "epoch": progress.best_epoch,
                "test": best["test"],
            }
            recall = f"R@1 {best['test']['t2v']['R@1']:.1f} (epoch {progress.best_epoch})"
            accelerator.print(f"selected on the test split, for comparison with published figures: {recall}")
        if accelerator.is_main_process:
            for target in (self.output_dir, folder):
                (target / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            if recipe.push_to_hub:
                push(collect(folder, make_card(folder, recipe.push_to_hub)), recipe.push_to_hub)
        accelerator.wait_for_everyone()
        return results
