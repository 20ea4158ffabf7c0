"""Annotation files of every benchmark, and tables of one's own captions."""

import json
import pickle
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import datasets
import datasets.config
import miniatures

import modeling_glccl.data.captions  # noqa: F401 (imported before the forks, as all below)
from modeling_glccl.data import load_benchmark
from modeling_glccl.data.check import check_benchmark

from .harness import attempt
from .mutate import ODD, mutate_bytes, mutate_json, mutate_text, mutate_tree

ROWS = [
    {"file_name": "clips/a.mp4", "caption": "a red ball bounces", "start": 0.0, "end": 2.5, "split": "train"},
    {"file_name": "clips/a.mp4", "caption": "the same, later", "start": 2.5, "end": 5.0, "split": "train"},
    {"file_name": "b [x].mkv", "caption": "ein schöner Tag", "start": None, "end": None, "split": "validation"},
    {"file_name": "c.webm", "caption": '"quoted", with commas', "start": None, "end": None, "split": "test"},
]


def setup(seeds: Path) -> None:
    for name, make in miniatures.BENCHMARKS.items():
        make(seeds / name, videos=False)
    for form in ("id to enCap", "list"):
        miniatures.vatex(seeds / f"vatex-{form[:2]}", form, videos=False)
    captions = json.loads((miniatures.msvd(seeds / "msvd-pickle", videos=False) / "captions_msvd.json").read_text())
    (seeds / "msvd-pickle" / "msvd" / "captions_msvd.json").unlink()
    words = {name: [text.split() for text in texts] for name, texts in captions.items()}
    (seeds / "msvd-pickle" / "msvd" / "raw-captions.pkl").write_bytes(pickle.dumps(words))
    for suffix in ("csv", "jsonl", "parquet"):
        folder = seeds / f"captions-{suffix}"
        folder.mkdir()
        miniatures.write_table(folder / f"metadata.{suffix}", ROWS)


def warm(seeds: Path) -> None:
    datasets.disable_progress_bars()


def run(rng: random.Random, seeds: Path, work: Path) -> None:
    warnings.simplefilter("ignore")
    datasets.config.HF_DATASETS_CACHE = work / "cache"
    layout = rng.choice(sorted(path.name for path in seeds.iterdir()))
    folder = Path(shutil.copytree(seeds / layout, work / "data"))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path, other = rng.choice(files), rng.choice(files).read_bytes()
    content = path.read_bytes()
    if path.suffix == ".json":
        path.write_bytes(mutate_json(rng, content, other))
    elif path.suffix == ".pkl" and rng.random() < 0.5:
        path.write_bytes(pickle.dumps(mutate_tree(rng, pickle.loads(content)), protocol=rng.choice((0, 2, 4, 5))))
    elif path.suffix == ".pkl" or (path.suffix == ".parquet" and rng.random() < 0.5):
        path.write_bytes(mutate_bytes(rng, content, other))
    elif path.suffix == ".parquet" or (path.name.startswith("metadata") and rng.random() < 0.5):
        rows = mutate_tree(rng, ROWS)
        if rng.random() < 0.5:  # a column of another type
            name, value = rng.choice(tuple(ROWS[0])), rng.choice(ODD)
            rows = [row | {name: value} for row in ROWS]
        try:
            miniatures.write_table(path, rows)
        except Exception:  # what no such table can hold
            path.write_bytes(mutate_bytes(rng, content))
    else:
        path.write_bytes(mutate_text(rng, content, other))
    benchmark = layout.partition("-")[0]
    split = rng.choice(("train", "test", None))
    options: dict[str, Any] = {"captions": rng.choice(("all", "all", "list", "random"))}
    if rng.random() < 0.2:
        report = attempt(lambda: check_benchmark(benchmark, folder, None, 0), str(folder))
        assert not report.ok, "complete without any video"
        assert report.table().row_count == len(report.splits)
        return
    options |= {"split": split, "with_videos": False}
    loaded = attempt(lambda: load_benchmark(benchmark, folder, **options), str(folder), path.name, benchmark)
    for dataset in loaded.values() if isinstance(loaded, dict) else [loaded]:
        _judge(dataset)


def _judge(dataset: datasets.Dataset) -> None:
    """Whether there is a text to read, an id and a window in every row."""
    assert len(dataset), "no rows"
    for row in dataset.to_list():
        captions = row["captions"] if "captions" in row else [row["caption"]]
        assert captions and all(isinstance(caption, str) and caption.strip() for caption in captions), row  # noqa: PT018
        assert not {"nan", "null", "none"} & {caption.strip().lower() for caption in captions}, row
        assert row["video_id"].strip(), row
        start, end = row["start"], row["end"]
        assert start is None or 0 <= start < float("inf"), row
        assert end is None or (start or 0) < end < float("inf"), row
