"""Imports the programs of benchmarks/, which find each other as scripts do: beside themselves."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from torch import Tensor

from modeling_glccl.convert_glccl_original_to_hf import to_original_names

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def import_benchmark(name: str) -> ModuleType:
    """The module benchmarks/NAME.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        module = importlib.import_module(name)
    assert Path(module.__file__).parent == BENCHMARKS, f"{name} is another module: {module.__file__}"
    return module


def originals(model, values: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Weights of a model, or other values for them, under the release's names."""
    named = to_original_names(dict(model.named_parameters()) if values is None else values, model.config)
    return {name: value.detach().contiguous().clone() for name, value in named.items()}
