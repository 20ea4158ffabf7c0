"""Verifies the download of a benchmark: annotations, counts, and that every video decodes."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from datasets import config
from datasets.fingerprint import Hasher
from rich.table import Table
from tqdm.auto import tqdm

from ..video_decoding_glccl import VideoDamageWarning, decode_video
from . import BENCHMARKS
from .benchmark import Canonical, count, found_videos
from .captions import IndivisibleError
from .files import add_to_ledger, read_ledger
from .pool import map_videos


@dataclass
class SplitReport:
    """What was found of a split."""

    split: str
    problem: str = ""  # why its annotations cannot be read
    videos: int = 0
    captions: int = 0
    canonical: Canonical = field(default_factory=lambda: Canonical("", None, None))
    # Video id -> what is said of it; what is damaged can be decoded in part.
    missing: dict[str, str] = field(default_factory=dict)
    undecodable: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    noted: dict[str, str] = field(default_factory=dict)  # which of several streams is used

    @property
    def ok(self) -> bool:
        """Whether every example can be used. Counts that differ from the canonical ones do not speak against it."""
        return not (self.problem or self.missing or self.undecodable)

    @property
    def is_canonical(self) -> bool:
        """Whether the annotations are those of published results, as far as counts tell."""
        return not self.problem and self.canonical.is_met(self.videos, self.captions)


@dataclass
class CheckReport:
    """The verdict on a download; `ok` decides the exit code of `glccl data check`."""

    benchmark: str
    splits: list[SplitReport]

    @property
    def ok(self) -> bool:
        """Whether every split is complete and decodes."""
        return all(split.ok for split in self.splits)

    def table(self) -> Table:
        """One row per split."""
        table = Table(title=f"{self.benchmark}: {'complete' if self.ok else 'NOT complete'}")
        for column in ("split", "videos", "captions", "missing", "undecodable", "damaged", "verdict"):
            text = column in ("split", "verdict")
            table.add_column(column, justify="left" if text else "right", no_wrap=column != "verdict")
        for split in self.splits:
            if split.problem:
                table.add_row(split.split, *["-"] * 5, split.problem)
                continue
            numbers = [
                f"{found:,}" if canonical in (None, found) else f"{found:,} of {canonical:,}"
                for found, canonical in (
                    (split.videos, split.canonical.videos),
                    (split.captions, split.canonical.captions),
                    *((len(problems), None) for problems in (split.missing, split.undecodable, split.damaged)),
                )
            ]
            verdict = "ok" if split.ok else "NOT complete"
            table.add_row(split.split, *numbers, verdict if split.is_canonical else f"{verdict}; counts differ")
        return table

    def details(self, limit: int = 10) -> list[str]:
        """A line for each of the first `limit` missing, undecodable, damaged and noted videos of a split."""
        return [
            f"{split.split}: {reason}"
            for split in self.splits
            for problems in (split.missing, split.undecodable, split.damaged, split.noted)
            for reason in list(problems.values())[:limit]
        ]


def check_benchmark(
    name: str,
    data_dir: str | Path | None,
    splits: Sequence[str] | None = None,
    num_proc: int = 1,
    **options: Any,
) -> CheckReport:
    """Reads the annotations of every split, or of some, and decodes the frames that a model would see of every video.

    A file in the cache of `datasets`, one for each folder, gets a line for every decoded video; the next check decodes
    only what is not in it or has changed since. `options` are the benchmark's.

    Raises:
        ValueError: a benchmark without downloaded files, an unknown split or option; of "captions", a table that
            cannot be used.
        FileNotFoundError: no such folder.
    """
    downloaded = [known for known in BENCHMARKS if known != "shapes"]
    if name not in downloaded:
        raise ValueError(f"{name!r} is no benchmark that is downloaded; those are {', '.join(downloaded)}")
    benchmark = import_module(f".{name}", __package__).BENCHMARK
    if data_dir is None or not Path(data_dir).is_dir():
        raise FileNotFoundError(f"data_dir={data_dir} is not a folder: name that of the videos and their annotations")
    options = benchmark.check_options(options) | {"data_dir": str(data_dir)}

    reports, videos = [], []
    try:
        names = splits or benchmark.split_names(**options)
    except IndivisibleError as error:  # files and windows are looked at all the same
        reports.append(SplitReport("all", problem=str(error)))
        names, options = ["test"], options | {"split_ratio": (0, 0, 1)}
    for split in map(benchmark.check_split, names):
        try:
            builder = benchmark(split, **options)
            dataset = builder.build()
        except (OSError, ValueError) as error:
            reports.append(SplitReport(split, problem=str(error)))
            continue
        reports.append(SplitReport(split, "", *count(dataset), builder.canonical()))
        there = found_videos(dataset)
        for video_id in dataset.select(np.flatnonzero(~there)).unique("video_id"):
            reports[-1].missing[video_id] = f"{builder.place_of(video_id)} is missing"
        rows = dataset.select(np.flatnonzero(there)).select_columns(["video_id", "video", "start", "end"])
        for row in {row["video_id"]: row for row in rows}.values():
            job = (row["video"]["path"], row["start"], row["end"])
            videos.append((reports[-1], row["video_id"], builder.place_of(row["video_id"]), job))

    key = Hasher.hash([name, str(Path(data_dir).absolute())])
    done = Path(config.HF_DATASETS_CACHE) / "checks" / f"{name}-{key}.jsonl"
    done.parent.mkdir(parents=True, exist_ok=True)
    results, keys = read_ledger(done), {}
    for *_, job in videos:
        status = os.stat(job[0])
        keys[job] = json.dumps([*job, status.st_size, status.st_mtime_ns])
    waiting = [job for job, key in keys.items() if key not in results]
    bar = tqdm(total=len(keys), desc="decode", unit="video", initial=len(keys) - len(waiting))
    with done.open("a", encoding="utf-8") as ledger, bar:
        for outcome in map_videos(_decode, waiting, num_proc):
            kind = "damaged" if isinstance(outcome.warning, VideoDamageWarning) else "noted"
            result = ["undecodable", outcome.error] if outcome.error else [kind, str(outcome.warning or "")]
            results[keys[outcome.job]] = result
            add_to_ledger(ledger, keys[outcome.job], result)
            bar.update()
    for report, video_id, place, job in videos:
        kind, reason = results[keys[job]]
        if reason:
            getattr(report, kind)[video_id] = reason if place == video_id else f"{place}: {reason}"
    return CheckReport(name, reports)


def _decode(path: str, start: float | None, end: float | None) -> None:
    decode_video(path, start=start, end=end, transform=lambda frame: frame[0, 0].copy())  # all of 4K are 450 MB
