"""Fixtures of the search tests: a tiny checkpoint, a small library of videos, an empty index."""

import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import save_tiny_checkpoint
from search_data import CAPTIONS
from videos import write_video

from modeling_glccl import GLCCLModel, GLCCLProcessor
from modeling_glccl.cli import main
from modeling_glccl.search import VideoIndex


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def model(checkpoint) -> GLCCLModel:
    return GLCCLModel.from_pretrained(checkpoint).eval()


@pytest.fixture(scope="module")
def processor(checkpoint) -> GLCCLProcessor:
    return GLCCLProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "videos"
    (folder / "more").mkdir(parents=True)
    for i in range(5):
        write_video(folder / ("more" if i > 2 else "") / f"v{i}.mp4", 2 + 11 * i, fps=5)
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture
def videos(library, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(library, tmp_path / "videos"))


@pytest.fixture
def index(tmp_path, model, processor) -> VideoIndex:
    return VideoIndex.create(tmp_path / "my.index", model, processor)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder; returns its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")

    def run_command(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return code, captured.out if code == 0 else captured.err

    return run_command
