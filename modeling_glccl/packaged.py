"""Files of the repository that commands need: beside the package in a checkout, in it once it is installed."""

import os
import shlex
from pathlib import Path

PACKAGE = Path(__file__).parent
# What the wheel holds is listed in pyproject.toml.
ROOT = PACKAGE if (PACKAGE / "recipes").is_dir() else PACKAGE.parent


def packaged(*names: str) -> Path:
    """The path of a file or folder by its path in the repository: `packaged("hub", "models", "glccl-shapes")`."""
    return ROOT.joinpath(*names)


def install_line(extra: str) -> str:
    """The command that installs what `modeling_glccl[extra]` needs, in the tested versions."""
    constraints = packaged("constraints.txt")
    shown = os.path.relpath(constraints) if constraints.parent == Path.cwd() else str(constraints)
    tested = f"-c {shlex.quote(shown)} " if constraints.exists() else ""  # a copy of the package alone has none
    return f'pip install {tested}"modeling_glccl[{extra}]"'
