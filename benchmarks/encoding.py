r"""Frames a second through the video tower, by runtime: torch, torch.compile, ONNX Runtime, OpenVINO, also in int8.

    python benchmarks/encoding.py    # ViT-B/32 sizes, random weights
    python benchmarks/encoding.py --device cuda --videos 32    # precisions of torch, and torch.compile
    python benchmarks/encoding.py --tower text    # sentences a second, one of 11 tokens at a time
    python benchmarks/encoding.py --checkpoint hub/models/glccl-shapes --data-dir DATA    # and R@1 on shapes

All runtimes take turns on the same batches, `--threads` each, so other work on the machine slows all of them; `ratio`
is against torch in float32, of the medians over the rounds, in processor time where there is one thread. OpenVINO is
measured where it is installed, bf16 where the processor has it. `cosine` is to the features of torch in float32 (mean
and least over all frames, or sentences). int8: products of linear layers alone, with weights quantised beforehand and
activations as they come (dynamic) or by ranges seen on other frames or texts (static). Prints a table and writes
benchmarks/results/encoding[_text][_shapes][_threads<n>]_<hardware>.csv.
"""

import argparse
import copy
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import errors

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from table import RESULTS, show, wall_clock, write_csv
from torch import Tensor

from modeling_glccl import GLCCLConfig, GLCCLModel
from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.data import load_benchmark
from modeling_glccl.environment import resolve_precision
from modeling_glccl.evaluation import retrieval_metrics
from modeling_glccl.features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from modeling_glccl.onnx_export import INPUTS, INT8, Tower, export_tower

Encoder = Callable[..., tuple[Tensor, ...]]
FEATURES: dict[str, Any] = {"text": GLCCLTextFeatures, "video": GLCCLVideoFeatures}
DTYPES = {"compile": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Frames(CalibrationDataReader):
    """Batches of inputs, for the ranges of activations."""

    def __init__(self, batches: list[tuple[Tensor, ...]]):
        self.batches: Iterator = iter(batches)

    def get_next(self) -> Any:
        """The next one by the names of the inputs, or None."""
        return next((_named(*batch) for batch in self.batches), None)


def _named(*inputs: Tensor) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in zip(INPUTS[_tower(inputs)], inputs, strict=True)}


def _tower(inputs: Sequence[Tensor]) -> str:
    return "text" if len(inputs) == 1 else "video"


def encoders(model: GLCCLModel, calibration: list, folder: Path, names: list[str]) -> Iterator[tuple[str, Encoder]]:
    """Name and encoder of every runtime: of the inputs of a tower it makes its features' tensors."""
    kind = _tower(calibration[0])
    tower = Tower(model, kind).eval()
    paths = {name: folder / f"{name}.onnx" for name in ("fp32", "dynamic", "static")}
    if any(name.startswith(("onnx", "openvino")) for name in names):
        export_tower(model, kind, paths["fp32"])
    for name in names:
        if name == "torch dynamic":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a move to torchao, which is another package
                small = torch.ao.quantization.quantize_dynamic(copy.deepcopy(tower), {torch.nn.Linear})
            yield name, small
        elif name.startswith("torch"):
            dtype = DTYPES[name.split()[-1]]
            low = tower if dtype == torch.float32 else copy.deepcopy(tower).to(dtype)
            if "compile" in name:
                low = torch.compile(low, fullgraph=True)

            def encode(*inputs: Tensor, low: Any = low, dtype: torch.dtype = dtype) -> tuple[Tensor, ...]:
                return low(*(part.to(dtype) if part.is_floating_point() else part for part in inputs))

            yield name, encode
        else:
            library, kind = name.split()
            path = paths[kind]
            if kind == "dynamic":
                quantize_dynamic(paths["fp32"], path, **INT8)
            elif kind == "static" and not path.exists():
                graph = onnx.load(paths["fp32"]).graph
                weights = {part.name for part in graph.initializer}
                attention = [node.name for node in graph.node if weights.isdisjoint(node.input)]
                more: Any = {"activation_type": QuantType.QUInt8, "nodes_to_exclude": attention}
                quantize_static(paths["fp32"], path, Frames(calibration), **more, **INT8)
            if library == "openvino":
                core = importlib.import_module("openvino").Core()
                run = core.compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()})
                yield name, lambda *inputs, run=run: tuple(map(torch.tensor, run(_named(*inputs)).to_tuple()))
                continue
            options: Any = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session: Any = onnxruntime.InferenceSession(path, options)
            yield name, lambda *inputs, run=session.run: tuple(map(torch.tensor, run(None, _named(*inputs))))


RUNTIMES = ["torch fp32", "torch dynamic", "torch compile", "onnx fp32", "onnx dynamic", "onnx static"]
GPU_RUNTIMES = [f"torch {way}{name}" for way in ("", "compile ") for name in ("fp32", "bf16", "fp16")]
if resolve_precision("auto", "cpu") == "bf16":
    RUNTIMES.append("torch bf16")
if importlib.util.find_spec("openvino"):
    RUNTIMES += ["openvino fp32", "openvino static"]


@torch.no_grad()
def measure(model: GLCCLModel, batches: list, calibration: list, rounds: int, names: list[str]) -> tuple[dict, dict]:
    """Rows by runtime, and the features that each made of all batches."""
    with TemporaryDirectory() as folder:
        built = dict(encoders(model, calibration, Path(folder), names))
        features = {name: _encode(encode, batches) for name, encode in built.items()}
        one_thread = torch.get_num_threads() == 1 and model.device.type == "cpu"
        clock = time.process_time if one_thread else wall_clock
        seconds = {name: [] for name in built}
        for number in range(rounds):
            batch = batches[number % len(batches)]
            for name, encode in built.items():
                started = clock()
                encode(*batch)
                seconds[name].append((clock() - started) / batch[-1].shape[: len(batch)].numel())
    rows = {}
    for name in built:
        found, expected = features[name], features["torch fp32"]
        if _tower(batches[0]) == "text":
            cosine = torch.cosine_similarity(found.sentence, expected.sentence, dim=-1)
        else:
            cosine = torch.cosine_similarity(found.frames, expected.frames, dim=-1)[expected.frame_mask]
        rows[name] = {
            "runtime": name,
            ("frames_per_s" if len(batches[0]) > 1 else "texts_per_s"): round(1 / median(seconds[name]), 2),
            "ratio": round(median(seconds["torch fp32"]) / median(seconds[name]), 2),
            "cosine": round(cosine.mean().item(), 5),
            "least_cosine": round(cosine.min().item(), 5),
        }
    return rows, features


def _encode(encode: Encoder, batches: list[tuple[Tensor, ...]]) -> Any:
    """The features of all batches."""
    kind = FEATURES[_tower(batches[0])]
    return kind.concatenate([kind(*encode(*batch)) for batch in batches]).to(batches[0][0].device, torch.float32)


def random_batches(count: int, videos: int, side: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Smooth random frames, 12 a video, as normalised pixels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count * videos * 12, 3, 7, 7, generator=generator)
    frames = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return [(part, torch.ones(videos, 12).bool()) for part in frames.view(count, videos, 12, 3, side, side)]


@torch.no_grad()
def shapes_rows(checkpoint: str, data_dir: str, tower: str, rounds: int, names: list[str]) -> list[dict]:
    """Rows with text-to-video R@1 on the shapes test set; ranges of activations from its validation set."""
    model, processor = load_checkpoint(checkpoint)
    loaded: dict[str, dict[str, list]] = {}
    for split, most in (("test", None), ("validation", 64)):
        dataset: Any = load_benchmark("shapes", data_dir=data_dir, split=split)
        paths = list(dict.fromkeys(video["path"] for video in dataset["video"]))[:most]
        parts = (processor(videos=paths[start : start + 16]) for start in range(0, len(paths), 16))
        loaded[split] = {
            "text": [(processor(text=[caption])["input_ids"],) for caption in dataset["caption"][:most]],
            "video": [(part["pixel_values_videos"], part["padding_mask_videos"].bool()) for part in parts],
        }
        if split == "test":
            places = {path: place for place, path in enumerate(paths)}
            index = torch.tensor([places[video["path"]] for video in dataset["video"]])
    other = "video" if tower == "text" else "text"
    kept = _encode(Tower(model, other).eval(), loaded["test"][other])
    rows, features = measure(model, loaded["test"][tower], loaded["validation"][tower], rounds, names)
    for name, row in rows.items():
        scores = model.similarity(*((features[name], kept) if tower == "text" else (kept, features[name])))
        row["R@1"] = round(retrieval_metrics(scores, index)["t2v"]["R@1"], 2)
    return list(rows.values())


def main() -> None:
    """Parses the command line, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="with --data-dir: measure this one on the shapes benchmark")
    parser.add_argument("--data-dir")
    parser.add_argument("--tower", choices=["video", "text"], default="video")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--videos", type=int, default=2, help="in a batch of random frames")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of random inputs")
    parser.add_argument("--runtimes", nargs="*", choices=list(dict.fromkeys(RUNTIMES + GPU_RUNTIMES)))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runtimes = options.runtimes or (RUNTIMES if options.device == "cpu" else GPU_RUNTIMES)
    names = ["torch fp32", *(name for name in runtimes if name != "torch fp32")]
    if options.checkpoint:
        rows = shapes_rows(options.checkpoint, options.data_dir, options.tower, options.rounds, names)
    else:
        torch.manual_seed(0)
        model = GLCCLModel(GLCCLConfig()).eval()
        model.to(options.device)  # pyright: ignore[reportArgumentType]
        if options.tower == "text":
            ids = torch.randint(4, 49000, (70, 1, 11), generator=torch.Generator().manual_seed(0))
            ids[:, :, -1] = model.config.eos_token_id
            batches, calibration = ([(part,) for part in parts] for parts in (ids[:6], ids[6:]))
        else:
            batches, calibration = (random_batches(2, options.videos, 224, seed) for seed in (0, 1))
        batches = [tuple(part.to(options.device) for part in batch) for batch in batches]
        rows = list(measure(model, batches, calibration, options.rounds, names)[0].values())
    for number, row in enumerate(rows):
        show(row, number == 0, wide=("runtime",))
    name = "encoding" + "_text" * (options.tower == "text") + "_shapes" * bool(options.checkpoint)
    write_csv(rows, name + f"_threads{options.threads}" * (options.threads > 1), options.output)


if __name__ == "__main__":
    main()
