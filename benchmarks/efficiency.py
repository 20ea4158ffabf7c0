r"""What one 1,000 x 1,000 matrix of scores costs with every head, and what a user waits for: one thread, float32.

    python -m benchmarks.efficiency

Features are random, of ViT-B/32's size: 512 numbers, 12 frames, captions of 11 and of 32 words (BOS and EOS included),
the same for all heads. GMAC: 10^9 multiply-adds in matrix products, counted as they are computed. The second table
takes ViT-B/32 sizes with random weights: a query of 11 tokens, a video of 12 frames of 224 pixels (decoding is left
out), exact scores of one query against 10,000 videos, and a search in an index of 10,000. `cpu` is processor time:
other work on the machine stretches it less than the time that passes. Writes benchmarks/results/efficiency*.csv.
"""

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from modeling_glccl import GLCCLConfig, GLCCLModel
from modeling_glccl.features_glccl import GLCCLVideoFeatures
from modeling_glccl.peers import HEADS

from .ablation.cost import FRAMES, ITEMS, WIDTH, WORDS, measure_cost
from .table import RESULTS, show, write_csv

INDEXED = 10_000


def measure_heads(items: int, words: tuple[int, ...] = WORDS, frames: int = FRAMES, width: int = WIDTH) -> list[dict]:
    """A row for each head and number of words."""
    rows = []
    for head, count in product(HEADS, words):
        cost = measure_cost(head, items, items, count, frames, width)
        row = {"head": head, "words": count, "GMAC": float(f"{cost['macs'] / 1e9:.4g}")}
        rows.append(row | {name: round(cost[name], 3) for name in ("seconds", "cpu_seconds")})
        show(rows[-1], header=len(rows) == 1, wide=("head",))
    return rows


def milliseconds(step: str, call: Callable[[], object], rounds: int) -> dict:
    """The medians over rounds after a warm-up."""
    call()
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"step": step, "ms": round(1000 * median(walls), 1), "cpu_ms": round(1000 * median(cpus), 1)}


@torch.inference_mode()
def measure_steps(config: GLCCLConfig, indexed: int, rounds: int) -> list[dict]:
    """Encoding a query and a video, and scoring one query against all videos."""
    torch.manual_seed(0)
    model = GLCCLModel(config).eval()
    ids = torch.randint(1, 50, (1, WORDS[0]))
    ids[0, 0], ids[0, -1] = config.clip_config.text_config.bos_token_id, config.eos_token_id
    side = config.clip_config.vision_config.image_size
    pixels, frames = torch.randn(1, FRAMES, 3, side, side), torch.randn(indexed, FRAMES, config.width)
    text = model.get_text_features(ids)
    videos = model.prepare_videos(GLCCLVideoFeatures(frames=frames, frame_mask=torch.ones(indexed, FRAMES).bool()))
    return [
        milliseconds(f"encode a query of {WORDS[0]} tokens", lambda: model.get_text_features(ids), rounds),
        milliseconds(f"encode a video of {FRAMES} frames", lambda: model.get_video_features(pixels), rounds),
        milliseconds(f"score a query against {indexed:,} videos", lambda: model.similarity(text, videos), rounds),
    ]


def measure_search(indexed: int) -> dict:
    """A search in an index of so many videos, by benchmarks/search.py."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, Path(__file__).with_name("search.py"), "--videos", str(indexed), "--output", folder]
        subprocess.run(command, check=True)
        with next(Path(folder).glob("*.csv")).open(encoding="utf-8") as file:
            found = next(csv.DictReader(file))
    return {"step": f"search an index of {indexed:,}", "ms": found["p50_ms"], "cpu_ms": found["p50_cpu_ms"]}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    steps = [*measure_steps(GLCCLConfig(), INDEXED, arguments.rounds), measure_search(INDEXED)]
    for number, row in enumerate(steps):
        show(row, number == 0, wide=("step",))
    write_csv(steps, "efficiency_steps", arguments.output)
    write_csv(measure_heads(ITEMS), "efficiency", arguments.output)


if __name__ == "__main__":
    main()
