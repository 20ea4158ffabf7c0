"""Imported first by every benchmark: a missing library, and what else a user can mend, is told of in one line."""

import sys
from pathlib import Path
from types import TracebackType

try:
    from modeling_glccl.console import explain
except ModuleNotFoundError as error:
    sys.exit(f'{error.name} is not installed; where this repository lies: pip install -c constraints.txt -e ".[dev]"')


def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As sys.excepthook."""
    message = explain(error)
    if message is None:
        return sys.__excepthook__(kind, error, trace)
    return print(f"{Path(sys.argv[0]).stem}: error: {message}", file=sys.stderr)


sys.excepthook = tell
