"""`glccl demo`, `glccl train-demo` and `glccl compare`: what a user does with GLCCL, on CPU cores and rendered videos.

What an earlier call finished is not done again; what it left unfinished goes on.
"""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from .checkpoints import load_checkpoint
from .data import load_benchmark
from .evaluation import evaluate, retrieval_metrics
from .evaluation.evaluate_checkpoint import baselines
from .evaluation.metrics import METRICS
from .evaluation.tables_and_plots import metrics_table, plot_recalls
from .packaged import packaged
from .training import load_recipe
from .training.pretrain_clip import ClipRecipe
from .training.run_folder import holds_results

# A trained model and, in its sub-folder `clip`, the CLIP that the training started from.
CHECKPOINT = packaged("hub", "models", "glccl-shapes")
QUERIES = ("a green heart bounces", "a blue ring falls", "in the snow, a white cross spins")
# Each changes one thing. Mean pooling has one score, so there is no consistency between scores to train.
VARIANTS = {
    "GLIM off": ["model.config.glim_global=false", "model.config.glim_local=false"],
    "CSC off": ["model.config.csc_weight=0"],
    "mean pooling": ["model.head=clip4clip_seqtransf", "model.config.csc_weight=0"],
}


def run_demo(output: Path) -> None:
    """With the repository's model: renders the test videos, evaluates, saves, reloads, retrieves and searches."""
    demo = Demo(output, num_train=0, num_validation=0)
    demo.stage("render", demo.render)

    def evaluate_and_save() -> dict[str, Any]:
        parts = load_checkpoint(CHECKPOINT)
        for part in parts:
            part.save_pretrained(output / "model")
        return evaluate(*parts, demo.test()).metrics

    metrics = demo.stage("evaluate and save", evaluate_and_save)
    demo.show(output / "model", CHECKPOINT / "clip", metrics, "fp32")


def run_training_demo(recipe: str, clip_recipe: str, output: Path, overrides: Sequence[str] = ()) -> None:
    """The same from nothing: renders all videos and stills, pre-trains a small CLIP and trains GLCCL on it first.

    All lies in `output`, whose results of other recipes are a ValueError. A stage that fails raises
    subprocess.CalledProcessError; the next call goes on with it.
    """
    demo = TrainingDemo(recipe, clip_recipe, output, overrides)
    demo.prepare()
    trained = demo.train("GLCCL", output / "model")
    demo.show(output / "model" / trained["model"], demo.clip, trained["test"], trained["precision"])


def run_comparison(recipe: str, clip_recipe: str, output: Path, overrides: Sequence[str] = ()) -> None:
    """Trains it again with GLIM off, CSC off, and mean pooling; writes comparison.csv and comparison.png."""
    demo = TrainingDemo(recipe, clip_recipe, output, overrides)
    demo.prepare()
    results = {"GLCCL": demo.train("GLCCL", output / "model")}
    for name, variant in VARIANTS.items():
        results[name] = demo.train(name, output / name.replace(" ", "_"), variant)
    metrics = {name: result["test"] for name, result in results.items()}
    with (output / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "direction", *METRICS, "steps", "seed", "training_seconds"])
        for name, result in results.items():
            run = (result["history"][-1]["step"], result["seed"], f"{result['seconds']['training']:.1f}")
            for direction, values in result["test"].items():
                writer.writerow([name, direction, *(f"{values[metric]:.2f}" for metric in METRICS), *run])
    plot_recalls(metrics).savefig(output / "comparison.png")
    demo.console.print(metrics_table(metrics, f"shapes test: same data, steps and seed ({demo.recipe.seed})"))
    demo.print_times()
    demo.console.print(f"Table: {output / 'comparison.csv'}\nPicture: {output / 'comparison.png'}")


class Demo:
    """Stages with their times, and those of them that need no training."""

    def __init__(self, output: Path, **options: Any):
        self.output = output
        self.data = {"data_dir": output / "data", **options}
        self.console = Console()
        self.stages: list[str] = []
        self.seconds_file = output / "seconds.json"
        self.seconds = read_json(self.seconds_file) if self.seconds_file.exists() else {}  # of earlier calls, too
        logging.disable_progress_bar()  # of every model file that is read

    def render(self) -> None:
        """The videos of all splits that there are; what exists is only looked for."""
        load_benchmark("shapes", split=None, num_proc=os.cpu_count(), **self.data)

    def test(self) -> Any:
        """The test split."""
        return load_benchmark("shapes", **self.data)

    def show(self, checkpoint: Path, clip: Path, in_memory: Mapping[str, Any], precision: str) -> None:
        """Prints what a saved model is good for, beside its plain CLIP; `in_memory`: its metrics, in `precision`."""
        rows = self.stage("evaluate CLIP", lambda: self.evaluate_clip(clip)) | {"GLCCL, trained": in_memory}
        command = ["-m", "modeling_glccl.cli", "evaluate", checkpoint, "--benchmark=shapes", "--queries=3"]
        command += [f"--precision={precision}", f"--data-dir={self.data['data_dir']}"]
        command += [f"--set={name}={value}" for name, value in self.data.items() if name != "data_dir"]
        command += [f"--output={self.output / 'evaluation'}"]
        self.stage("reload, evaluate, retrieve", lambda: self.run(command))
        reloaded = read_json(self.output / "evaluation" / "results.json")
        self.stage("index and search", lambda: self.search(checkpoint))
        title = f"shapes test: {reloaded['captions']} captions, {reloaded['videos']} videos"
        answer = "the same." if reloaded["metrics"] == in_memory else f"[red]otherwise: {reloaded['metrics']}"
        self.console.print(metrics_table(rows, title))
        self.console.print(f"Saved and reloaded in a new process, the model scores {answer}")
        self.print_times()
        picture = self.output / "evaluation" / "retrieved.png"
        self.console.print(f"Model: {checkpoint}\nPicture: {picture}\nIndex: {self.output / 'index'}")

    def evaluate_clip(self, clip: Path) -> dict[str, Any]:
        """Test metrics of a plain CLIP, which encodes every video once for both."""
        model, processor = load_checkpoint(clip)
        result = evaluate(model, processor, self.test(), also=baselines(model))
        pooled = retrieval_metrics(result.also["mean pooling"], result.video_index)
        return {"CLIP, mean pooling": pooled, "GLCCL, zero-shot": result.metrics}

    def search(self, checkpoint: Path) -> None:
        """Indexes the test videos and prints what three queries find, with the moments."""
        from .search import VideoIndex  # not before rendering: lancedb does not like to be forked
        from .search.rendering import results_table

        model, processor = load_checkpoint(checkpoint)
        place = self.output / "index"
        try:
            index = VideoIndex.open(place, model, processor)
        except FileNotFoundError:
            index = VideoIndex.create(place, model, processor)
        index.update(Path(self.test()[0]["video"]["path"]).parent)
        for query, results in zip(QUERIES, index.search_batch(QUERIES, k=3, moments=True), strict=True):
            self.console.print(results_table(query, results)[0])

    def stage(self, name: str, run: Callable[[], Any], done: bool | None = None) -> Any:
        """Runs a stage that is not `done`, notes its time and returns what it returns; None: the stage finds out."""
        self.stages.append(name)
        self.console.rule(f"[bold]{name}[/]{' (done before)' if done else ''}", align="left")
        if done:
            return None
        started, earlier = time.perf_counter(), self.seconds.get(name, 0.0)
        try:
            return run()
        finally:
            taken = time.perf_counter() - started
            self.seconds[name] = max(earlier, taken) if done is None else earlier + taken
            self.output.mkdir(parents=True, exist_ok=True)
            self.seconds_file.write_text(json.dumps(self.seconds, indent=2) + "\n", encoding="utf-8")

    def run(self, arguments: Sequence[Any]) -> None:
        """Shows and runs a Python command in a process of its own."""
        arguments = [str(argument) for argument in arguments]
        self.console.print("$ python", *arguments, style="dim", soft_wrap=True, highlight=False)
        subprocess.run([sys.executable, *arguments], check=True)

    def print_times(self) -> None:
        """How long the stages took, in this call or an earlier one."""
        seconds = {name: self.seconds.get(name, 0.0) for name in self.stages}
        table = Table(title="minutes", title_justify="left", title_style="bold", show_header=False)
        for name, value in (seconds | {"total": sum(seconds.values())}).items():
            table.add_row(name, f"{value / 60:.1f}", end_section=name == self.stages[-1])
        self.console.print(table)


class TrainingDemo(Demo):
    """The stages before, on a recipe."""

    def __init__(self, recipe: str, clip_recipe: str, output: Path, overrides: Sequence[str]):
        super().__init__(output)
        folders = {"model.clip": "clip", "data.data_dir": "data", "data.frame_cache_dir": "frames"}
        self.overrides = [*(f"{key}={output / folder}" for key, folder in folders.items()), *overrides]
        self.recipe_file, self.clip_recipe_file = recipe, clip_recipe
        self.recipe = load_recipe(recipe, self.overrides)
        self.data = {"data_dir": self.recipe.data.data_dir, **self.recipe.data.options}
        self.clip = Path(self.recipe.model.clip or output / "clip")

    def prepare(self) -> None:
        """Renders the benchmark, and pre-trains a small CLIP in place of the one that a user downloads."""
        self.stage("render", self.render)
        overrides = [f"output_dir={self.clip}", f"data_dir={self.recipe.data.data_dir}"]
        overrides += [f"options.{name}={value}" for name, value in self.recipe.data.options.items()]
        wanted = load_recipe(self.clip_recipe_file, overrides, ClipRecipe)
        command = ["-m", "modeling_glccl.training.pretrain_clip", self.clip_recipe_file, *overrides]
        self.stage("pre-train CLIP", lambda: self.run(command), holds_results(self.clip, wanted))

    def render(self) -> None:
        """Videos of all splits, and single frames with phrases."""
        super().render()
        load_benchmark("shapes", split=None, config_name="stills", num_proc=os.cpu_count(), **self.data)

    def train(self, name: str, folder: Path, variant: Sequence[str] = ()) -> dict[str, Any]:
        """Trains from the CLIP checkpoint, as a user does from a downloaded one; returns results.json."""
        overrides = [*self.overrides, *variant, f"output_dir={folder}"]
        done = holds_results(folder, load_recipe(self.recipe_file, overrides))
        command = ["-m", "modeling_glccl.cli", "train", self.recipe_file, *overrides]
        self.stage(f"train {name}", lambda: self.run(command), done)
        return read_json(folder / "results.json")


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
