"""Zip and tar archives of videos -> files, without trusting the names and sizes in them."""

import bz2
import gzip
import io
import lzma
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from ..atomic import write_whole
from .files import safe_path

_PART = r"(?:\.(?:part[-_.]?\w+|\d{2,}|[a-z]{2}))?"
_ARCHIVE = re.compile(rf"(?:(.+\.zip)|(.+\.(?:tar\.(?:gz|bz2|xz)|tar|tgz)){_PART})$", re.IGNORECASE)
# Annotations and features lie in archives beside the videos.
_NO_VIDEO = (".json", ".jsonl", ".csv", ".txt", ".md", ".pkl", ".npy", ".h5", ".hdf5", ".parquet", ".jpg", ".png")
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, *tarfile.GNU_TYPES[:2])
ARCHIVE_PATTERNS = ("*.zip", "*.tar", "*.tar.*", "*.tgz")
# Videos are compressed already: their archives hold little more than their own bytes.
MAX_BYTES, MAX_RATIO, MAX_HEADER = 4 << 40, 50, 1 << 20


def find_archives(*folders: Path) -> list[list[Path]]:
    """The archives that lie directly in these folders, each as its parts in order (one part, if it is whole)."""
    archives: dict[Path, list[Path]] = {}
    for path in (path for folder in folders if folder.is_dir() for path in sorted(folder.glob("[!.]*"))):
        if (match := _ARCHIVE.match(path.name)) and path.is_file():
            archives.setdefault(path.with_name(match[1] or match[2]), []).append(path)
    return list(archives.values())


def extract(parts: list[Path], folder: Path) -> int:
    """Extracts the videos of an archive in parts below `folder`; returns how many files were written.

    The extraction of `datasets` skips bad members, limits no size, and starts anew after an interruption; this one
    takes up what was stopped and does nothing twice.

    Raises:
        ValueError: a damaged archive, or a member that leads out of `folder`, is a link or device, or with which all
            would take more than `MAX_BYTES` or `MAX_RATIO` times the archive; nothing from there on is written.
    """
    state = " ".join(f"{part.stat().st_size}-{part.stat().st_mtime_ns}" for part in parts)
    done = folder / f".{parts[0].name}.extracted"
    if done.exists() and done.read_text() == state:
        return 0
    limit = min(MAX_BYTES, max(1 << 20, MAX_RATIO * sum(part.stat().st_size for part in parts)))
    written = total = 0
    members = tqdm(_members(parts), desc=f"extract {parts[0].name}", unit="file", leave=False)
    try:
        for name, kind, size, source in members:
            if kind == stat.S_IFDIR and not PurePosixPath(name).parts:  # "./", the folder that was packed
                continue
            path = safe_path(folder, name, parts[0])
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"{parts[0]}: {name!r} is a link or device; archives of videos have none")
            total += abs(size) + tarfile.BLOCKSIZE
            if total > limit:
                raise ValueError(
                    f"{parts[0]}: with {name!r} its files take {total:,} bytes, above the limit of {limit:,} for an "
                    "archive of its size; it is not written. If you trust the archive, extract it yourself"
                )
            wanted = kind != stat.S_IFDIR and path.suffix.lower() not in _NO_VIDEO
            if wanted and not (path.exists() and path.stat().st_size == size):
                with source() as file:
                    write_whole(path, file)
                written += 1
    except Exception as error:  # zlib, bz2, lzma, tarfile and zipfile have one each
        if isinstance(error, ValueError) or getattr(error, "errno", None):  # the disk's, not the archive's
            raise
        raise ValueError(f"{parts[0]}: cannot be extracted: {error}; download it again") from error
    folder.mkdir(parents=True, exist_ok=True)
    done.write_text(state)
    return written


class _TarMember(tarfile.TarInfo):
    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Where `tarfile` lets a subclass in: headers before a member it reads as a whole."""
        if self.type in _HEADERS and self.size > MAX_HEADER:
            raise tarfile.HeaderError(f"a header claims {self.size:,} bytes, above the limit of {MAX_HEADER:,}")
        return super()._proc_member(archive)  # pyright: ignore[reportAttributeAccessIssue]


def _members(parts: list[Path]) -> Iterator[tuple]:
    """Name, type of file, bytes once unpacked, and a function that opens it, of every member."""
    if parts[0].suffix.lower() == ".zip":
        with zipfile.ZipFile(parts[0]) as archive:
            for member in archive.infolist():
                kind = stat.S_IFDIR if member.is_dir() else stat.S_IFMT(member.external_attr >> 16)
                yield member.filename, kind, member.file_size, lambda member=member: archive.open(member)
        return
    stream = io.BufferedReader(_Joined(parts))
    # Not tarfile's "r|*", which decompresses a bomb in memory.
    for magic, opener in _COMPRESSED.items():
        stream = opener(stream) if stream.peek(8).startswith(magic) else stream
    with stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarMember) as archive:
        for member in archive:
            kind = stat.S_IFREG if member.isfile() else stat.S_IFDIR if member.isdir() else stat.S_IFLNK
            yield member.name, kind, member.size, lambda member=member: archive.extractfile(member)


class _Joined(io.RawIOBase):
    """Files read one after the other, as one."""

    def __init__(self, paths: list[Path]):
        self.waiting, self.file = list(paths), io.BytesIO()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not (count := self.file.readinto(buffer)) and self.waiting:
            self.file = self.waiting.pop(0).open("rb")
        return count
