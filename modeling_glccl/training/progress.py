"""How far a run is."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Progress:
    """Counts steps and epochs, and remembers every epoch; saved with every checkpoint."""

    num_processes: int
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
        if self.best_recall is not None and recall <= self.best_recall:
            return False
        self.best_epoch, self.best_recall = self.epoch, recall
        return True

    def describe(self, selection: str | None, pairs_per_step: int) -> str:
        """R@1 of the last evaluation and the speed."""
        recalls = [row[selection]["t2v"]["R@1"] for row in self.history if selection in row]
        recall = f"R@1 {recalls[-1]:.1f}, " if recalls else ""
        return f"{recall}{self.samples_per_second(pairs_per_step):.0f} samples/s"

    def samples_per_second(self, pairs_per_step: int) -> float:
        """Pairs of all processes in a second of training."""
        return self.step * pairs_per_step / self.training_seconds

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
