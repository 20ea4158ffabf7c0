"""Python as it is where this package is not installed: a new process that cannot find it."""

import os
import subprocess
import sys
from pathlib import Path

_HIDE = """
import importlib.util, os, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in finder.__module__]
sys.path[:] = [entry for entry in sys.path if not os.path.isdir(os.path.join(entry, "modeling_glccl"))]
found = importlib.util.find_spec("modeling_glccl")  # in a checkpoint folder this is the file of that name
assert found is None or found.submodule_search_locations is None, "the package is still found"
"""


def run_without_package(script: str, folder: Path, *arguments: object, **environment: str) -> str:
    """Runs a script in `folder`, offline, with caches below it; returns what it printed.

    Args:
        script: its first statements see neither the installed package nor this repository.
        folder: working directory.
        arguments: for `sys.argv`.
        environment: more variables.
    """
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf_home")} | environment
    command = [sys.executable, "-c", _HIDE + script, *map(str, arguments)]
    run = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def nearly_equal(left, right) -> bool:
    """Equality of nested lists and dicts, of numbers within 1e-4: another process rounds otherwise."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(nearly_equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(nearly_equal, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) <= 1e-4
    return left == right
