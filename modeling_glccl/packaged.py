"""Files of the repository that commands need: beside the package in a checkout, in it once it is installed."""

import shlex
from pathlib import Path

PACKAGE = Path(__file__).parent
# What the wheel holds is listed in pyproject.toml.
ROOT = PACKAGE if (PACKAGE / "recipes").is_dir() else PACKAGE.parent


def packaged(*names: str) -> Path:
    """The path of a file or folder by its path in the repository: `packaged("hub", "models", "glccl-shapes")`."""
    return ROOT.joinpath(*names)


def install_line(extra: str) -> str:
    """The command that installs what an extra needs, in the tested versions: of a checkout, which no package index
    need have, or of the package that is installed."""
    here = Path.cwd() == ROOT
    constraints = packaged("constraints.txt")
    shown = constraints.name if here else str(constraints)
    tested = f"-c {shlex.quote(shown)} " if constraints.exists() else ""  # a copy of the package alone has none
    if (ROOT / "pyproject.toml").exists():
        return f'pip install {tested}-e "{"." if here else ROOT}[{extra}]"'
    return f'pip install {tested}"modeling_glccl[{extra}]"'
