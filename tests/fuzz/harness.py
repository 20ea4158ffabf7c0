"""Runs cases in children of one process that has imported everything; seconds and memory of each are bounded."""

import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar

KINDS = ("video", "annotations", "recipes", "checkpoint", "index", "endpoint", "command")
SECONDS = 20  # of computing; three times that by the clock, as other work may run beside it
BYTES = 1 << 30  # beyond what the imports take
READ, REFUSED, FAILED = 0, 10, 11  # exit codes of a child

ResultT = TypeVar("ResultT")


class Refused(Exception):
    """One clear error: a right end of a case."""


@dataclass
class Outcome:
    """How a case ended: `code` is READ, REFUSED or FAILED, `report` what it printed last."""

    kind: str
    seed: int
    code: int
    seconds: float
    bytes: int
    report: str

    @property
    def command(self) -> str:
        return f"python -m tests.fuzz --kind {self.kind} --seed {self.seed} --cases 1"

    @property
    def cause(self) -> str:
        """The last line, by which failures are grouped."""
        lines = [line for line in self.report.splitlines() if line.strip()]
        return lines[-1][:200] if lines else "no output"


def attempt(call: Callable[[], ResultT], *names: str) -> ResultT:
    """The result of a call; Refused where it ends in a clear error that has one of the names in its message."""
    try:
        return call()
    except (ValueError, OSError) as error:
        message = str(error)
        unclear = isinstance(error, UnicodeError | json.JSONDecodeError) or not message.strip()
        if unclear or not any(name in message for name in names or ("",)):
            raise AssertionError(f"not a clear error: {type(error).__name__}: {message[:2000]}") from error
        raise Refused(message) from error


@contextmanager
def cases(kinds: tuple[str, ...]):
    """Makes what the kinds change and yields a function (kind, seed) -> Outcome."""
    modules = {kind: import_module(f".{kind}", __package__) for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="glccl-fuzz-", ignore_cleanup_errors=True) as folder:
        for kind, module in modules.items():
            seeds = Path(folder, kind)
            seeds.mkdir()
            # In a child: what it starts (threads of LanceDB) would not survive the forks.
            outcome = _fork(kind, 0, lambda module=module, seeds=seeds: module.setup(seeds), seconds=120)
            if outcome.code != READ:
                raise RuntimeError(f"{kind}: its seeds could not be made\n{outcome.report}")
            module.warm(seeds)
        yield lambda kind, seed: _run(modules[kind], kind, seed, Path(folder, kind))


def _run(module: ModuleType, kind: str, seed: int, seeds: Path) -> Outcome:
    work = Path(tempfile.mkdtemp(prefix="work-", dir=seeds.parent))
    try:
        return _fork(kind, seed, lambda: module.run(random.Random(f"{kind} {seed}"), seeds, work), work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fork(kind: str, seed: int, call: Callable[[], Any], work: Path | None = None, seconds: int = SECONDS) -> Outcome:
    sys.stdout.flush()
    resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    before = (resident - shared) * resource.getpagesize()  # what a child has from the start
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        with warnings.catch_warnings(action="ignore"):  # LanceDB, which is used in children alone
            pid = os.fork()
        if not pid:
            _child(call, output.fileno(), work, seconds)
        _, status, usage = os.wait4(pid, 0)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # what it started
        output.seek(max(0, output.seek(0, os.SEEK_END) - 8000))
        report = output.read().decode(errors="replace")
    took, more = time.monotonic() - began, max(0, usage.ru_maxrss * 1024 - before)
    code = os.waitstatus_to_exitcode(status)
    if code in (-signal.SIGALRM, -signal.SIGPROF):
        report += f"\nnot done within {seconds} s"
    elif code not in (READ, REFUSED, FAILED):
        report += f"\nended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
    elif work and code != FAILED and more > BYTES:
        code, report = FAILED, f"{report}\ntook {more >> 20} MB"
    return Outcome(kind, seed, code if code in (READ, REFUSED) else FAILED, took, more, report)


def _child(call: Callable[[], Any], output: int, work: Path | None, seconds: int) -> NoReturn:
    code = FAILED
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout.reconfigure(errors="backslashreplace")  # a message may quote half a surrogate pair
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.alarm(3 * seconds)
        faulthandler.register(signal.SIGPROF, chain=True)
        faulthandler.dump_traceback_later(3 * seconds - 1)
        if work:
            os.chdir(work)
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)  # so that the machine survives the worst
            resource.setrlimit(resource.RLIMIT_DATA, (8 * BYTES, hard))
        call()
        code = READ
    except Refused as refusal:
        print(f"refused: {refusal}", flush=True)
        code = REFUSED
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
