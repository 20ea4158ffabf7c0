"""Re-encodes a folder of videos as the paper does before training: in parallel, and going on where it stopped."""

import io
import json
import os
import re
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from rich.table import Table
from tqdm.auto import tqdm

from ..atomic import write_whole
from ..video_decoding_glccl import VideoDecodeError, open_video
from ..video_files import find_videos, why_no_file
from .pool import map_videos
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
        row = {
            "videos": f"{self.compressed + self.skipped:,}",
            "skipped": f"{self.skipped:,}",
            "MB before": f"{self.bytes_before / 1e6:,.1f}",
            "MB after": f"{self.bytes_after / 1e6:,.1f}",
            "after / before": f"{self.bytes_after / self.bytes_before:.1%}" if self.bytes_before else "-",
            "damaged": f"{len(self.damaged):,}",
            "failed": f"{len(self.failed):,}",
        }
        table = Table(*row, title="compressed" if self.ok else "NOT all could be compressed")
        for column in table.columns:
            column.justify = "right"
        table.add_row(*row.values())
        return table

    def details(self) -> list[str]:
        """A line for each failed and damaged video, and one for the files that are no videos."""
        lines = [f"failed: {reason}" for reason in self.failed.values()]
        lines += [f"damaged: {reason}" for reason in self.damaged.values()]
        if self.ignored:
            lines.append(f"ignored: {self.ignored[0]} and all other files ({len(self.ignored)}) that are no videos")
        return lines


def compress_folder(
    source_dir: str | Path,
    output_dir: str | Path,
    settings: CompressSettings | None = None,
    num_proc: int = 1,
    progress: bool = True,
) -> CompressReport:
    """Re-encodes every video below a folder as H.264 in MP4, under the same relative name with the suffix .mp4.

    What an earlier call finished is skipped: a ledger in `output_dir` holds size and time of each source, which
    `datasets.map` does not (its cache knows whole data sets). A call that is killed or interrupted loses the videos it
    was working on and nothing else. A video that cannot be read stops nothing.

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
    listing = find_videos(source_dir)
    if output_dir.resolve().is_relative_to(source_dir.resolve()):
        raise ValueError(f"the compressed videos of {source_dir} cannot go into that folder itself: got {output_dir}")
    listing.videos += [path for path in listing.ignored if Path(path).suffix == "" and _is_video(path)]
    listing.check()
    report, found = CompressReport(), {}
    report.ignored = sorted(set(listing.ignored) - set(listing.videos))
    report.failed = {path: f"{path}: {why_no_file(path)}" for path in listing.irregular}
    for source in map(Path, sorted(listing.videos)):
        stem, _ = os.path.splitext(source.relative_to(source_dir))
        found.setdefault(f"{stem}.mp4", []).append(source)
    if doubles := [f"{' and '.join(map(str, same))} -> {to}" for to, same in found.items() if len(same) > 1]:
        raise ValueError(
            f"{len(doubles)} names stand for several videos ({'; '.join(doubles[:5])}): rename all but one"
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output_dir / LOCK, timeout=0):
            _compress(
                {name: same[0] for name, same in found.items()}, output_dir, settings, num_proc, progress, report
            )
    except Timeout as error:
        raise ValueError(f"another process compresses videos into {output_dir}: wait for it to end") from error
    except KeyboardInterrupt:
        done = f"{report.compressed + report.skipped} of {len(found)} videos are compressed"
        raise KeyboardInterrupt(f"{done}; the same command goes on from there") from None
    return report


def _is_video(path: str) -> bool:
    """Whether FFmpeg finds pictures in a file whose name says nothing (some of DiDeMo's)."""
    with suppress(VideoDecodeError), open_video(path, warn=False):
        return True
    return False


def _compress(
    sources: dict[str, Path],
    output_dir: Path,
    settings: CompressSettings,
    num_proc: int,
    progress: bool,
    report: CompressReport,
) -> None:
    """Compresses to these names what the ledger does not hold."""
    ledger_file, ledger = output_dir / LEDGER, {}
    for line in ledger_file.read_text(encoding="utf-8").splitlines() if ledger_file.exists() else ():
        with suppress(ValueError):  # the line at which a call was killed
            name, state = json.loads(line)
            ledger[name] = state
    if foreign := [name for name in sources if name not in ledger and (output_dir / name).exists()]:
        raise ValueError(
            f"{len(foreign)} files such as {output_dir / foreign[0]} exist and were not written by this command, "
            "which would replace them: delete them or choose another folder for the compressed videos"
        )
    for path in output_dir.rglob(".*.partial"):
        name = re.fullmatch(r"\.(.+)\.\d+\.partial", path.name)
        if name and str(path.with_name(name[1]).relative_to(output_dir)) in ledger:
            path.unlink()  # a call was killed here
    jobs, states = {}, {}
    for name, source in sources.items():
        status, target = source.stat() if source.exists() else None, output_dir / name
        states[name] = [status and status.st_size, status and status.st_mtime_ns, *astuple(settings)]
        size = target.stat().st_size if target.exists() else None
        if ledger.get(name) == [size, *states[name]]:
            report.skipped += 1
            report.bytes_before += status.st_size
            report.bytes_after += size
        else:
            jobs[source, settings] = name
    with (
        ledger_file.open("a", encoding="utf-8") as log,
        tqdm(total=len(sources), initial=report.skipped, desc="compress", unit="video", disable=not progress) as bar,
    ):
        for job, content, error, warning in map_videos(compress_video, jobs, num_proc):
            bar.update()
            if error:
                report.failed[str(job[0])] = error
                continue
            name = jobs[job]
            try:
                # First into the ledger: what is not in there, this command did not write.
                log.write(f"\n{json.dumps([name, [len(content), *states[name]]])}")
                log.flush()
                write_whole(output_dir / name, io.BytesIO(content))
            except OSError as error:
                reason = f"cannot write the compressed video ({error.strerror}); what is finished is kept"
                raise OSError(error.errno, reason, str(output_dir / name)) from error
            report.compressed += 1
            report.bytes_before += states[name][0]
            report.bytes_after += len(content)
            if warning:
                report.damaged[str(job[0])] = warning
