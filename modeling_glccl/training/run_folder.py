"""What a run keeps: how far it is, and `output_dir`, where one run at a time writes and deletes what runs wrote."""

import os
import platform
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from transformers import ProcessorMixin

from ..atomic import recover_folder, replace_folder, room_for
from ..modeling_glccl import GLCCLModel
from .optimization import merged
from .recipe import Recipe, differences, load_recipe, save_recipe

# Written at the start of a run into a folder that holds none of WRITTEN: from then on these are the run's own.
MARK = ".glccl-run"
FOLDERS = ("best", "last")
WRITTEN = (*FOLDERS, *(f".{name}.{end}" for name in FOLDERS for end in ("new", "old")), "logs", "results.json")
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
# Seconds. The workers of a training that was killed hold its lock until they notice, which they do every five seconds.
LOCK_PATIENCE = 10


def holds_results(folder: Path, recipe: Any) -> bool:
    """Whether a folder holds the results of a recipe; raises ValueError if they are those of another one."""
    if not (folder / "results.json").exists():
        return False
    if changes := "; ".join(_changes(recipe, folder).values()):
        raise ValueError(f"{folder} holds the results of another recipe ({changes}): delete it, or choose another")
    return True


def _changes(recipe: Any, folder: Path) -> dict[str, str]:
    """By key, in which steps differ between the recipe of a folder and this one."""
    changed = differences(load_recipe(folder / "recipe.yaml", recipe_class=type(recipe)), recipe)
    return {key: change for key, change in changed.items() if key not in MAY_CHANGE}


class RunFolder:
    """What the loop asks of `output_dir`, written by the main process; a context in which no other training writes.

    Entering raises ValueError, in every process, where another training is at work, or for the run of another recipe
    or files of a user under the names that a run writes.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator):
        self.recipe, self.accelerator, self.path = recipe, accelerator, Path(recipe.output_dir)
        self.last, self.best = self.path / "last", self.path / "best"
        self.saved_step: int | None = None

    def __enter__(self):
        error = [None]
        if self.accelerator.is_main_process:
            self.lock = FileLock(self.path / f"{MARK}.lock", timeout=LOCK_PATIENCE)
            try:
                self._claim()
            except (ValueError, OSError) as problem:
                self.lock.release()
                error = [problem]
        broadcast_object_list(error)  # raised by one process alone, it would leave the others waiting
        if error[0]:
            raise error[0]
        return self

    def __exit__(self, *exception):
        if self.accelerator.is_main_process:
            self.lock.release()

    def _claim(self) -> None:
        mark, own = self.path / MARK, self.last / "training_state"
        foreign = [name for name in (*WRITTEN, "recipe.yaml") if (self.path / name).exists()]
        if foreign and not mark.exists() and not (own.exists() and (self.last / "recipe.yaml").exists()):
            raise ValueError(
                f"output_dir={self.path} holds {', '.join(foreign)}, which no run of train.py wrote and a run would "
                "replace: choose another output_dir"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire()
        except Timeout:
            raise ValueError(
                f"output_dir={self.path}: {mark.read_text().strip() if mark.exists() else 'another process'} trains "
                "there now; wait for it, stop it, or choose another output_dir"
            ) from None
        mark.write_text(f"process {os.getpid()} on {platform.node()}\n")
        for name in FOLDERS:
            recover_folder(self.path / name)
        changed = _changes(self.recipe, self.last) if self.recipe.resume and self.last.exists() else {}
        if not changed:
            return
        advice = "choose another output_dir, or resume=false to replace that run"
        if changed.keys() <= {"train.epochs", "train.max_steps"}:
            advice = (
                "the learning rate would have taken another course. To train the model further, start a new run with "
                f"model.checkpoint={self.last} model.clip=null and another output_dir; resume=false replaces this one"
            )
        raise ValueError(f"{self.path} holds a run of another recipe ({'; '.join(changed.values())}): {advice}")

    def begin(self) -> bool:
        """Restores the state of the run that is here, if it is to go on, else clears what it left; whether it did."""
        if self.accelerator.is_main_process:
            if not self.recipe.resume or not self.last.exists():
                for path in map(self.path.joinpath, WRITTEN):
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            save_recipe(self.recipe, self.path / "recipe.yaml")
        self.accelerator.wait_for_everyone()
        if not self.last.exists():
            return False
        self.accelerator.load_state(str(self.last / "training_state"))
        return True

    def save_model(self, folder: Path, model: GLCCLModel, processor: ProcessorMixin, state: bool = False) -> None:
        """Replaces `best` or `last`, completely or not at all; with the `state` that [`begin`] restores beside it."""
        accelerator, new = self.accelerator, folder.with_name(f".{folder.name}.new")
        if accelerator.is_main_process:
            shutil.rmtree(new, ignore_errors=True)
            with room_for(new):
                merged(model).save_pretrained(new)
                processor.save_pretrained(new)
                save_recipe(self.recipe, new / "recipe.yaml")
        accelerator.wait_for_everyone()
        if state:
            with room_for(new):
                accelerator.save_state(str(new / "training_state"))
            accelerator.wait_for_everyone()  # save_state returns before the other processes have written
        if accelerator.is_main_process:
            replace_folder(new, folder)
        accelerator.wait_for_everyone()

    def save(self, model: GLCCLModel, processor: ProcessorMixin, step: int) -> None:
        """Replaces `last` by the present model, processor and training state."""
        if self.accelerator.is_main_process:
            writer: Any = self.accelerator.get_tracker("tensorboard", unwrap=True)
            writer.flush()  # what is logged is saved, too
        self.save_model(self.last, model, processor, state=True)
        self.saved_step = step

    def kept(self, step: int) -> str:
        """What a run that is stopped after `step` steps leaves, for whoever stopped it."""
        if self.saved_step is not None:
            kept = f"{self.last} holds step {self.saved_step}"
        else:
            kept = "no checkpoint was written yet, what was rendered or cached is kept"
        return f"stopped after step {step}: {kept}; the same command goes on from there"


@dataclass
class Progress:
    """Counts steps and epochs, and remembers every epoch; saved with every checkpoint."""

    num_processes: int
    pairs_per_step: int  # of all processes
    epoch: int = 0  # epochs that are complete
    step_in_epoch: int = 0  # steps of the next one that are done
    step: int = 0  # of all epochs
    training_seconds: float = 0.0  # in steps, without evaluating and saving
    loss_sum: float = 0.0  # of the steps in this epoch
    best_epoch: int | None = None  # counted from 1, the first with `best_recall`
    best_recall: float | None = None  # the highest R@1, text to video, of the split that is evaluated after each epoch
    history: list[dict] = field(default_factory=list)  # a row for every epoch

    def end_step(self, loss: float, seconds: float) -> None:
        """Counts a step."""
        self.step += 1
        self.step_in_epoch += 1
        self.loss_sum += loss
        self.training_seconds += seconds

    def end_epoch(self) -> dict[str, Any]:
        """Counts an epoch; returns its row of the history, for further values."""
        self.epoch += 1
        row = {"epoch": self.epoch, "step": self.step, "loss": self.loss_sum / self.step_in_epoch}
        self.step_in_epoch, self.loss_sum = 0, 0.0
        self.history.append(row)
        return row

    def is_best(self, recall: float) -> bool:
        """Whether this epoch's R@1 is higher than that of all before, and then notes it."""
        best = self.best_recall is None or recall > self.best_recall
        if best:
            self.best_epoch, self.best_recall = self.epoch, recall
        return best

    def describe(self, selection: str | None) -> str:
        """R@1 of the last evaluation and the speed."""
        recalls = [f"R@1 {row[selection]['t2v']['R@1']:.1f}, " for row in self.history if selection in row]
        return f"{''.join(recalls[-1:])}{self.samples_per_second:.0f} samples/s"

    @property
    def samples_per_second(self) -> float:
        """Pairs of all processes in a second of training."""
        return self.step * self.pairs_per_step / self.training_seconds

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
