"""A cache of `datasets` for each test, and silence about miniatures, which are not canonical."""

import multiprocessing
import warnings

import datasets
import pytest
from launched import CONTEXT


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def quick_pool(monkeypatch):
    """Processes are forked from one that has imported all, where the package starts them anew."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: CONTEXT)


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not comparable.*")
        yield
