"""Files of the repository that commands need: beside the package in a checkout, in it once it is installed."""

from pathlib import Path

PACKAGE = Path(__file__).parent
# What the wheel holds is listed in pyproject.toml.
ROOT = PACKAGE if (PACKAGE / "recipes").is_dir() else PACKAGE.parent


def packaged(*names: str) -> Path:
    """The path of a file or folder by its path in the repository: `packaged("hub", "models", "glccl-shapes")`."""
    return ROOT.joinpath(*names)
