"""Folders that are replaced as a whole, so that a run killed at any moment leaves a complete one behind."""

import shutil
from pathlib import Path


def replace_folder(new: Path, target: Path) -> None:
    """Puts the complete folder `new` in the place of `target`, which may exist.

    A folder cannot be renamed over another one, so for a moment the old one is named `target.old`;
    [`recover_folder`] undoes that if the process died right there.
    """
    old = _aside(target)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(target: Path) -> None:
    """Restores `target` where a process died while replacing it."""
    if not target.exists() and _aside(target).exists():
        _aside(target).rename(target)


def _aside(target: Path) -> Path:
    return target.with_name(f"{target.name}.old")
