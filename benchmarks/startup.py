"""How long commands take to start: processor seconds, and their ratio to importing torch and transformers' CLIP.

    python benchmarks/startup.py INDEX    # an index made by glccl index, such as runs/demo/index

All rows alternate `--repetitions` times; medians. Prints tables, also of the packages whose modules take longest to
import in a search, and writes benchmarks/results/startup_<hardware>.csv and startup_imports_<hardware>.csv.
"""

import argparse
import os
import resource
import signal
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import errors

from table import RESULTS, show, write_csv

GLCCL = ["-m", "modeling_glccl.cli"]
REFERENCE = "import torch; from transformers import CLIPModel"


def processor_seconds(arguments: list[str]) -> float:
    """Of a process of its own, until it ends, or prints the address at which it serves."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "serve" in arguments and "http://" in line:
            process.send_signal(signal.SIGTERM)
    expected = {128 + signal.SIGTERM} if "serve" in arguments else {2} if "--wrong" in arguments else {0}
    if process.wait() not in expected:
        raise SystemExit(f"{' '.join(arguments)} ended with exit code {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def imports(arguments: list[str]) -> list[tuple[str, float]]:
    """Seconds that the modules of each package took to run, without those that they import, most expensive first."""
    command = [sys.executable, "-X", "importtime", *arguments]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    found: dict[str, float] = defaultdict(float)
    for line in lines:
        if line.startswith("import time:") and (own := line[len("import time:") :].split("|"))[0].strip().isdigit():
            found[own[2].strip().partition(".")[0]] += int(own[0]) / 1e6
    return sorted(found.items(), key=lambda item: -item[1])


def main() -> None:
    """Measures all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", help="of a few videos, with its checkpoint")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONUNBUFFERED"] = "1"  # an address is printed into a pipe
    search = [*GLCCL, "search", "a red star", "--index", arguments.index]
    commands = {
        "python -c pass": ["-c", "pass"],
        "import modeling_glccl": ["-c", "import modeling_glccl"],
        "glccl --help": [*GLCCL, "--help"],
        "glccl search --help": [*GLCCL, "search", "--help"],
        "glccl search --wrong": [*GLCCL, "search", "--wrong"],
        REFERENCE: ["-c", REFERENCE],
        "glccl search": search,
        "glccl serve, until ready": [*GLCCL, "serve", "--index", arguments.index],
    }
    seconds = {name: [] for name in commands}
    for _ in range(arguments.repetitions):
        for name, command in commands.items():
            seconds[name].append(processor_seconds(command))
    reference = statistics.median(seconds[REFERENCE])
    rows = []
    for name, measured in seconds.items():
        median = statistics.median(measured)
        row = {"process": name, "CPU s": round(median, 2), "ratio": round(median / reference, 2)}
        rows.append(row | {"min s": round(min(measured), 2), "max s": round(max(measured), 2)})
        show(rows[-1], header=len(rows) == 1, wide=["process"])
    write_csv(rows, "startup", arguments.output)
    found, rows = imports(search), []
    total = sum(own for _, own in found)
    for name, own in found[:10]:
        rows.append({"imports of glccl search": name, "s": round(own, 2), "share": round(own / total, 3)})
        show(rows[-1], header=len(rows) == 1)
    write_csv(rows, "startup_imports", arguments.output)


if __name__ == "__main__":
    main()
