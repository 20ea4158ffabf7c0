"""`glccl ablate`: from a grid's file to its report."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from transformers.utils import logging

from ..demo import is_result_of
from ..training import load_recipe
from ..training.loop import load_splits
from ..training.pretrain_clip import ClipRecipe
from .cost import measure_costs
from .grid import Grid, load_grid
from .outcomes import collect
from .report import write_report
from .schedule import run_all


def ablate(path: str | Path, overrides: Sequence[str] = (), report_only: bool = False) -> Path:
    """Trains and evaluates a grid, and reports on it.

    What is finished is not done again, what was interrupted goes on.

    Args:
        path: YAML file of a [`GridRecipe`].
        overrides: `key=value` strings that go over it.
        report_only: trains nothing; the report is on the runs that are finished.

    Returns:
        The report, an HTML file that needs no other one; its figures (PNG) and tables (CSV) lie beside it.

    Raises:
        ValueError: an unknown key or value; a folder holds results of another recipe; nothing is finished.
        ChildProcessError: runs failed; the others are finished.
        TimeoutError: another process works on the same `output_dir`.
    """
    logging.disable_progress_bar()  # of every model file that is read
    console, path = Console(soft_wrap=True, highlight=False), Path(path)
    grid = load_grid(path, overrides)
    grid.output_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(grid.output_dir / ".lock", timeout=0):
        if not report_only:
            prepare(grid)
            run_all(grid, path, overrides, console)
        outcomes = collect(grid)
        if grid.settings.reference not in outcomes.by_variant:
            raise ValueError(f"no run of {grid.settings.reference!r}, the reference, is finished in {grid.output_dir}")
        console.print("scoring cost, figures and tables")
        report = write_report(outcomes, measure_costs(grid), grid.output_dir / "report")
    console.print(f"Report: {report}")
    return report


def prepare(grid: Grid) -> None:
    """Makes what the runs share: the small CLIP of the shapes benchmark if the grid asks for it, and the data."""
    recipe = grid.recipe(grid.settings.reference)
    if grid.clip_recipe:
        data = recipe.data
        overrides = [f"output_dir={recipe.model.clip}", f"data_dir={data.data_dir}"]
        overrides += [f"options.{name}={value}" for name, value in data.options.items()]
        if not is_result_of(load_recipe(grid.clip_recipe, overrides, ClipRecipe), Path(recipe.model.clip)):
            command = [sys.executable, "-m", "modeling_glccl.training.pretrain_clip", str(grid.clip_recipe)]
            subprocess.run([*command, *overrides], check=True)
    load_splits(recipe)
