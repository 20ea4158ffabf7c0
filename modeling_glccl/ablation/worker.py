"""One run of a grid in a process of its own:

python -m modeling_glccl.ablation.worker recipes/shapes_ablation.yaml VARIANT SEED [key=value ...]
"""

import json
import sys
from pathlib import Path

from filelock import FileLock

from ..training import train
from .analysis import analyse, analysis_settings
from .grid import Grid, Run, load_grid


def is_done(grid: Grid, run: Run) -> bool:
    """Whether a run is trained, and analysed with the grid's settings."""
    file = analysis_file(run)
    if not run.is_trained() or not file.exists():
        return False
    return json.loads(file.read_text(encoding="utf-8"))["settings"] == analysis_settings(grid.settings, run.variant)


def analysis_file(run: Run) -> Path:
    """Where a run's analysis is."""
    return run.folder / "analysis.json"


def execute(grid: Grid, run: Run) -> None:
    """Trains, or goes on where training was interrupted, and analyses; what is done already is not done again."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.folder / ".lock"):  # a process that outlived its parent may still be at it
        if not run.is_trained():
            train(run.recipe)
        if not is_done(grid, run):
            analysis = analyse(run, analysis_settings(grid.settings, run.variant))
            partial = run.folder / "analysis.partial"
            partial.write_text(json.dumps(analysis) + "\n", encoding="utf-8")
            partial.replace(analysis_file(run))  # the file has its name only once it is complete


if __name__ == "__main__":
    path, variant, seed, *overrides = sys.argv[1:]
    loaded = load_grid(path, overrides)
    execute(loaded, loaded.find(variant, int(seed)))
