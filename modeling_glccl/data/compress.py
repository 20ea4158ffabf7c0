"""Re-encodes a folder of videos as the paper does before training: in parallel, and going on where it stopped."""

import os
import re
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from rich.table import Column, Table
from tqdm.auto import tqdm

from ..atomic import write_whole
from ..video_decoding_glccl import VideoDamageWarning
from ..video_files import find_videos, why_no_file
from ..video_streams_glccl import VideoDecodeError, open_video
from .files import add_to_ledger, read_ledger
from .pool import map_videos
from .reencode import CompressSettings, compress_video

# Hidden, so that nothing takes them for videos of the folder.
LEDGER, LOCK = ".compressed.jsonl", ".compressed.lock"


@dataclass
class CompressReport:
    """What became of every video; `ok` decides the exit code of `glccl data compress`."""

    compressed: int = 0  # in this call
    skipped: int = 0  # encoded by an earlier call with the same settings, and not changed since
    bytes_before: int = 0  # of both together
    bytes_after: int = 0
    failed: dict[str, str] = field(default_factory=dict)  # source path -> why it could not be read
    damaged: dict[str, str] = field(default_factory=dict)  # source path -> why it was encoded in part
    noted: list[str] = field(default_factory=list)  # what else was said of videos: which of several streams was taken
    ignored: list[str] = field(default_factory=list)  # files that are no videos by their suffix

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
        columns = [Column(name, justify="right") for name in row]
        table = Table(*columns, title="compressed" if self.ok else "NOT all could be compressed")
        table.add_row(*row.values())
        return table

    def details(self) -> list[str]:
        """A line for each failed, damaged and noted video, and one for the files that are no videos."""
        lines = [f"failed: {reason}" for reason in self.failed.values()]
        lines += [f"damaged: {reason}" for reason in self.damaged.values()] + self.noted
        if self.ignored:
            lines.append(f"other files ignored: {len(self.ignored)}, such as {self.ignored[0]}")
        return lines


def compress_folder(
    source_dir: str | Path,
    output_dir: str | Path,
    settings: CompressSettings | None = None,
    num_proc: int = 1,
) -> CompressReport:
    """Re-encodes every video below a folder as H.264 in MP4, under the same relative name with the suffix .mp4.

    What an earlier call finished is skipped: a ledger in `output_dir` holds size and time of each source, which
    `datasets.map` does not (its cache knows whole data sets). A call that is killed or interrupted loses the videos it
    was working on and nothing else. A video that cannot be read stops nothing. Videos are files with a video's suffix,
    and those without any that FFmpeg takes for one; hidden files are left out. Each of `num_proc` processes has one
    thread.

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
    report, sources, doubles = CompressReport(), {}, []
    report.ignored = sorted(set(listing.ignored) - set(listing.videos))
    report.failed = {path: f"{path}: {why_no_file(path)}" for path in listing.irregular}
    for source in map(Path, sorted(listing.videos)):
        name = f"{os.path.splitext(source.relative_to(source_dir))[0]}.mp4"
        if (first := sources.setdefault(name, source)) != source:
            doubles.append(f"{first} and {source} -> {name}")
    if doubles:
        raise ValueError(
            f"{len(doubles)} names stand for several videos ({'; '.join(doubles[:5])}): rename all but one"
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output_dir / LOCK, timeout=0), (output_dir / LEDGER).open("a", encoding="utf-8") as ledger:
            jobs = _what_is_left(sources, output_dir, settings, report)
            with tqdm(desc="compress", total=len(sources), unit="video", initial=report.skipped) as bar:
                for (source, _), content, error, warning in map_videos(compress_video, jobs, num_proc):
                    bar.update()
                    if error:
                        report.failed[str(source)] = error
                        continue
                    name, state = jobs[source, settings]
                    try:
                        # First into the ledger: what is not in there, this command did not write.
                        add_to_ledger(ledger, name, [len(content), *state])
                        write_whole(output_dir / name, content)
                    except OSError as error:
                        reason = f"cannot write the compressed video ({error.strerror}); what is finished is kept"
                        raise OSError(error.errno, reason, str(output_dir / name)) from error
                    report.compressed += 1
                    report.bytes_before += state[0]
                    report.bytes_after += len(content)
                    if isinstance(warning, VideoDamageWarning):
                        report.damaged[str(source)] = str(warning)
                    elif warning:
                        report.noted.append(str(warning))
    except Timeout as error:
        raise ValueError(f"another process compresses videos into {output_dir}: wait for it to end") from error
    except KeyboardInterrupt:
        done = f"{report.compressed + report.skipped} of {len(sources)} videos are compressed"
        raise KeyboardInterrupt(f"{done}; the same command goes on from there") from None
    return report


def _is_video(path: str) -> bool:
    """Whether FFmpeg finds pictures in a file whose name says nothing (some of DiDeMo's)."""
    with suppress(VideoDecodeError), open_video(path, warn=False):
        return True
    return False


def _what_is_left(
    sources: dict[str, Path], output_dir: Path, settings: CompressSettings, report: CompressReport
) -> dict[tuple[Path, CompressSettings], tuple[str, list]]:
    """Job -> name and state, of what the ledger does not hold; puts right what a killed call left behind."""
    ledger = read_ledger(output_dir / LEDGER)
    if foreign := [name for name in sources if name not in ledger and (output_dir / name).exists()]:
        raise ValueError(
            f"{len(foreign)} files such as {output_dir / foreign[0]} exist and were not written by this command, "
            "which would replace them: delete them or choose another folder for the compressed videos"
        )
    for path in output_dir.rglob(".*.partial"):
        name = re.fullmatch(r"\.(.+)\.\d+\.partial", path.name)
        if name and str(path.with_name(name[1]).relative_to(output_dir)) in ledger:
            path.unlink()
    jobs = {}
    for name, source in sources.items():
        status, target = source.stat(), output_dir / name
        state = [status.st_size, status.st_mtime_ns, *astuple(settings)]
        size = target.stat().st_size if target.exists() else 0
        if ledger.get(name) == [size, *state]:
            report.skipped += 1
            report.bytes_before += status.st_size
            report.bytes_after += size
        else:
            jobs[source, settings] = name, state
    return jobs
