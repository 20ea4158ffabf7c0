"""Fixtures of the search tests: a tiny checkpoint, a small library of videos, an empty index."""

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from checkpoints import save_tiny_checkpoint
from search_data import CAPTIONS
from videos import write_video

from modeling_glccl import GLCCLModel, GLCCLProcessor
from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.cli import main
from modeling_glccl.search import VideoIndex


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny checkpoint whose every weight is noisy, the learned score matrices included."""
    folder = tmp_path_factory.mktemp("search") / "checkpoint"
    save_tiny_checkpoint(folder, CAPTIONS)
    model = GLCCLModel.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(checkpoint) -> GLCCLModel:
    return GLCCLModel.from_pretrained(checkpoint).eval()


@pytest.fixture(scope="session")
def processor(checkpoint) -> GLCCLProcessor:
    return GLCCLProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "videos"
    (folder / "more").mkdir(parents=True)
    for i in range(5):
        write_video(folder / ("more" if i > 2 else "") / f"v{i}.mp4", 2 + 11 * i, fps=5)
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory, library, model, processor) -> VideoIndex:
    """The index of the library, for tests that leave it as it is."""
    index = VideoIndex.create(tmp_path_factory.mktemp("search") / "my.index", model, processor)
    index.update(library, progress=False, num_workers=1)
    return index


@pytest.fixture
def videos(library, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(library, tmp_path / "videos"))


@pytest.fixture
def index(tmp_path, model, processor) -> VideoIndex:
    return VideoIndex.create(tmp_path / "my.index", model, processor)


@pytest.fixture(scope="session")
def load_once():
    return cache(load_checkpoint)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, load_once):
    """Runs a command in an empty folder, with models that are loaded once; its exit code and what it printed."""
    for module in ("index", "commands"):
        monkeypatch.setattr(f"modeling_glccl.search.{module}.load_checkpoint", load_once)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")

    def run_command(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return code, captured.out if code == 0 else captured.err

    return run_command
