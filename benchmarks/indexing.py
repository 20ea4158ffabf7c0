r"""Videos a second from files to a committed index, beside its parts and beside what a user would write alone.

    python benchmarks/indexing.py                     # eight generated clips of 320x240, 10 s
    python benchmarks/indexing.py --videos FOLDER     # video files instead

ViT-B/32 sizes, random weights, 12 frames of 224 x 224 a video. `decode` reads and prepares the frames with two
threads; `encode` computes features of frames that are decoded already; `index` is `VideoIndex.add` to a new index, its
commit included. The script with transformers' CLIP decodes with PyAV, encodes a video at a time, averages the frames
and adds the vector to FAISS. Each is a process of its own, `--threads` of torch, in turns; the round of the fewest
seconds counts, as other work on the machine only slows. `of_slower` is the rate of an index over the lower one of its
decode and encode. `of_parts_cpu` is the processor time of both over that of the index, which other work stretches
less: one where nothing is wasted. `peak_mib` is that of the whole process. Loading, and making the int8
tower, are not in the time. Prints a table and writes benchmarks/results/indexing_<hardware>.csv.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import errors

import numpy as np
import torch
from decoding import SUFFIXES, decode_in_order, generate
from table import RESULTS, show, write_csv

from modeling_glccl import GLCCLConfig, GLCCLModel, GLCCLProcessor, GLCCLVideoProcessor
from modeling_glccl.console import others_are_busy
from modeling_glccl.runtime import with_runtime
from modeling_glccl.search import VideoIndex
from modeling_glccl.search.clips import ClipSettings, read_clips
from modeling_glccl.training.tokenizer import train_clip_tokenizer

FRAMES = 12
WORKERS = 2
ROWS = ["decode", "encode torch", "index torch", "encode onnx-int8", "index onnx-int8", "transformers + FAISS"]


def script(paths: list[str]) -> Callable[[], object]:
    """What a user would write."""
    import faiss
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    model, images = CLIPModel(CLIPConfig()).eval(), CLIPImageProcessor()

    def work() -> None:
        index = faiss.IndexFlatIP(512)
        for path in paths:
            frames = list(decode_in_order(path))
            places = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
            pixels = images([frames[place].to_ndarray(format="rgb24") for place in places], return_tensors="pt")
            with torch.inference_mode():
                encoded: Any = model.get_image_features(pixels["pixel_values"])
            mean = torch.nn.functional.normalize(encoded.pooler_output, dim=-1).mean(0, keepdim=True)
            index.add(torch.nn.functional.normalize(mean, dim=-1).numpy())

    return work


def prepare(row: str, paths: list[str], folder: Path) -> Callable[[], object]:
    """A function that does the work of a row once; what it needs is made here."""
    if row == "transformers + FAISS":
        return script(paths)
    processor = GLCCLProcessor(train_clip_tokenizer(["a dog"]), GLCCLVideoProcessor(max_frames=FRAMES))

    def decode() -> list:
        with ThreadPoolExecutor(WORKERS) as pool:
            clips = pool.map(lambda path: next(read_clips(path, processor, ClipSettings(1e6, 1e6), [])), paths)
            return list(clips)

    if row == "decode":
        return decode
    what, runtime = row.split()
    torch.manual_seed(0)
    model = GLCCLModel(GLCCLConfig(max_frames=FRAMES)).eval()
    served = with_runtime(model, runtime)
    with torch.inference_mode():
        served.get_video_features(torch.zeros(1, 1, 3, 224, 224))  # makes the tower
    if what == "encode":
        clips = decode()

        @torch.inference_mode()
        def encode() -> None:
            for clip in clips:
                served.get_video_features(clip.pixels[None], clip.mask[None])

        return encode
    index = VideoIndex.create(folder / "index", model, processor, runtime=runtime, clip_length=1e6, clip_stride=1e6)
    with torch.inference_mode():
        index.model.get_video_features(torch.zeros(1, 1, 3, 224, 224))
    return lambda: index.add(paths, num_workers=WORKERS, progress=False)


def measure(row: str, paths: list[str], threads: int) -> None:
    """The child process: prints the row as JSON."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(row, paths, Path(folder))
        started, before = time.perf_counter(), time.process_time()
        work()
        seconds, cpu = time.perf_counter() - started, time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(json.dumps({"what": row, "seconds": seconds, "cpu_s": cpu, "peak_mib": peak}))


def table(best: dict[str, dict], videos: int, threads: int) -> list[dict]:
    """What is written of the best round of each row."""
    rows = []
    for found in best.values():
        what, _, runtime = found["what"].partition(" ")
        parts = [best[name] for name in ("decode", f"encode {runtime}") if name in best] if what == "index" else []
        row = {
            "what": found["what"],
            "videos": videos,
            "threads": threads,
            "seconds": round(found["seconds"], 1),
            "videos_per_s": round(videos / found["seconds"], 2),
            "cpu_s": round(found["cpu_s"], 1),
        }
        row |= {"of_slower": "-", "of_parts_cpu": "-"}
        if len(parts) == 2:
            row["of_slower"] = round(max(part["seconds"] for part in parts) / found["seconds"], 2)
            row["of_parts_cpu"] = round(sum(part["cpu_s"] for part in parts) / found["cpu_s"], 2)
        rows.append(row | {"peak_mib": found["peak_mib"]})
    return rows


def main() -> None:
    """Measures every row in fresh processes, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder of video files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        row, *paths = options.measure
        return measure(row, paths, options.threads)
    with tempfile.TemporaryDirectory() as folder:
        if options.videos:
            paths = sorted(str(path) for path in options.videos.iterdir() if path.suffix in SUFFIXES)
        else:
            paths = [generate(Path(folder, f"{number}.mp4"), 10, (320, 240), 250, number) for number in range(8)]
        best: dict[str, dict] = {}
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        if others_are_busy():  # as `glccl` does
            environment["OMP_WAIT_POLICY"] = "PASSIVE"
        for _ in range(options.rounds):
            for row in options.rows:
                command = [sys.executable, __file__, "--threads", str(options.threads), "--measure", row, *paths]
                child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
                found = json.loads(child.stdout.splitlines()[-1])
                print(found, file=sys.stderr, flush=True)
                best[row] = min(best.get(row, found), found, key=lambda one: one["seconds"])
    rows = table(best, len(paths), options.threads)
    for number, row in enumerate(rows):
        show(row, number == 0, wide=("what",))
    write_csv(rows, "indexing", options.output)
    return None


if __name__ == "__main__":
    main()
