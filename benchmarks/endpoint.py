"""Requests per second of the Inference Endpoints handler: one query against the videos of a feature file.

    python benchmarks/endpoint.py               # ViT-B/32 sizes and a small model, 1,000 videos of 12 frames

Random weights and features: neither changes the time. One client, one request after the other, the handler called in
this process, as the endpoint's server calls it. Beside wall time, CPU seconds of the process per request, which other
work on the machine does not change. Prints a table and writes benchmarks/results/endpoint_<hardware>.csv.
"""

import argparse
import runpy
import tempfile
import time
from pathlib import Path

import errors

import numpy as np
import torch
from table import RESULTS, show, write_csv

from modeling_glccl import GLCCLConfig, GLCCLModel, GLCCLProcessor, GLCCLVideoProcessor, IndexedVideos
from modeling_glccl.features_glccl import GLCCLVideoFeatures
from modeling_glccl.pipeline_glccl import TextVideoRetrievalPipeline
from modeling_glccl.training.tokenizer import train_clip_tokenizer

QUERY = "a man in a white shirt is cutting onions and then puts them into a pan on the stove"
SMALL = {
    "text_config": {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4},
    "vision_config": {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4},
    "projection_dim": 96,
}
MODELS = {"ViT-B/32": {"text_config": {}}, "small": SMALL}


def load_handler(folder: Path):
    """The handler of hub/endpoint, on a checkpoint."""
    file = Path(__file__).parent.parent / "hub" / "endpoint" / "handler.py"
    return runpy.run_path(str(file), run_name="handler")["EndpointHandler"](str(folder))


def save_checkpoint(folder: Path, clip: dict, videos: int, frames: int) -> None:
    """A model with random weights and a feature file of random features."""
    tokenizer = train_clip_tokenizer([QUERY], 600)
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = GLCCLModel(GLCCLConfig(clip_config=clip | {"text_config": clip["text_config"] | tokens}))
    model.save_pretrained(folder)
    processor = GLCCLProcessor(tokenizer, GLCCLVideoProcessor())
    processor.save_pretrained(folder)
    features = GLCCLVideoFeatures(
        frames=torch.randn(videos, frames, model.config.width),
        frame_mask=torch.ones(videos, frames, dtype=torch.bool),
    )
    times = torch.arange(frames, dtype=torch.float64).expand(videos, -1)
    index = IndexedVideos(features, [f"video {i}" for i in range(videos)], times, times[:, -1] + 1)
    pipe = TextVideoRetrievalPipeline(model=model, processor=processor, device="cpu")
    pipe.save_index(folder / "index.safetensors", index)


def measure(handler, request: dict, seconds: float) -> dict[str, float]:
    """Requests per second, CPU seconds per request, and the median and 95th percentile of the latency."""
    handler(request)
    latencies, processor_time = [], time.process_time()
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        before = time.perf_counter()
        assert "error" not in handler(request)
        latencies.append(time.perf_counter() - before)
    elapsed, processor_time = time.perf_counter() - started, time.process_time() - processor_time
    return {
        "requests": len(latencies),
        "requests/s": round(len(latencies) / elapsed, 1),
        "CPU ms/request": round(1000 * processor_time / len(latencies), 1),
        "median ms": round(1000 * float(np.median(latencies)), 1),
        "95% ms": round(1000 * float(np.quantile(latencies, 0.95)), 1),
    }


def main() -> None:
    """Measures every model and request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=20, help="per row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    requests = {
        "rank": {"inputs": QUERY},
        "rank with moments": {"inputs": QUERY, "parameters": {"moments": True}},
        "embed text": {"inputs": {"texts": [QUERY]}},
    }
    rows = []
    for name, clip in MODELS.items():
        with tempfile.TemporaryDirectory() as place:
            torch.manual_seed(0)
            save_checkpoint(Path(place), clip, arguments.videos, arguments.frames)
            handler = load_handler(Path(place))
            for kind, request in requests.items():
                row = {"model": name, "videos": arguments.videos, "frames": arguments.frames, "request": kind}
                rows.append(row | {"threads": arguments.threads} | measure(handler, request, arguments.seconds))
                show(rows[-1], header=len(rows) == 1)
    write_csv(rows, "endpoint", arguments.output)


if __name__ == "__main__":
    main()
