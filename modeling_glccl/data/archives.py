"""Zip and tar archives of videos -> files, without trusting the names in them."""

import io
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm.auto import tqdm

from .files import write_whole

_ARCHIVE = re.compile(r"\.(zip|tar|tar\.gz|tgz|tar\.bz2|tar\.xz)$", re.IGNORECASE)
_PART = re.compile(r"^(.*\.(?:tar|tar\.gz|tgz))\.(?:part[-_.]?\w+|\d{2,}|[a-z]{2})$", re.IGNORECASE)
# Annotations and features lie in archives beside the videos.
_NO_VIDEO = (".json", ".jsonl", ".csv", ".txt", ".md", ".pkl", ".npy", ".h5", ".hdf5", ".parquet", ".jpg", ".png")
ARCHIVE_PATTERNS = ("*.zip", "*.tar", "*.tar.*", "*.tgz")


def safe_path(folder: Path, name: str, origin: str | Path) -> Path:
    """Where a file of this name goes below `folder`.

    Raises:
        ValueError: the name would lead out of it (absolute, "..", a drive); names `origin`, where it comes from.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0].startswith("/") or ":" in parts[0]:
        raise ValueError(f"{origin}: the name {name!r} leads out of {folder}; it is not written")
    return folder.joinpath(*parts)


def find_archives(*folders: Path) -> list[list[Path]]:
    """The archives that lie directly in these folders, each as its parts in order (one part, if it is whole)."""
    archives: dict[Path, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name.startswith(".") or not path.is_file():
                continue
            if _ARCHIVE.search(path.name):
                archives.setdefault(path, []).append(path)
            elif part := _PART.match(path.name):
                archives.setdefault(path.with_name(part[1]), []).append(path)
    return list(archives.values())


def extract(parts: list[Path], folder: Path) -> int:
    """Extracts the videos of an archive; a call that was stopped is taken up by the next, a finished one not redone.

    Args:
        parts: of one zip or tar archive, in order.
        folder: where the files go, with the archive's sub-folders.

    Returns:
        How many files were written.

    Raises:
        ValueError: a member that leads out of `folder`, or is a link or device; or a damaged archive. The rest of an
            archive with such a member is not extracted.
    """
    state = " ".join(f"{part.stat().st_size}-{part.stat().st_mtime_ns}" for part in parts)
    done = folder / f".{parts[0].name}.extracted"
    if done.exists() and done.read_text() == state:
        return 0
    written = 0
    try:
        with _members(parts) as members:
            for name, size, source in tqdm(members, desc=f"extract {parts[0].name}", unit="file", leave=False):
                path = safe_path(folder, name, parts[0])
                if path.suffix.lower() in _NO_VIDEO:
                    continue
                if not path.exists() or path.stat().st_size != size:
                    write_whole(path, source())
                    written += 1
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{parts[0]}: cannot be extracted: {error}; download it again") from error
    folder.mkdir(parents=True, exist_ok=True)
    done.write_text(state)
    return written


@contextmanager
def _members(parts: list[Path]) -> Iterator[Iterator]:
    """(name, size, function that opens it) of every file of the archive."""
    with ExitStack() as stack:
        if parts[0].suffix.lower() == ".zip":
            yield _zip_members(stack.enter_context(zipfile.ZipFile(parts[0])))
        else:
            stream = io.BufferedReader(_Concatenated(parts), 1 << 20)
            yield _tar_members(stack.enter_context(tarfile.open(fileobj=stream, mode="r|*")), parts[0])


def _zip_members(archive: zipfile.ZipFile) -> Iterator:
    for member in archive.infolist():
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(f"{archive.filename}: {member.filename!r} is a link; archives of videos have none")
        if not member.is_dir():
            yield member.filename, member.file_size, lambda member=member: archive.open(member)


def _tar_members(archive: tarfile.TarFile, path: Path) -> Iterator:
    for member in archive:
        if not (member.isfile() or member.isdir()):
            raise ValueError(f"{path}: {member.name!r} is a link or device; archives of videos have none")
        if member.isfile():
            yield member.name, member.size, lambda member=member: archive.extractfile(member)


class _Concatenated(io.RawIOBase):
    """Files read one after the other, as one."""

    def __init__(self, paths: list[Path]):
        self._waiting = list(paths)
        self._current: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while True:
            if self._current is None:
                if not self._waiting:
                    return 0
                self._current = open(self._waiting.pop(0), "rb")  # noqa: SIM115 (closed below, over several calls)
            if count := self._current.readinto(buffer):
                return count
            self._current.close()
            self._current = None

    def close(self) -> None:
        if self._current is not None:
            self._current.close()
        super().close()


__all__ = ["ARCHIVE_PATTERNS", "extract", "find_archives", "safe_path"]
