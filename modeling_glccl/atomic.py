"""Files and folders that are whole or not there, wherever the process, or the machine, dies."""

import errno
import io
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO


def write_whole(path: Path, content: bytes | BinaryIO, replace: bool = True) -> None:
    """Writes a file such that `path` is the old one or the complete new one, never a part.

    Raises FileExistsError where there is an old one and `replace` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # No process id: threads, and machines that share a folder, may write the same file at the same time.
    # A name may have 255 bytes, and half a character is none on macOS and Windows.
    start = os.fsencode(path.name)[:200].decode(errors="ignore")
    partial = path.with_name(f".{start}.{secrets.randbits(62)}.partial")
    try:
        with partial.open("wb") as file:
            source = io.BytesIO(content) if isinstance(content, bytes) else content
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())  # or a machine that loses power may keep the new name and lose the content
        if replace:
            partial.replace(path)
            return
        try:
            os.link(partial, path)
        except OSError:  # also of a file system without hard links
            if os.path.lexists(path):
                raise FileExistsError(f"{path} exists; nothing is overwritten") from None
            partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which is named `folder` when all of it is written.

    Raises:
        FileExistsError: the name is taken.
        OSError: the folder cannot be written, for example because the disk is full.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is no empty folder: choose another name, or delete it")
    folder = folder.resolve()  # what a link leads to, or "." has a name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(".partial", f".{folder.name[:50]}.", folder.parent) as temporary, room_for(folder):
        part = Path(temporary, folder.name)
        part.mkdir()
        yield part
        folder_to_disk(part)
        if folder.exists():  # which Windows does not replace
            folder.rmdir()
        part.rename(folder)


def replace_folder(new: Path, target: Path) -> None:
    """Puts the complete folder `new` in the place of `target`, which may exist.

    A folder cannot be renamed over another one, so for a moment the old one is named `.target.old`;
    [`recover_folder`] undoes that if the process died right there.
    """
    folder_to_disk(new)
    old = _aside(target)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def folder_to_disk(folder: Path) -> None:
    """Waits until a folder that is to be renamed is on the disk, with all in it."""
    if sys.platform == "win32":  # opens no folder, and flushes nothing that is open for reading
        return
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def recover_folder(target: Path) -> None:
    """Restores `target` where a process died while replacing it."""
    if not target.exists() and _aside(target).exists():
        _aside(target).rename(target)


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """While libraries write into `path`: a full disk, which each of them reports in its own way, is an OSError."""
    try:
        yield
    except Exception as error:
        if "No space left" not in str(error) and shutil.disk_usage(path.parent).free > 1 << 16:
            raise
        raise OSError(errno.ENOSPC, f"no space left for {path}; what was complete is kept ({error})") from error


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")  # no name that somebody keeps a folder under
