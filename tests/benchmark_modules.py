"""Imports the programs of benchmarks/, which find each other as scripts do: beside themselves."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def import_benchmark(name: str) -> ModuleType:
    """The module benchmarks/NAME.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        module = importlib.import_module(name)
    assert Path(module.__file__).parent == BENCHMARKS, f"{name} is another module: {module.__file__}"
    return module
