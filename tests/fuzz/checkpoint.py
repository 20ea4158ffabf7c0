"""Folders of checkpoints: configuration, weights, tokenizer, processor."""

import json
import os
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from checkpoints import save_tiny_checkpoint
from families import FAMILY_NAMES, save_plain
from safetensors.torch import load_file, save_file

from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.peers import XCLIPModel

from .harness import Refused, attempt
from .mutate import mutate_bytes, mutate_json

TEXTS = ["a red ball bounces", "two dogs run"]
FRAMES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)


def setup(seeds: Path) -> None:
    save_tiny_checkpoint(seeds / "glccl", TEXTS)
    save_tiny_checkpoint(seeds / "xclip", TEXTS, XCLIPModel, csc_weight=0.0)
    for name in FAMILY_NAMES:
        save_plain(name, seeds / name)


def warm(seeds: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for folder in seeds.iterdir():
        _use(folder)


def _use(folder: Path) -> torch.Tensor:
    """Logits of two texts and one video."""
    model, processor = attempt(lambda: load_checkpoint(folder), str(folder), folder.name)
    batch = attempt(lambda: processor(text=TEXTS, videos=[FRAMES]), str(folder), "")
    batch.pop("video_metadata", None)
    with torch.inference_mode():
        return attempt(lambda: model(**batch).logits_per_text, "not finite")  # a weight may have become huge


def run(rng: random.Random, seeds: Path, work: Path) -> None:
    warnings.simplefilter("ignore")
    name = rng.choice(["glccl", "glccl", *sorted(os.listdir(seeds))])
    folder = Path(shutil.copytree(seeds / name, work / name))
    weights = folder / "model.safetensors"
    files = sorted(path for path in folder.iterdir() if path != weights)
    wrong = False  # whether what is left cannot be right
    kind = rng.choice(("json", "json", "json", "json", "bytes", "header", "tensors", "tensors", "remove", "swap"))
    if kind == "json":
        path = rng.choice([folder / "config.json", *(path for path in files if path.suffix == ".json")])
        if path.name == "tokenizer.json" and rng.random() < 0.8:  # long and much the same
            path = folder / "config.json"
        path.write_bytes(mutate_json(rng, path.read_bytes()))
    elif kind == "bytes":
        path = rng.choice([weights, *files])
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    elif kind == "header":
        content = weights.read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = mutate_json(rng, content[8 : 8 + size])
        size = rng.choice((len(header), len(header), len(header), 0, size, 2**40, 2**64 - 1))
        weights.write_bytes(size.to_bytes(8, "little") + header + content[8 + len(header) :])
    elif kind == "tensors":
        tensors = load_file(weights)
        key = rng.choice(sorted(tensors))
        change = rng.choice(("drop", "nan", "inf", "shape", "rename", "half", "int"))
        value = tensors.pop(key)
        wrong = change not in ("half", "int")
        if change in ("nan", "inf"):
            value.view(-1)[rng.randrange(value.numel())] = float(change)
        value = {"shape": value[None].repeat(2, *[1] * value.dim()), "half": value.half(), "int": value.int()}.get(
            change, value
        )
        tensors |= {} if change == "drop" else {f"{key}.x" if change == "rename" else key: value}
        save_file(tensors, weights, {"format": "pt"})
    elif kind == "remove":
        path = rng.choice([weights, *files])
        path.unlink()
        wrong = path in (weights, folder / "config.json", folder / "tokenizer.json")
    else:
        path = rng.choice([weights, *files])
        sources = [
            source
            for source in (seeds / rng.choice(sorted(os.listdir(seeds))) / path.name, *seeds.rglob("*.json"))
            if source.exists()
        ]
        path.write_bytes(sources[0].read_bytes())
    logits = _use(folder)
    assert logits.isfinite().all(), f"{kind}: logits that are no numbers"
    assert not wrong, f"{kind}: loaded though a part of it is missing or broken"
    if kind == "json" and json.loads((seeds / name / "config.json").read_bytes()) == json.loads(
        (folder / "config.json").read_bytes()
    ):
        raise Refused("nothing to compare with: only settings changed")
