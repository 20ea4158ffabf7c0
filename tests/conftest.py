"""Fixtures shared by all tests."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from huggingface_hub import constants


def pytest_configure(config):
    # pytest-randomly orders the tests; it would also seed each with the seed of the order, a new one in every run.
    config.option.randomly_reset_seed = False


@pytest.fixture(autouse=True)
def fresh_state():
    """Every test starts with the same random state and without the precision and processes of another's run.

    Fixtures of a module or the session are made before this one and set their own seed.
    """
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def shapes_dir(tmp_path_factory) -> Path:
    """Where the videos of the shapes benchmark are rendered once."""
    return tmp_path_factory.mktemp("shapes")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny GLCCL of random weights, for tests that leave it as it is."""
    from checkpoints import save_tiny_checkpoint

    folder = tmp_path_factory.mktemp("shared") / "checkpoint"
    save_tiny_checkpoint(folder, ["a red ball bounces", "a blue square slides to the left"])
    return folder


@pytest.fixture
def hub(monkeypatch):
    """A Hub on this machine, which huggingface_hub takes for its own, with a token that may write."""
    import hub_server

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    with hub_server.local_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def tiny(tmp_path, shapes_dir):
    """Reads the tiny recipe with overrides; runs of one test share the output folder unless they name another."""
    from training_runs import write_recipe  # not for tests that need no training

    from modeling_glccl.training import load_recipe

    path = write_recipe(tmp_path, shapes_dir)
    return lambda *overrides: load_recipe(path, overrides)


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Folder with the authors' numbers, annotation files and real clips; skips where it is not set."""
    folder = os.environ.get("GLCCL_REFERENCE_DIR")
    if not folder:
        pytest.skip("GLCCL_REFERENCE_DIR is not set: it names the folder with the reference data")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"GLCCL_REFERENCE_DIR={folder} is not a folder")
    return path
