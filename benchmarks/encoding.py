r"""Frames a second through the video tower, by runtime: torch, torch.compile, ONNX Runtime, each in float32 and int8.

    python benchmarks/encoding.py    # ViT-B/32 sizes, random weights
    python benchmarks/encoding.py --checkpoint hub/models/glccl-shapes --data-dir DATA    # and R@1 on shapes

All runtimes take turns on the same batches, one thread each, so other work on the machine slows all of them; `ratio`
is against torch in float32, of the medians over the rounds. `cosine` is to the features of torch in float32 (mean and
least over all frames). int8: products of linear layers alone, with weights quantised beforehand and activations as
they come (dynamic) or by ranges seen on other frames (static). Prints a table and writes
benchmarks/results/encoding[_shapes]_<hardware>.csv.
"""

import argparse
import copy
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from table import RESULTS, show, write_csv
from torch import Tensor

from modeling_glccl import GLCCLConfig, GLCCLModel
from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.data import load_benchmark
from modeling_glccl.evaluation import retrieval_metrics
from modeling_glccl.features_glccl import GLCCLVideoFeatures
from modeling_glccl.onnx_export import INPUTS, Tower, export_tower

Encoder = Callable[[Tensor, Tensor], Tensor]


class Frames(CalibrationDataReader):
    """Batches of pixels and masks, for the ranges of activations."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]]):
        self.batches: Iterator = iter(batches)

    def get_next(self) -> Any:
        """The next one by the names of the inputs, or None."""
        return next((_named(*batch) for batch in self.batches), None)


def _named(*inputs: Tensor) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in zip(INPUTS["video"], inputs, strict=True)}


def encoders(model: GLCCLModel, calibration: list, folder: Path, names: list[str]) -> Iterator[tuple[str, Encoder]]:
    """Name and encoder, [V, Nf, 3, H, W] and [V, Nf] -> [V, Nf, D], of every runtime asked for."""
    tower = Tower(model, "video").eval()
    linear = {"op_types_to_quantize": ["MatMul", "Gemm"], "weight_type": QuantType.QInt8, "per_channel": True}
    linear["reduce_range"] = True  # 7 bits: sums of 8 bits saturate where a CPU has AVX2 alone
    paths = {name: folder / f"{name.replace(' ', '_')}.onnx" for name in ("onnx fp32", "onnx dynamic", "onnx static")}
    if any(name in paths for name in names):
        export_tower(model, "video", paths["onnx fp32"])
    for name in names:
        if name == "torch fp32":
            yield name, lambda *inputs: tower(*inputs)[0]
        elif name == "torch compile":
            compiled = torch.compile(tower, fullgraph=True)
            yield name, lambda *inputs, compiled=compiled: compiled(*inputs)[0]
        elif name == "torch dynamic":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a move to torchao, which is another package
                small = torch.ao.quantization.quantize_dynamic(copy.deepcopy(tower), {torch.nn.Linear})
            yield name, lambda *inputs, small=small: small(*inputs)[0]
        else:
            if name == "onnx dynamic":
                quantize_dynamic(paths["onnx fp32"], paths[name], **linear)
            elif name == "onnx static":
                quantize_static(
                    paths["onnx fp32"], paths[name], Frames(calibration), activation_type=QuantType.QUInt8, **linear
                )
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session: Any = onnxruntime.InferenceSession(paths[name], options)
            yield name, lambda *inputs, session=session: torch.from_numpy(session.run(None, _named(*inputs))[0])


RUNTIMES = ["torch fp32", "torch dynamic", "torch compile", "onnx fp32", "onnx dynamic", "onnx static"]


@torch.no_grad()
def measure(model: GLCCLModel, batches: list, calibration: list, rounds: int, names: list[str]) -> tuple[dict, dict]:
    """Rows by runtime, and the features [V, Nf, D] that each made of all batches."""
    with TemporaryDirectory() as folder:
        built = dict(encoders(model, calibration, Path(folder), names))
        features = {name: torch.cat([encode(*batch) for batch in batches]) for name, encode in built.items()}
        seconds = {name: [] for name in built}
        for number in range(rounds):
            batch = batches[number % len(batches)]
            for name, encode in built.items():
                started = time.perf_counter()
                encode(*batch)
                seconds[name].append((time.perf_counter() - started) / batch[1].numel())
    rows = {}
    real = torch.cat([mask for _, mask in batches]).bool()
    for name in built:
        cosine = torch.cosine_similarity(features[name], features["torch fp32"], dim=-1)[real]
        rows[name] = {
            "runtime": name,
            "frames_per_s": round(1 / median(seconds[name]), 2),
            "ratio": round(median(seconds["torch fp32"]) / median(seconds[name]), 2),
            "cosine": round(cosine.mean().item(), 5),
            "least_cosine": round(cosine.min().item(), 5),
        }
    return rows, features


def random_batches(count: int, videos: int, side: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Smooth random frames, 12 a video, as normalised pixels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count * videos * 12, 3, 7, 7, generator=generator)
    frames = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return [(part, torch.ones(videos, 12).bool()) for part in frames.view(count, videos, 12, 3, side, side)]


@torch.no_grad()
def shapes_rows(checkpoint: str, data_dir: str, rounds: int, names: list[str]) -> list[dict]:
    """Rows with text-to-video R@1 on the shapes test set; ranges of activations from its validation set."""
    model, processor = load_checkpoint(checkpoint)
    loaded: dict[str, list] = {}
    for split, most in (("test", None), ("validation", 64)):
        dataset: Any = load_benchmark("shapes", data_dir=data_dir, split=split)
        paths = list(dict.fromkeys(video["path"] for video in dataset["video"]))[:most]
        parts = (processor(videos=paths[start : start + 16]) for start in range(0, len(paths), 16))
        loaded[split] = [(part["pixel_values_videos"], part["padding_mask_videos"].bool()) for part in parts]
        if split == "test":
            places = {path: place for place, path in enumerate(paths)}
            index = torch.tensor([places[video["path"]] for video in dataset["video"]])
            text = model.get_text_features(**processor(text=dataset["caption"]))
    rows, features = measure(model, loaded["test"], loaded["validation"], rounds, names)
    mask = torch.cat([mask for _, mask in loaded["test"]])
    for name, row in rows.items():
        scores = model.similarity(text, GLCCLVideoFeatures(frames=features[name], frame_mask=mask))
        row["R@1"] = round(retrieval_metrics(scores, index)["t2v"]["R@1"], 2)
    return list(rows.values())


def main() -> None:
    """Parses the command line, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="with --data-dir: measure this one on the shapes benchmark")
    parser.add_argument("--data-dir")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--videos", type=int, default=2, help="in a batch of random frames")
    parser.add_argument("--runtimes", nargs="*", choices=RUNTIMES, default=RUNTIMES)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = ["torch fp32", *(name for name in options.runtimes if name != "torch fp32")]
    if options.checkpoint:
        rows = shapes_rows(options.checkpoint, options.data_dir, options.rounds, names)
    else:
        torch.manual_seed(0)
        model = GLCCLModel(GLCCLConfig()).eval()
        batches = random_batches(2, options.videos, 224, 0)
        rows = list(
            measure(model, batches, random_batches(2, options.videos, 224, 1), options.rounds, names)[0].values()
        )
    for number, row in enumerate(rows):
        show(row, number == 0, wide=("runtime",))
    write_csv(rows, "encoding_shapes" if options.checkpoint else "encoding", options.output)


if __name__ == "__main__":
    main()
