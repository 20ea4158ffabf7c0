"""How a command behaves in a terminal: errors and warnings in one line, Ctrl-C and SIGTERM, progress in a file."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from .packaged import install_line

# What a missing module belongs to, where that is not [train].
EXTRAS = {
    "fastapi": "demo",
    "faster_whisper": "speech",
    "gradio": "demo",
    "lancedb": "search",
    "mcp": "mcp",
    "mteb": "mteb",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "opentimelineio": "edit",
    "peft": "peft",
    "playwright": "dev",
    "pyarrow": "search",
    "ray": "scale",
    "starlette": "demo",
}
# Errors of libraries that have no class in common with Python's: damaged weights, no connection.
FOREIGN_ERRORS = ("safetensors", "httpx", "httpx2")
# After so many seconds a line says so if imports still last.
IMPORTING = 1.5
# How tqdm shows progress in a file: a line now and then instead of one that is never finished.
PROGRESS_LINES = {
    "TQDM_MININTERVAL": "30",
    "TQDM_MAXINTERVAL": "30",
    "TQDM_BAR_FORMAT": "{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]\n",
}


def run(command: Callable[[], int | None], name: str, line: str, goes_on: bool) -> int:
    """Runs a command and returns its exit code: 1 after an error, 130 after Ctrl-C, 143 after SIGTERM.

    Args:
        command: returns an exit code; None is 0. A KeyboardInterrupt that leaves it may say what is kept.
        name, line: what messages begin with, such as "glccl data check", and all of the command line.
        goes_on: whether the same command goes on where it was interrupted.
    """
    # Before torch is imported. Threads that spin while they wait take the core from the one they wait for, where
    # another process is busy; where none is, spinning is faster (docs/speed.md).
    if "OMP_NUM_THREADS" not in os.environ and others_are_busy():
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Before tqdm is imported, which reads them once.
    os.environ.setdefault("TQDM_DELAY", "2")  # seconds in which no progress is shown
    if into_file := not sys.stderr.isatty():
        os.environ.update(PROGRESS_LINES | os.environ)
    kept = "the same command goes on where it stopped" if goes_on else ""
    lines = _whole_lines() if into_file else nullcontext()
    with lines, _signals() as received, warnings.catch_warnings(), _imports_told(name):
        warnings.showwarning = partial(_show_warning, name)
        try:
            code = command() or 0
            if not received:
                return code
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, click.Abort):  # click's word for KeyboardInterrupt and EOFError
                error = error.__cause__ or error
            if isinstance(error, KeyboardInterrupt):
                kept = str(error) or kept
            elif not received:  # else an error because a process that it waited for was ended
                message = explain(error)
                if message is None:
                    traceback.print_exception(error)
                    message = f"this is a mistake of modeling_glccl: please report the lines above with {line}, "
                    message += f"Python {sys.version.split()[0]} on {sys.platform}"
                    for package in ("modeling_glccl", "torch", "transformers"):
                        with suppress(PackageNotFoundError):
                            message += f", {package} {version(package)}"
                print(f"{name}: error: {message}", file=sys.stderr)
                return 1
    print("; ".join(filter(None, [f"{name}: interrupted", kept])), file=sys.stderr)
    return 128 + (received or [signal.SIGINT])[0]


def others_are_busy() -> bool:
    """Whether another thread than this one runs, or waits for a core, on this machine; False where Linux is not."""
    with suppress(OSError):
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) > 1
    return False


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt and end the commands that this one started; yields those received."""
    received = []

    def interrupt(number: int, _frame: Any) -> None:
        received.append(number)
        with suppress(ImportError):  # whatever starts commands has it
            import multiprocessing

            import psutil

            # multiprocessing ends its own, and a DataLoader takes a dead worker for an error.
            own = {child.pid for child in multiprocessing.active_children()}
            for child in psutil.Process().children():
                with suppress(psutil.NoSuchProcess):
                    for process in [] if child.pid in own else [*child.children(recursive=True), child]:
                        process.terminate()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    former = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


class _Lines:
    """A stream that writes whole lines, as they look at their end, to another; none that is empty."""

    def __init__(self, stream: Any):
        self._stream, self._begun = stream, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line := line.rstrip().rpartition("\r")[2]:
                self._stream.write(f"{line}\n")
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _whole_lines() -> Iterator[None]:
    """Errors and progress go to a file without what moves a cursor."""
    lines: Any = _Lines(sys.stderr)
    with redirect_stderr(lines):
        try:
            yield
        finally:
            lines.write("\n")


@contextmanager
def _imports_told(name: str) -> Iterator[None]:
    """A line in a terminal while imports last: torch alone takes seconds, and on a busy machine a minute."""

    def tell() -> None:
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
            frame = frame.f_back
        if frame and sys.stderr.isatty():
            print(f"{name}: loading torch and other libraries", file=sys.stderr, flush=True)

    timer = threading.Timer(IMPORTING, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def explain(error: BaseException) -> str | None:
    """What a user can do something about, in one line; None for what is a mistake of this package."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("modeling_glccl"):
        module = error.name.partition(".")[0]
        return f"{module} is not installed: {install_line(EXTRAS.get(module, 'train'))}"
    if isinstance(error, subprocess.CalledProcessError):
        command = shlex.join(map(str, error.cmd))
        return f"{command} ended with exit code {error.returncode}; the lines above say why"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    foreign = type(error).__module__.partition(".")[0] in FOREIGN_ERRORS
    if not foreign and not isinstance(error, (ValueError, OSError, ImportError)):
        return None
    return _one_line("\n".join([str(error), *getattr(error, "__notes__", [])])) or type(error).__name__


def _show_warning(name: str, message: Warning | str, *_where: Any, **_more: Any) -> None:
    """As `warnings.showwarning`, without the line of source; over the progress bar of a terminal, not beside it."""
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{clear}{name}: warning: {_one_line(str(message))}", file=sys.stderr, flush=True)


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
