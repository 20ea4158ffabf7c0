"""Re-encodes a folder of videos as the paper does before training: in parallel, and going on where it stopped."""

import io
import json
import multiprocessing
import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import av
from filelock import FileLock, Timeout
from rich.table import Table
from tqdm.auto import tqdm

from ..video_decoding_glccl import VideoDecodeError
from .files import VIDEO_SUFFIXES, write_whole
from .reencode import CompressSettings, compress_video

# Hidden, so that nothing takes them for videos of the folder.
LEDGER, LOCK = ".compressed.jsonl", ".compressed.lock"


@dataclass
class CompressReport:
    """What became of every video; `ok` decides the exit code of `glccl data compress`.

    Args:
        compressed: videos encoded in this call.
        skipped: videos that an earlier call had encoded with the same settings and that did not change since.
        bytes_before, bytes_after: of both together.
        failed: source path -> why it could not be read.
        damaged: source path -> warning, of videos that could be read in part and were encoded as far.
        ignored: files that are no videos by their suffix.
    """

    compressed: int = 0
    skipped: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every video was encoded."""
        return not self.failed

    def table(self) -> Table:
        """One row of totals."""
        table = Table(title="compressed" if self.ok else "NOT all could be compressed")
        row = {
            "videos": f"{self.compressed + self.skipped:,}",
            "skipped": f"{self.skipped:,}",
            "MB before": f"{self.bytes_before / 1e6:,.1f}",
            "MB after": f"{self.bytes_after / 1e6:,.1f}",
            "after / before": f"{self.bytes_after / self.bytes_before:.1%}" if self.bytes_before else "-",
            "damaged": f"{len(self.damaged):,}",
            "failed": f"{len(self.failed):,}",
        }
        for column in row:
            table.add_column(column, justify="right")
        table.add_row(*row.values())
        return table

    def details(self) -> list[str]:
        """A line for each failed and damaged video, and one for the files that are no videos."""
        lines = [f"failed: {reason}" for reason in self.failed.values()]
        lines += [f"damaged: {reason}" for reason in self.damaged.values()]
        if self.ignored:
            lines.append(f"ignored: {self.ignored[0]} and all other files ({len(self.ignored)}) that are no videos")
        return lines


class _Job(NamedTuple):
    source: Path
    target: Path
    settings: CompressSettings


class _Result(NamedTuple):
    kind: str  # "ok", "damaged" or "failed"
    message: str = ""
    size: int = 0


def compress_folder(
    source_dir: str | Path,
    output_dir: str | Path,
    settings: CompressSettings | None = None,
    num_proc: int = 1,
    progress: bool = True,
) -> CompressReport:
    """Re-encodes every video below a folder as H.264 in MP4, under the same relative name with the suffix .mp4.

    What an earlier call finished is skipped: a ledger in `output_dir` holds size and time of each source. A call that
    is killed loses the videos it was working on and nothing else. A video that cannot be read stops nothing.

    Args:
        source_dir: the videos: files with a video's suffix, and those without any that FFmpeg takes for one. Hidden
            files are left out.
        output_dir: made if needed.
        settings: frame rate, size and quality.
        num_proc: processes, each decoding and encoding with one thread; 1 works in this process.
        progress: shows a progress bar.

    Raises:
        FileNotFoundError: no such `source_dir`.
        ValueError: no videos there; two of them would get the same name; `output_dir` lies in `source_dir`, or holds
            files of those names that this function did not write; another process compresses into it.
        OSError: a file cannot be written (a full disk, for instance); it is named.
    """
    source_dir, output_dir, settings = Path(source_dir), Path(output_dir), settings or CompressSettings()
    if not source_dir.is_dir():
        raise FileNotFoundError(f"{source_dir} is not a folder")
    if output_dir.resolve().is_relative_to(source_dir.resolve()):
        raise ValueError(f"the compressed videos of {source_dir} cannot go into that folder itself: got {output_dir}")
    report = CompressReport()
    targets = _targets(source_dir, output_dir, report)
    ledger_file = output_dir / LEDGER
    if not ledger_file.exists() and (foreign := [target for target in targets.values() if target.exists()]):
        raise ValueError(
            f"{len(foreign)} files such as {foreign[0]} exist and were not written by this command, which would "
            "replace them: choose another folder for the compressed videos"
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output_dir / LOCK, timeout=0):
            for partial in output_dir.rglob(".*.partial"):
                partial.unlink()
            _compress_all(targets, ledger_file, settings, num_proc, progress, report)
    except Timeout as error:
        raise ValueError(f"another process compresses videos into {output_dir}: wait for it to end") from error
    return report


def _targets(source_dir: Path, output_dir: Path, report: CompressReport) -> dict[Path, Path]:
    """Source -> target of every video."""
    targets, sources = {}, {}
    for root, folders, names in os.walk(source_dir):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            source = Path(root, name)
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in VIDEO_SUFFIXES and not (suffix in ("", ".") and _is_video(source)):
                report.ignored.append(str(source))
                continue
            targets[source] = output_dir / source.parent.relative_to(source_dir) / f"{stem}.mp4"
            sources.setdefault(targets[source], []).append(source)
    if not targets:
        raise ValueError(f"{source_dir}: no videos there (suffixes {', '.join(VIDEO_SUFFIXES)})")
    if collisions := [f"{' and '.join(map(str, same))} -> {to}" for to, same in sources.items() if len(same) > 1]:
        raise ValueError(
            f"{len(collisions)} names stand for several videos ({'; '.join(collisions[:5])}): rename all but one"
        )
    return targets


def _is_video(path: Path) -> bool:
    """Whether FFmpeg finds pictures in a file whose name says nothing (some of DiDeMo's)."""
    try:
        with av.open(str(path)) as container:
            return bool(container.streams.video)
    except (av.FFmpegError, OSError):
        return False


def _compress_all(
    targets: dict[Path, Path],
    ledger_file: Path,
    settings: CompressSettings,
    num_proc: int,
    progress: bool,
    report: CompressReport,
) -> None:
    """Compresses what the ledger does not hold, and notes each video in the ledger once its file is in place."""
    ledger = _read_ledger(ledger_file)
    waiting = []
    for source, target in targets.items():
        entry = ledger.get(_key(target, ledger_file))
        if target.exists() and entry == _entry(source, target, settings, ledger_file):
            report.skipped += 1
            _count(report, source, target)
        else:
            waiting.append(_Job(source, target, settings))
    with (
        ledger_file.open("a", encoding="utf-8") as log,
        tqdm(total=len(targets), initial=report.skipped, desc="compress", unit="video", disable=not progress) as bar,
    ):
        for job, result in _results(waiting, num_proc):
            if result.kind == "failed":
                report.failed[str(job.source)] = result.message
            else:
                if result.kind == "damaged":
                    report.damaged[str(job.source)] = result.message
                report.compressed += 1
                _count(report, job.source, job.target)
                log.write(json.dumps(_entry(job.source, job.target, settings, ledger_file)) + "\n")
                log.flush()
            bar.update()


def _count(report: CompressReport, source: Path, target: Path) -> None:
    report.bytes_before += source.stat().st_size
    report.bytes_after += target.stat().st_size


def _key(target: Path, ledger_file: Path) -> str:
    return str(target.relative_to(ledger_file.parent))


def _entry(source: Path, target: Path, settings: CompressSettings, ledger_file: Path) -> dict[str, Any]:
    """What the ledger says of a video; another one whenever source, settings or target change."""
    status = source.stat()
    return {
        "video": _key(target, ledger_file),
        "source_bytes": status.st_size,
        "source_mtime_ns": status.st_mtime_ns,
        "bytes": target.stat().st_size,
        **asdict(settings),
    }


def _read_ledger(ledger_file: Path) -> dict[str, dict[str, Any]]:
    """The newest entry of every video; makes the file, and ends a line at which a call was killed."""
    ledger_file.touch()
    content = ledger_file.read_text(encoding="utf-8")
    if content and not content.endswith("\n"):
        with ledger_file.open("a", encoding="utf-8") as log:
            log.write("\n")
    entries = {}
    for line in content.splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        entries[entry["video"]] = entry
    return entries


def _results(jobs: list[_Job], num_proc: int) -> Iterator[tuple[_Job, _Result]]:
    """Every job with its result, as they end."""
    if num_proc <= 1:
        yield from ((job, _compress(job)) for job in jobs)
        return
    waiting, suspects = iter(jobs), []
    running: dict[Future, _Job] = {}
    pool = _pool(num_proc)
    try:
        while True:
            # Few at a time: all that is under way when a process crashes must be tried again one by one.
            for job in islice(waiting, 0 if suspects else 2 * num_proc - len(running)):
                running[pool.submit(_compress, job)] = job
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    suspects.append(job)
                else:
                    yield job, future.result()
            if suspects and not running:
                yield from ((job, _compress_alone(job)) for job in suspects)
                suspects, pool = [], _pool(num_proc)
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(num_proc: int) -> ProcessPoolExecutor:
    # Not forked: a process that has run PyTorch or FFmpeg threads must not be.
    return ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is killed; it would wait for work for ever."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _compress_alone(job: _Job) -> _Result:
    """Compresses in a process of its own a video that may have been what crashed the others."""
    with _pool(1) as pool:
        try:
            return pool.submit(_compress, job).result()
        except BrokenProcessPool:
            return _Result("failed", f"{job.source}: the process that read it crashed or was killed (out of memory?)")


def _compress(job: _Job) -> _Result:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            encoded = compress_video(job.source, job.settings)
        except VideoDecodeError as error:
            return _Result("failed", str(error))
    try:
        write_whole(job.target, io.BytesIO(encoded))
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write the compressed video ({error.strerror}); what is finished is kept",
            str(job.target),
        ) from error
    return _Result("damaged", str(caught[0].message)) if caught else _Result("ok")
