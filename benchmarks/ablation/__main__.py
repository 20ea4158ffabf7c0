"""GLCCL's switches and its peers: trains a grid of variants, and reports with tables, figures and a page.

    python -m benchmarks.ablation recipes/shapes_ablation.yaml [--report-only] [key=value ...]

What is finished is not done again and what was interrupted goes on, so the same command continues.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from transformers.utils import logging

from modeling_glccl.atomic import write_whole
from modeling_glccl.training import load_recipe, train
from modeling_glccl.training.build import load_splits
from modeling_glccl.training.pretrain_clip import ClipRecipe
from modeling_glccl.training.run_folder import holds_results

from .analysis import analyse
from .grid import Grid, Run, load_grid
from .page import write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 1 after an error, 130 if it was interrupted."""
    parser = argparse.ArgumentParser("python -m benchmarks.ablation", description="Trains and reports on a grid.")
    parser.add_argument("recipe", help="a YAML file of a grid, such as recipes/shapes_ablation.yaml")
    parser.add_argument("--report-only", action="store_true", help="train nothing, report on the runs that are done")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)  # VARIANT SEED: what `start` asks its process for
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as num_proc=4 seeds=[1,2]")
    options = parser.parse_intermixed_args(arguments)
    logging.disable_progress_bar()  # of every model file that is read
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if options.run:  # with tracebacks, into its log
        execute(load_grid(options.recipe, options.overrides).runs[options.run[0], int(options.run[1])])
        return 0
    try:
        grid = load_grid(options.recipe, options.overrides)
        output = Path(grid.settings.output_dir)
        output.mkdir(parents=True, exist_ok=True)
        with FileLock(output / ".lock", timeout=0):
            if not options.report_only:
                prepare(grid, console)
                run_all(grid, [options.recipe, *options.overrides], console)
            console.print("Report:", write_report(grid, output / "report"))
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped, and what was running with it: the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def prepare(grid: Grid, console: Console) -> None:
    """Makes what the runs share: the small CLIP of the shapes benchmark if the grid asks for it, and the data."""
    recipe = grid.recipe(grid.settings.reference)
    if grid.clip_recipe:
        clip = str(recipe.model.clip)
        overrides = [f"output_dir={clip}", f"data_dir={recipe.data.data_dir}"]
        overrides += [f"options.{name}={value}" for name, value in recipe.data.options.items()]
        if not holds_results(Path(clip), load_recipe(grid.clip_recipe, overrides, ClipRecipe)):
            console.print(f"CLIP: {clip}")
            command = [sys.executable, "-m", "modeling_glccl.training.pretrain_clip", str(grid.clip_recipe)]
            subprocess.run([*command, *overrides], check=True)
    console.print(f"data: {recipe.data.benchmark} in {recipe.data.data_dir}")
    load_splits(recipe)


def run_all(grid: Grid, arguments: Sequence[str], console: Console) -> None:
    """Trains and analyses what is not done, `num_proc` runs at a time, each in a process and with a log of its own.

    A run that fails does not stop the others; the ChildProcessError at the end names it. When this process is
    interrupted, it ends the runs. `arguments` are the file of the grid and what goes over it, for the processes.
    """
    waiting = [run for run in grid.runs.values() if run.analysis is None]
    total, wanted = len(grid.runs), len(waiting)
    done, failed, processes = total - wanted, [], dict[Run, subprocess.Popen]()
    console.print(f"{total} runs, {done} done before, {grid.settings.num_proc} at a time")
    started = shown = time.monotonic()
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: it would leave the runs behind
    with console.status("") as status:
        try:
            while waiting or processes:
                while waiting and len(processes) < grid.settings.num_proc:
                    run = waiting.pop(0)
                    console.print(f"started {run}: {run.log}")
                    processes[run] = start(run, grid.settings.threads, arguments)
                time.sleep(1)
                for run, code in [(run, process.poll()) for run, process in processes.items()]:
                    if code is not None:
                        del processes[run]
                        failed += [run] if code else []
                        done += not code
                        state = f"failed with exit code {code}: {run.log}" if code else "done"
                        console.print(f"{done}/{total} {run}: {state}")
                shares = {run: trained_share(run) for run in processes}
                worked = wanted - len(waiting) - len(processes) + sum(shares.values())
                minutes = (time.monotonic() - started) / 60
                left = f"about {minutes * (wanted / worked - 1):.0f} minutes" if worked else "an unknown time"
                text = f"{done}/{total} done, {left} left"
                text += "".join(f"\n  {run}: {share:.0%} trained, {run.log}" for run, share in shares.items())
                status.update(text)
                if not console.is_terminal and time.monotonic() - shown > 60:  # where no line is written over
                    console.print(text)
                    shown = time.monotonic()
        finally:
            for process in processes.values():
                process.terminate()
                process.wait()
            signal.signal(signal.SIGTERM, former)
    if failed:
        ends = [f"{run} ({run.log}): {last_line(run.log)}" for run in failed]
        raise ChildProcessError(f"{len(failed)} of {total} runs failed; the others are done:\n" + "\n".join(ends))


def start(run: Run, threads: int, arguments: Sequence[str]) -> subprocess.Popen:
    """Starts the process of a run."""
    run.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", __package__, "--run", run.variant, str(run.seed), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    with run.log.open("a", encoding="utf-8") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file)


def execute(run: Run) -> None:
    """Trains, or goes on where training was interrupted, and analyses; what is done already is not done again."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.folder / ".lock"):  # a process that outlived its parent may still be at it
        if not holds_results(run.folder, run.recipe):
            train(run.recipe)
        if run.analysis is None:
            write_whole(run.folder / "analysis.json", json.dumps(analyse(run)).encode())


def trained_share(run: Run) -> float:
    """How much of its training a run has done, from the progress bar in its log."""
    text = run.log.read_text(encoding="utf-8", errors="replace") if run.log.exists() else ""
    steps = re.findall(r"(\d+)/(\d+) \[[^\]]*(?:step/s|s/step)", text)
    return int(steps[-1][0]) / int(steps[-1][1]) if steps else 0.0


def last_line(file: Path) -> str:
    """The last line of a log that says something; of a traceback, the error."""
    lines = [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


if __name__ == "__main__":
    sys.exit(main())
