"""Programs that measure. Most are scripts: `python benchmarks/NAME.py`."""

from . import errors as errors
