"""Runs of a grid in parallel processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from .grid import Grid, Run
from .worker import is_done


def run_all(grid: Grid, path: Path, overrides: Sequence[str], console: Console) -> None:
    """Trains and analyses what is not done yet, `num_proc` runs at a time, each with its log in `run.log`.

    A run that fails does not stop the others. When this process ends early, so do the runs; the next call goes on.

    Args:
        grid: the grid in the file at `path` with `overrides`.
        path: of the grid, which every process reads.
        overrides: `key=value` strings over it.
        console: for one line per run.

    Raises:
        ValueError: a folder holds results of another recipe.
        ChildProcessError: runs failed; it names them and the ends of their logs.
    """
    waiting = [run for run in grid if not is_done(grid, run)]
    total, done, failed = len(grid.runs), len(grid.runs) - len(waiting), []
    console.print(f"{total} runs, {done} done before, {grid.settings.num_proc} at a time")
    running: dict[subprocess.Popen, tuple[Run, float]] = {}
    # Without a handler the signal would end this process before it could end its runs.
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while waiting or running:
            while waiting and len(running) < grid.settings.num_proc:
                run = waiting.pop(0)
                running[start(run, grid.settings.threads, path, overrides)] = run, time.perf_counter()
            time.sleep(0.2)
            for process in [process for process in running if process.poll() is not None]:
                run, started = running.pop(process)
                minutes = (time.perf_counter() - started) / 60
                if process.returncode:
                    failed.append(run)
                    console.print(f"[red]failed[/] {run.variant}, seed {run.seed}: {log(run)}")
                else:
                    done += 1
                    console.print(f"{done}/{total} {run.variant}, seed {run.seed}: {minutes:.1f} minutes")
    finally:
        signal.signal(signal.SIGTERM, former)
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    if failed:
        ends = [f"{run.variant}, seed {run.seed} ({log(run)}): {last_line(log(run))}" for run in failed]
        raise ChildProcessError(f"{len(failed)} of {total} runs failed; the others are done:\n" + "\n".join(ends))


def start(run: Run, threads: int, path: Path, overrides: Sequence[str]) -> subprocess.Popen:
    """Starts the process of a run."""
    run.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "modeling_glccl.ablation.worker", str(path), run.variant, str(run.seed)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment |= {"TOKENIZERS_PARALLELISM": "false"}
    with log(run).open("a", encoding="utf-8") as file:
        return subprocess.Popen([*command, *overrides], env=environment, stdout=file, stderr=file)


def log(run: Run) -> Path:
    """What a run printed."""
    return run.folder / "run.log"


def last_line(file: Path) -> str:
    """The last line of a log that says something; of a traceback, the error."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"
