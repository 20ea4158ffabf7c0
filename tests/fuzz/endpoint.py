"""Requests to the handler of Inference Endpoints."""

import base64
import importlib.util
import json
import math
import os
import random
import shutil
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from checkpoints import save_tiny_checkpoint
from paths import REPOSITORY
from transformers import pipeline
from videos import write_video

import modeling_glccl.registration  # noqa: F401 (imported before the forks)

from .harness import Refused
from .mutate import MAGIC, mutate_bytes, mutate_tree

HANDLERS = []
TEXTS = ["a red ball bounces", "a blue square slides"]


def setup(seeds: Path) -> None:
    save_tiny_checkpoint(seeds / "checkpoint", TEXTS)
    (seeds / "videos" / "more").mkdir(parents=True)
    for name in ("a.mp4", "more/b.mkv", "c.gif"):
        write_video(seeds / "videos" / name, 20, codec="gif" if name == "c.gif" else "libx264")
    (seeds / "secret.txt").write_text("no video")
    pipe = cast(Any, pipeline)("text-video-retrieval", model=str(seeds / "checkpoint"), device="cpu")
    pipe.save_index(seeds / "checkpoint" / "index.safetensors", sorted((seeds / "videos").rglob("*.m*")))


def warm(seeds: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ |= {"GLCCL_VIDEO_ROOT": str(seeds / "videos"), "GLCCL_TIMEOUT_SECONDS": "15"}
    spec = importlib.util.spec_from_file_location("glccl_handler", REPOSITORY / "hub" / "endpoint" / "handler.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    HANDLERS.append(module.EndpointHandler(str(seeds / "checkpoint")))


def run(rng: random.Random, seeds: Path, work: Path) -> None:
    warnings.simplefilter("ignore")
    handler = HANDLERS[0]
    handler.folder = Path(shutil.copytree(handler.folder, work / "checkpoint"))
    if rng.random() < 0.1:
        feature_file = handler.folder / "index.safetensors"
        feature_file.write_bytes(mutate_bytes(rng, feature_file.read_bytes()))
    content = (seeds / "videos" / rng.choice(("a.mp4", "more/b.mkv", "c.gif"))).read_bytes()
    if rng.random() < 0.5:
        content = rng.choice(MAGIC) if rng.random() < 0.2 else mutate_bytes(rng, content)
    path = rng.choice(
        ("a.mp4", "more/b.mkv", "../secret.txt", str(seeds / "secret.txt"), "more", "", "\0", "x" * 5000)
    )
    videos = [{"base64": base64.b64encode(content).decode(), "id": "one"}, {"path": path}][:: rng.choice((1, -1))]
    inputs = {
        "ranking": {"query": rng.choice((TEXTS[0], TEXTS))},
        "videos": {"query": TEXTS[0], "videos": videos[: rng.choice((1, 2))]},
        "texts": {"texts": TEXTS},
        "embedding": {"videos": videos[: rng.choice((1, 2))]},
    }[rng.choice(("ranking", "videos", "texts", "embedding"))]
    request = {"inputs": inputs, "parameters": {"top_k": 2, "moments": rng.random() < 0.5, "words": True}}
    if rng.random() < 0.8:
        request = mutate_tree(rng, request)
    answer = handler(request)
    assert isinstance(answer, dict), answer
    assert len(answer) == 1, answer.keys()
    json.dumps(answer, allow_nan=False).encode()
    if "error" in answer:
        code, message = answer["error"]["code"], answer["error"]["message"]
        assert code in ("bad_request", "bad_input", "too_long", "too_many", "too_large", "not_found", "forbidden"), (
            answer
        )
        assert message.strip(), code
        assert len(message) < 5000, message[:200]
        assert str(seeds) not in message.replace(path, ""), message
        raise Refused(message)
    for results in answer.get("results", []):
        for found in results if isinstance(results, list) else [results]:
            assert math.isfinite(found["score"]), found
