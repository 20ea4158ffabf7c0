"""Verifies the download of a benchmark: annotations, counts, and that every video decodes."""

import json
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from datasets.fingerprint import Hasher
from rich.table import Table
from tqdm.auto import tqdm

from ..video_decoding_glccl import VideoDecodeError, decode_video
from . import BENCHMARKS
from .benchmark import Canonical, VideoBenchmark, count, found_videos


@dataclass
class SplitReport:
    """What was found of a split.

    Args:
        split: its name.
        problem: why its annotations cannot be read; empty if they can.
        videos, captions: how many the annotations name.
        canonical: how many they should.
        missing: id -> message, of videos that have no file.
        undecodable: id -> reason, of videos that cannot be decoded.
        damaged: id -> warning, of videos that can be decoded in part.
    """

    split: str
    problem: str = ""
    videos: int = 0
    captions: int = 0
    canonical: Canonical | None = None
    missing: dict[str, str] = field(default_factory=dict)
    undecodable: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every example can be used. Counts that differ from the canonical ones do not speak against it."""
        return not (self.problem or self.missing or self.undecodable)

    @property
    def is_canonical(self) -> bool:
        """Whether the annotations are those of published results, as far as counts tell."""
        return self.canonical is not None and (self.videos, self.captions) == (
            self.canonical.videos or self.videos,
            self.canonical.captions or self.captions,
        )


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
            canonical = split.canonical
            verdict = "ok" if split.ok else "NOT complete"
            table.add_row(
                split.split,
                _of(split.videos, canonical.videos),
                _of(split.captions, canonical.captions),
                f"{len(split.missing):,}",
                f"{len(split.undecodable):,}",
                f"{len(split.damaged):,}",
                verdict if split.is_canonical else f"{verdict}; counts differ",
            )
        return table

    def details(self, limit: int = 10) -> list[str]:
        """A line for each of the first `limit` missing, undecodable and damaged videos of a split."""
        lines = []
        for split in self.splits:
            for problems in (split.missing, split.undecodable, split.damaged):
                lines += [f"{split.split}: {reason}" for reason in list(problems.values())[:limit]]
        return lines


def check_benchmark(
    name: str,
    data_dir: str | Path,
    splits: Sequence[str] | None = None,
    num_proc: int = 1,
    resume_file: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> CheckReport:
    """Reads the annotations of every split and decodes the frames that a model would see of every video.

    Args:
        name: the benchmark.
        data_dir: its folder.
        splits: those to check; None for all.
        num_proc: processes that decode.
        resume_file: JSON lines, one per decoded video; the next check decodes only what is not in it or has changed
            since. By default a file in the cache of `datasets`, one for each folder.
        progress: shows a progress bar.
        **options: of the benchmark, as for [`load_benchmark`].

    Raises:
        ValueError: a benchmark without downloaded files, an unknown split or option; of "captions", a table that
            cannot be used.
        FileNotFoundError: no such folder.
    """
    downloaded = [known for known in BENCHMARKS if known != "shapes"]
    if name not in downloaded:
        raise ValueError(f"{name!r} is no benchmark that is downloaded; those are {', '.join(downloaded)}")
    benchmark = import_module(f".{name}", __package__).BENCHMARK
    if not Path(data_dir).is_dir():
        raise FileNotFoundError(f"data_dir={data_dir} is not a folder")
    options = benchmark.check_options(options) | {"data_dir": str(data_dir)}
    names = splits or benchmark.split_names(**options)
    inspected = [_inspect(benchmark, benchmark.check_split(split), options) for split in names]

    jobs = list(dict.fromkeys(job for _, videos, _ in inspected for job in videos.values()))
    if resume_file is None:
        key = Hasher.hash([name, str(Path(data_dir).absolute())])
        resume_file = Path(datasets.config.HF_DATASETS_CACHE) / "checks" / f"{name}-{key}.jsonl"
    results = _decode_all(jobs, Path(resume_file), num_proc, progress)
    for report, videos, builder in inspected:
        for video_id, job in videos.items():
            kind, reason = results[job]
            if kind != "ok":
                place = builder.place_of(video_id)
                getattr(report, kind)[video_id] = reason if place == video_id else f"{place}: {reason}"
    return CheckReport(name, [report for report, _, _ in inspected])


class _Job(NamedTuple):
    path: str
    start: float | None
    end: float | None


def _inspect(
    benchmark: type[VideoBenchmark], split: str, options: dict[str, Any]
) -> tuple[SplitReport, dict[str, _Job], VideoBenchmark | None]:
    """What the annotations say, what to decode by video id, and the builder that has read them."""
    try:
        builder = benchmark.from_files(split, **options)
        dataset = builder.build()
    except (OSError, ValueError) as error:
        return SplitReport(split, problem=str(error)), {}, None
    report = SplitReport(split, "", *count(dataset), builder.canonical())
    absent = dataset.select(np.flatnonzero(~found_videos(dataset))).unique("video_id")
    report.missing = {video_id: f"{builder.place_of(video_id)} is missing" for video_id in absent}
    rows = dataset.select(np.flatnonzero(found_videos(dataset))).select_columns(["video_id", "video", "start", "end"])
    jobs = {row["video_id"]: _Job(row["video"]["path"], row["start"], row["end"]) for row in rows}
    return report, jobs, builder


def _decode_all(jobs: list[_Job], resume_file: Path, num_proc: int, progress: bool) -> dict[_Job, tuple[str, str]]:
    """("ok" | "undecodable" | "damaged", reason) of each job."""
    results = dict(_read_results(resume_file))
    results = {job: results[job, _state(job.path)] for job in jobs if (job, _state(job.path)) in results}
    waiting = [job for job in jobs if job not in results]
    resume_file.parent.mkdir(parents=True, exist_ok=True)
    if resume_file.exists() and not resume_file.read_bytes().endswith(b"\n"):
        with resume_file.open("a", encoding="utf-8") as log:
            log.write("\n")
    with (
        resume_file.open("a", encoding="utf-8") as log,
        tqdm(total=len(jobs), initial=len(results), desc="decode", unit="video", disable=not progress) as bar,
        _mapper(num_proc) as decode_each,
    ):
        for job, result in zip(waiting, decode_each(_decode, waiting), strict=True):
            results[job] = result
            log.write(json.dumps([job, _state(job.path), result]) + "\n")
            log.flush()
            bar.update()
    return results


def _read_results(resume_file: Path) -> Iterator[tuple[tuple[_Job, str], tuple[str, str]]]:
    for line in resume_file.read_text(encoding="utf-8").splitlines() if resume_file.exists() else ():
        try:
            job, state, result = json.loads(line)
        except json.JSONDecodeError:  # the line at which a check was stopped
            continue
        yield (_Job(*job), state), tuple(result)


def _state(path: str) -> str:
    """Changes whenever the file does."""
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns}"


@contextmanager
def _mapper(num_proc: int) -> Iterator[Callable]:
    """`map`, here or over processes."""
    if num_proc <= 1:
        yield map
        return
    # Not forked: a process that has run PyTorch or FFmpeg threads must not be.
    with ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def _decode(job: _Job) -> tuple[str, str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            decode_video(job.path, start=job.start, end=job.end)
        except VideoDecodeError as error:
            return "undecodable", str(error)
    return ("damaged", str(caught[0].message)) if caught else ("ok", "")


def _of(found: int, canonical: int | None) -> str:
    return f"{found:,}" if canonical in (None, found) else f"{found:,} of {canonical:,}"
