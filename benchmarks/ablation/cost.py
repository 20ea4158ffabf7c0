"""What a head's scores cost, once texts and videos are encoded: seconds measured, multiply-adds counted."""

import json
import time
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from modeling_glccl.features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from modeling_glccl.peers import HEADS

from ..table import hardware_slug
from .grid import Grid

# The size of the published models: joint width, frames of a video, and word slots of a text. A caption of MSR-VTT has
# 11 tokens on average, BOS and EOS included; 32 is the most.
WIDTH, FRAMES, WORDS = 512, 12, (11, 32)
# Texts, and videos of the table. The curve has fewer videos: what is done once per video is shared by as many texts.
ITEMS, CURVE_VIDEOS, CURVE_FRAMES = 1000, 20, (12, 24, 48, 64, 128, 256)
# The longest video that heads with matrices over frames take; the others know no such limit.
MOST_FRAMES = 77


def measure_cost(head: str, texts: int, videos: int, words: int, frames: int, width: int) -> dict[str, Any]:
    """Scores random features with a head of `HEADS`, float32, every slot and frame counted.

    Returns:
        The arguments; "seconds" and "cpu_seconds" (which other work on the machine stretches less), measured after a
        warm-up; "macs", multiply-adds in matrix products, counted as they are computed (without element-wise work).
    """
    size = dict(locals())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = {"max_words": words, "max_frames": min(frames, MOST_FRAMES), "clip_config": {"projection_dim": width}}
    torch.manual_seed(0)
    word_features = torch.randn(texts, words, width, device=device)
    word_mask = torch.ones(texts, words, dtype=torch.bool, device=device)
    text = GLCCLTextFeatures(sentence=word_features[:, -1], words=word_features, word_mask=word_mask)
    frame_mask = torch.ones(videos, frames, dtype=torch.bool, device=device)
    video = GLCCLVideoFeatures(frames=torch.randn(videos, frames, width, device=device), frame_mask=frame_mask)
    config: Any = cast(type, HEADS[head].config_class)(csc_weight=0.0, **values)
    interaction = HEADS[head].interaction_class(config).to(device).eval()
    logit_scale = torch.tensor(100.0, device=device).log()

    def score() -> dict[str, float]:
        started, cpu_started = time.perf_counter(), time.process_time()
        interaction(text, video, logit_scale)
        if device == "cuda":
            torch.cuda.synchronize()
        return {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu_started}

    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            score()
        return size | score() | {"macs": counter.get_total_flops() / 2}


def measure_costs(grid: Grid) -> dict[str, Any]:
    """What [`measure_cost`] returns for a grid's heads ("main"), some against frames ("curve"), measured once."""
    heads, curves = (
        list(dict.fromkeys(grid.recipe(variant).model.head for variant in variants))
        for variants in (grid.settings.variants, grid.settings.length_variants)
    )
    sizes = {
        "main": [(head, ITEMS, ITEMS, words, FRAMES, WIDTH) for head, words in product(heads, WORDS)],
        "curve": [(head, ITEMS, CURVE_VIDEOS, *size, WIDTH) for head, *size in product(curves, WORDS, CURVE_FRAMES)],
    }
    settings = {"threads": grid.settings.threads, "sizes": json.loads(json.dumps(sizes))}
    file = Path(grid.settings.output_dir) / "cost.json"
    if file.exists() and (costs := json.loads(file.read_text(encoding="utf-8")))["settings"] == settings:
        return costs
    torch.set_num_threads(grid.settings.threads)
    costs = {"settings": settings, "hardware": hardware_slug()}
    for name, of_name in sizes.items():
        costs[name] = [measure_cost(*size) for size in tqdm(of_name, desc=f"scoring cost, {name}")]
    file.write_text(json.dumps(costs, indent=2) + "\n", encoding="utf-8")
    return costs
