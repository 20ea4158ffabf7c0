"""What the benchmarks share: rows printed as they are measured, and CSV files named by the hardware."""

import csv
import re
import time
from collections.abc import Collection
from pathlib import Path

import torch

from modeling_glccl.environment import describe_environment

RESULTS = Path(__file__).parent / "results"


def hardware_slug() -> str:
    """The GPU or processor as a part of a file name: `nvidia-h200`, `amd-epyc-2cores`."""
    hardware = describe_environment()["hardware"]
    name = (hardware["gpus"] or [f"{hardware['cpu']} {hardware['cpu_cores']}cores"])[0]
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def wall_clock() -> float:
    """Seconds, once a GPU has done all that it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def show(row: dict, header: bool, narrowest: int = 10, wide: Collection[str] = ()) -> None:
    """Prints a row in columns, under the names of its keys if it is the first; those of `wide` have 22 characters."""
    widths = [22 if key in wide else max(len(key), narrowest) for key in row]
    if header:
        print("  ".join(key.rjust(width) for key, width in zip(row, widths, strict=True)), flush=True)
    print("  ".join(str(value).rjust(width) for value, width in zip(row.values(), widths, strict=True)), flush=True)


def write_csv(rows: list[dict], name: str, folder: Path = RESULTS) -> Path:
    """Writes `<folder>/<name>_<hardware>.csv` with the keys of all rows as columns."""
    path = folder / f"{name}_{hardware_slug()}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {path}")
    return path
