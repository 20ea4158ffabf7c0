"""What the fault tests kill. Each makes its result in a folder, from what a test has put into `inputs` beside it."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import search_worker
import torch
from paths import REPOSITORY

from modeling_glccl import runtime
from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.data.compress import compress_folder
from modeling_glccl.data.export import export_benchmark
from modeling_glccl.training import build, load_recipe, train

with suppress(ModuleNotFoundError):  # without it, exports of models are skipped
    from modeling_glccl.onnx_export import export_onnx

SHAPES = {"num_train": 8, "num_validation": 2, "num_test": 4, "image_size": 32}
CARD = REPOSITORY / "hub" / "datasets" / "shapes" / "README.md"


def add_to_an_index(folder: Path, ready: Callable[[], None]) -> None:
    """Every video, two a commit, with files merged and indexes made in between; `notes` says what was committed."""
    inputs = folder.parent / "inputs"
    places = [folder / "my.index", inputs / "checkpoint", inputs / "videos", folder / "notes"]
    search_worker._work(*map(str, places), 2, SimpleNamespace(wait=ready))


def train_with_a_cache(folder: Path, ready: Callable[[], None]) -> None:
    """Two epochs of the tiny recipe, whose frames go through a cache of the folder's own."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    build.os.cpu_count = lambda: 1  # the cache is filled in this process
    places = [f"output_dir={folder / 'run'}", f"data.frame_cache_dir={folder / 'cache'}"]
    recipe = load_recipe(
        folder.parent / "inputs" / "tiny.yaml", [*places, "data.frame_cache=raw", "train.save_steps=2"]
    )
    ready()
    train(recipe)


def compress(folder: Path, ready: Callable[[], None]) -> None:
    """Every video, in this process."""
    ready()
    compress_folder(folder.parent / "inputs", folder / "out")


def export_model(folder: Path, ready: Callable[[], None]) -> None:
    """Both towers of a model for ONNX Runtime, unless they are there, and its vision tower in int8."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    checkpoint, runtime.HF_HOME = str(folder.parent / "inputs" / "checkpoint"), str(folder / "cache")
    ready()
    if not (folder / "out").exists():
        export_onnx(checkpoint, folder / "out")
    model = load_checkpoint(checkpoint)[0].eval()
    side = model.config.clip_config.vision_config.image_size
    with torch.inference_mode():
        runtime.with_runtime(model, "onnx-int8")._encode_frames(torch.zeros(1, 3, side, side))


def export(folder: Path, ready: Callable[[], None]) -> None:
    """The shapes benchmark with its videos, in several files a split, unless it is there."""
    ready()
    if not (folder / "out").exists():
        shapes = folder.parent / "inputs"
        export_benchmark("shapes", folder / "out", CARD, videos=True, data_dir=shapes, shard_bytes=20_000, **SHAPES)
