"""What a neighbour that takes one of the cores does to a training step, and to encoding, on all of them: milliseconds.

    python benchmarks/neighbour.py

Threads of OpenMP that wait for each other spin at first. Where another process has one of their cores, they spin away
the time that the thread they wait for needs. Settings that change this must be there before torch is imported, so
every measurement is a process of its own. Settings alternate, beside a busy loop and without it; medians over
`--repetitions`, and the ratio to the default setting on the quiet machine, taken repetition by repetition. Prints a
table and writes benchmarks/results/neighbour_<hardware>.csv.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import errors

from table import RESULTS, show, write_csv

SETTINGS = {
    "default": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=5000": {"GOMP_SPINCOUNT": "5000"},
}
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"


KINDS = ("training", "encoding")


def measure(seconds: float) -> dict[str, float]:
    """Milliseconds of a step of a small model, by kind: the mean over `seconds` after a tenth of them."""
    import torch

    from modeling_glccl import GLCCLConfig, GLCCLModel

    torch.manual_seed(0)
    tower = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    text = tower | {"vocab_size": 1000, "bos_token_id": 998, "eos_token_id": 999, "pad_token_id": 0}
    vision = tower | {"image_size": 64, "patch_size": 16}
    clip = {"projection_dim": 128, "text_config": text, "vision_config": vision}
    model = GLCCLModel(GLCCLConfig(clip_config=clip, max_words=16, max_frames=4)).train()
    input_ids = torch.randint(1, 998, (8, 16))
    input_ids[:, -1] = 999
    inputs = {"input_ids": input_ids, "pixel_values_videos": torch.randn(8, 4, 3, 64, 64)}

    def step(kind: str) -> None:
        if kind == "training":
            model(**inputs, return_loss=True).loss.backward()
        else:
            with torch.inference_mode():
                model.get_video_features(inputs["pixel_values_videos"])

    found = {}
    for kind in KINDS:
        for limit in (seconds / 10, seconds):
            started, steps = time.perf_counter(), 0
            while time.perf_counter() - started < limit:
                step(kind)
                steps += 1
            found[kind] = 1000 * (time.perf_counter() - started) / steps
    return found


def main() -> None:
    """Measures every setting in fresh processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.seconds)))
        return
    unset = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    clean = {name: value for name, value in os.environ.items() if name not in unset}
    command = [sys.executable, __file__, "--measure", "--seconds", str(arguments.seconds)]
    cases = [(busy, setting) for busy in (False, True) for setting in SETTINGS]
    found = {case: [] for case in cases}
    for _ in range(arguments.repetitions):
        for busy, setting in cases:
            neighbour = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
            try:
                done = subprocess.run(command, env=clean | SETTINGS[setting], stdout=subprocess.PIPE, check=True)
            finally:
                if neighbour is not None:
                    neighbour.kill()
                    neighbour.wait()
            found[busy, setting].append(json.loads(done.stdout))
    rows = []
    for kind in KINDS:
        quiet = [values[kind] for values in found[False, "default"]]
        for (busy, setting), values in found.items():
            ms = [value[kind] for value in values]
            ratio = statistics.median(own / other for own, other in zip(ms, quiet, strict=True))
            row = {"step": kind, "neighbour": "busy" if busy else "none", "setting": setting}
            row |= {"ms": round(statistics.median(ms), 2), "ratio": round(ratio, 3)}
            rows.append(row | {"min ms": round(min(ms), 2), "max ms": round(max(ms), 2)})
            show(rows[-1], header=len(rows) == 1, wide=["setting"])
    write_csv(rows, "neighbour", arguments.output)


if __name__ == "__main__":
    main()
