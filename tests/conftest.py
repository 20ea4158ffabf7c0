"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


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
