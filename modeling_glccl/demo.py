"""`glccl demo` and `glccl compare`: what a user does with GLCCL, in minutes on two CPU cores, on rendered videos.

What an earlier call finished is not done again; what it left unfinished goes on.
"""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .data import load_benchmark
from .data.shapes import sample_clips
from .data.shapes.oracles import ORACLES, oracle_recall
from .evaluation.report import METRICS, metrics_table, plot_recalls
from .training import load_recipe
from .training.pretrain_clip import ClipRecipe
from .training.recipe import differences

# Each changes one thing. Mean pooling has one score, so there is no consistency between scores to train.
VARIANTS = {
    "GLIM off": ["model.config.glim_global=false", "model.config.glim_local=false"],
    "CSC off": ["model.config.csc_weight=0"],
    "mean pooling": ["model.head=clip4clip_seqtransf", "model.config.csc_weight=0"],
}
SHOWN_ORACLES = ("colours + scene", "everything but shapes", "everything but actions", "everything but order")


def run_demo(recipe: Path, clip_recipe: Path, output: Path, overrides: Sequence[str] = ()) -> None:
    """Renders, pre-trains, trains, evaluates, reloads in a new process and retrieves; prints what came out.

    Args:
        recipe: of the training on the shapes benchmark.
        clip_recipe: of the pre-training of the small CLIP.
        output: folder for everything that is made; what is there already is used.
        overrides: `key=value` strings that go over `recipe`.

    Raises:
        ValueError: `output` holds results of other recipes.
        subprocess.CalledProcessError: a stage failed; the next call goes on with it.
    """
    demo = Demo(recipe, clip_recipe, output, overrides)
    demo.prepare()
    trained = demo.train("GLCCL", output / "model")
    checkpoint = output / "model" / trained["model"]
    reloaded = demo.evaluate(checkpoint, output / "evaluation", trained["precision"])

    rows = {"GLCCL": reloaded["metrics"]}
    rows |= {f"oracle: {name}": {"t2v": {"R@1": recall}} for name, recall in demo.oracles().items()}
    demo.console.print(
        metrics_table(rows, f"shapes test: {reloaded['captions']} captions, {reloaded['videos']} videos"),
        "An oracle reads some attributes of every video without error and sees nothing of the others.",
        "The reloaded model scores as it did in memory."
        if reloaded["metrics"] == trained["test"]
        else f"[red]The reloaded model scores otherwise than in memory: {trained['test']}",
        sep="\n",
    )
    demo.print_times()
    demo.console.print(f"Model: {checkpoint}\nPicture: {output / 'evaluation' / 'retrieved.png'}")


def run_comparison(recipe: Path, clip_recipe: Path, output: Path, overrides: Sequence[str] = ()) -> None:
    """Trains the demo's model again with GLIM off, CSC off, and mean pooling, on the same data, steps and seed.

    Writes comparison.csv and comparison.png into `output`; arguments and errors as [`run_demo`]'s.
    """
    demo = Demo(recipe, clip_recipe, output, overrides)
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
    """The stages, on one recipe and output folder."""

    def __init__(self, recipe: Path, clip_recipe: Path, output: Path, overrides: Sequence[str]):
        self.script = Path(__file__).parent.parent / "train.py"
        if not self.script.exists():
            raise FileNotFoundError(f"no {self.script}: the demo runs in a clone of the repository")
        folders = {"model.clip": "clip", "data.data_dir": "data", "data.frame_cache_dir": "frames"}
        self.overrides = [*(f"{key}={output / folder}" for key, folder in folders.items()), *overrides]
        self.recipe_file, self.clip_recipe_file, self.output = recipe, clip_recipe, output
        self.recipe = load_recipe(recipe, self.overrides)
        self.console = Console()
        self.stages: list[str] = []

    def prepare(self) -> None:
        """Renders the benchmark, and pre-trains a small CLIP in place of the one that a user downloads."""
        data, clip = self.recipe.data, self.recipe.model.clip
        self.stage("render", self.render)
        overrides = [
            f"output_dir={clip}",
            f"data_dir={data.data_dir}",
            *(f"options.{name}={value}" for name, value in data.options.items()),
        ]
        wanted = load_recipe(self.clip_recipe_file, overrides, ClipRecipe)
        command = ["-m", "modeling_glccl.training.pretrain_clip", self.clip_recipe_file, *overrides]
        self.stage("pre-train CLIP", lambda: self.run(command), is_result_of(wanted, Path(clip)))

    def render(self) -> None:
        """Videos and captions of all splits, and single frames with phrases; what exists is only looked for."""
        data = self.recipe.data
        for config_name in ("videos", "stills"):
            load_benchmark(
                "shapes",
                data.data_dir,
                split=None,
                config_name=config_name,
                num_proc=os.cpu_count(),
                **data.options,
            )

    def train(self, name: str, folder: Path, variant: Sequence[str] = ()) -> dict[str, Any]:
        """Trains from the CLIP checkpoint, as a user does from a downloaded one; returns results.json."""
        overrides = [*self.overrides, *variant, f"output_dir={folder}"]
        settings = {
            "num_processes": 1,
            "num_machines": 1,
            "mixed_precision": "no",
            "dynamo_backend": "no",
            "num_cpu_threads_per_process": os.environ.get("OMP_NUM_THREADS", os.cpu_count()),
        }
        launch = ["-m", "accelerate.commands.launch", *(f"--{option}={value}" for option, value in settings.items())]
        done = is_result_of(load_recipe(self.recipe_file, overrides), folder)
        self.stage(f"train {name}", lambda: self.run([*launch, self.script, self.recipe_file, *overrides]), done)
        return read_json(folder / "results.json")

    def evaluate(self, checkpoint: Path, folder: Path, precision: str) -> dict[str, Any]:
        """Test metrics of the saved model in a new process, three queries and their picture; returns results.json."""
        data = self.recipe.data
        command = ["-m", "modeling_glccl.cli", "evaluate", checkpoint, "--benchmark=shapes"]
        options = [f"--set={name}={value}" for name, value in data.options.items()]
        command += [f"--data-dir={data.data_dir}", *options, f"--precision={precision}", "--queries=3"]
        command += [f"--output={folder}"]
        self.stage("reload, evaluate, retrieve", lambda: self.run(command))
        return read_json(folder / "results.json")

    def oracles(self) -> dict[str, float]:
        """Text-to-video R@1 of knowing only some attributes of the test videos."""
        options = self.recipe.data.options
        test = load_benchmark("shapes", self.recipe.data.data_dir, **options)
        clips = sample_clips("test", len(test), options.get("seed", 0))
        return {name: oracle_recall(clips, ORACLES[name])[0] for name in SHOWN_ORACLES}

    def stage(self, name: str, run: Callable[[], Any], done: bool | None = None) -> None:
        """Runs a stage and notes its time.

        Args:
            name: shown above its output.
            run: does it.
            done: whether there is nothing left to do; None for a stage that is quick where nothing is left to do.
        """
        self.stages.append(name)
        self.console.rule(f"[bold]{name}[/]{' (done before)' if done else ''}", align="left")
        if done:
            return
        started, earlier = time.perf_counter(), self.seconds().get(name, 0.0)
        try:
            run()
        finally:
            taken = time.perf_counter() - started
            taken = max(earlier, taken) if done is None else earlier + taken
            self.output.mkdir(parents=True, exist_ok=True)
            seconds = json.dumps(self.seconds() | {name: taken}, indent=2)
            (self.output / "seconds.json").write_text(seconds + "\n", encoding="utf-8")

    def run(self, arguments: Sequence[Any]) -> None:
        """Shows and runs a Python command in a process of its own."""
        arguments = [str(argument) for argument in arguments]
        self.console.print("$ python", *arguments, style="dim", soft_wrap=True, highlight=False)
        subprocess.run([sys.executable, *arguments], check=True)

    def seconds(self) -> dict[str, float]:
        """Time of each stage, of earlier calls too."""
        file = self.output / "seconds.json"
        return read_json(file) if file.exists() else {}

    def print_times(self) -> None:
        """How long the stages took, in this call or an earlier one."""
        seconds = {name: self.seconds().get(name, 0.0) for name in self.stages}
        table = Table(title="minutes", title_justify="left", title_style="bold", show_header=False)
        for name, value in seconds.items():
            table.add_row(name, f"{value / 60:.1f}")
        table.add_section()
        table.add_row("total", f"{sum(seconds.values()) / 60:.1f}")
        self.console.print(table)


def is_result_of(recipe: Any, folder: Path) -> bool:
    """Whether a folder holds the results of a recipe; raises ValueError if they are those of another one."""
    if not (folder / "results.json").exists():
        return False
    changed = differences(load_recipe(folder / "recipe.yaml", recipe_class=type(recipe)), recipe)
    if changed:
        changes = "; ".join(f"{key}: {old!r} -> {new!r}" for key, (old, new) in changed.items())
        raise ValueError(
            f"{folder} holds the results of another recipe ({changes}): choose another --output or delete it"
        )
    return True


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
