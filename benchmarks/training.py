r"""A whole training step at CLIP ViT-B/32 sizes with random weights: samples/s, peak memory and where the time goes.

    python benchmarks/training.py                       # batch 16 and 32, and the gradient cache at batch 128
    python benchmarks/training.py --batches 16 --cached-batch 0
    python benchmarks/training.py --device cuda --batches 32 128 --chunk 16 --cached-batch 0

Compares the packed scores with the form that materialises text-guided features (benchmarks/scoring.py) in the same
step, captions of real lengths, 12 frames, forward, backward and the AdamW update. Every row is a process of its own;
its peak memory is that of the whole process, weights and optimiser state included, with glibc returning freed blocks
(MALLOC_MMAP_THRESHOLD_), which it otherwise keeps: the peak then depends on how it cut them up. On a GPU it is what
torch allocated there. Prints a table and writes benchmarks/results/training_<hardware>.csv.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import errors

import torch
from scoring import features, materialised
from table import RESULTS, show, wall_clock, write_csv

from modeling_glccl import GLCCLConfig, GLCCLModel
from modeling_glccl.interaction_glccl import GLCCLScores
from modeling_glccl.training.full_batch import FullBatchLoss


class MaterialisingModel(GLCCLModel):
    """The same model with the scores of the twin."""

    def get_scores(self, text, video):
        """The four scores, through the text-guided features."""
        return GLCCLScores(*materialised(self.interaction, text, video))


def measure(method: str, batch: int, chunk: int, precision: str, threads: int, device: str) -> None:
    """The child process: prints the row as JSON. One warm-up step (three on a GPU), one measured step."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = (MaterialisingModel if method == "materialised" else GLCCLModel)(GLCCLConfig()).train()
    model.to(device)  # pyright: ignore[reportArgumentType]
    step = FullBatchLoss(model, chunk or None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-7)
    mask = features(batch, batch, 32, 12, "real")[0].word_mask
    input_ids = torch.randint(1, 49000, mask.shape) * mask
    input_ids[torch.arange(batch), mask.sum(1) - 1] = model.config.eos_token_id
    pixels = torch.randn(batch, 12, 3, 224, 224, device=device)
    inputs = {"input_ids": input_ids.to(device), "pixel_values_videos": pixels}

    spent: dict[str, float] = {}

    def clock(name: str, method: str) -> None:
        """Puts a timed call in the place of a method."""
        function = getattr(model, method)

        def call(*arguments):
            started = wall_clock()
            try:
                return function(*arguments)
            finally:
                spent[name] = spent.get(name, 0) + wall_clock() - started

        setattr(model, method, call)

    for name in ("text_features", "video_features", "scores"):
        clock(name.partition("_")[0], f"get_{name}")
    started = forward = backward = finished = 0.0
    for _ in range(4 if device == "cuda" else 2):
        spent.clear()
        started = wall_clock()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = step(**inputs).loss
        forward = wall_clock()
        loss.backward()
        backward = wall_clock()
        optimizer.step()
        optimizer.zero_grad()
        finished = wall_clock()
        if chunk and device == "cpu":  # one step is long, and it warms itself up
            break
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row = {
        "scores": method,
        "batch": batch,
        "chunk": chunk or "-",
        "precision": precision,
        "threads": threads,
        "samples/s": round(batch / (finished - started), 2),
        "step s": round(finished - started, 3),
        # With the gradient cache the backward pass encodes again, which counts as backward here.
        "text forward s": round(spent["text"], 3) if not chunk else "-",
        "video forward s": round(spent["video"], 3) if not chunk else "-",
        "scores forward s": round(spent["scores"], 3),
        "forward s": round(forward - started, 3),
        "backward s": round(backward - forward, 3),
        "update s": round(finished - backward, 3),
        "peak GiB": round(peak, 2),
    }
    print(json.dumps(row))


def main() -> None:
    """Measures every row in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 32])
    parser.add_argument("--cached-batch", type=int, default=128, help="batch with the gradient cache; 0: leave it out")
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--measure", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        method, batch, chunk, precision, threads, device = arguments.measure
        measure(method, int(batch), int(chunk), precision, int(threads), device)
        return
    both, on_gpu = ("materialised", "packed"), arguments.device == "cuda"
    jobs = [
        (method, batch, 0, precision)
        for batch in arguments.batches
        for precision, methods in (("fp32", both), ("bf16", both if on_gpu else ("packed",)))
        for method in methods
    ]
    precisions = ("fp32", "bf16") if on_gpu else ("fp32",)
    jobs += [("packed", batch, arguments.chunk, name) for batch in arguments.batches[-1:] for name in precisions]
    if arguments.cached_batch:
        jobs.append(("packed", arguments.cached_batch, arguments.chunk, "fp32"))
    rows = []
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    for job in jobs:
        command = [sys.executable, __file__, "--measure", *map(str, (*job, arguments.threads, arguments.device))]
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        rows.append(json.loads(child.stdout))
        show(rows[-1], header=len(rows) == 1)
    write_csv(rows, "training", arguments.output)


if __name__ == "__main__":
    main()
