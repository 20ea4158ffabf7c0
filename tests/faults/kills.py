"""Long commands in processes of their own, which are killed again and again, or run out of disk.

Children are forked from a server that has imported everything, so that a kill costs a second and not ten.
"""

import itertools
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["modeling_glccl", "kill_operations"])

Operation = Callable[[Path, Callable[[], Any]], None]


def start(operation: Operation, folder: Path) -> multiprocessing.Process:
    """A process in which `operation(folder, ready)` has just called `ready`."""
    ready = _context.Event()
    process = _context.Process(target=operation, args=(folder, ready.set))
    process.start()
    while not ready.wait(0.1):
        assert process.is_alive(), f"it ended with {process.exitcode} before it began"
    return process


def finish(operation: Operation, folder: Path) -> float:
    """Seconds that the operation took to its end."""
    process, began = start(operation, folder), time.monotonic()
    process.join(300)
    assert process.exitcode == 0, f"{operation.__name__} in {folder} ended with {process.exitcode}"
    return time.monotonic() - began


def attempt(operation: Operation, folder: Path) -> Exception | None:
    """What the operation raised in a process of its own."""
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_attempt, args=(operation, folder, theirs))
    process.start()
    theirs.close()
    error = ours.recv()
    process.join()
    return error


def _attempt(operation: Operation, folder: Path, connection: Any) -> None:
    try:
        operation(folder, lambda: None)
        connection.send(None)
    except Exception as error:
        connection.send(error)


def kill_at_random(
    operation: Operation,
    compare: Callable[[Path, Path], None],
    check: Callable[[Path], None],
    folder: Path,
    kills: int,
    seed: int,
) -> None:
    """Kills the operation so many times, up to four in one folder, and compares every end with an undisturbed run.

    Args:
        operation: of the module `kill_operations`; a second call in a folder goes on.
        compare: of a folder with kills and the one without; raises where they differ.
        check: of a folder, after every kill; raises where something that was promised is gone.
    """
    rng = random.Random(seed)
    whole = folder / "whole"
    whole.mkdir(parents=True)
    seconds = finish(operation, whole)
    done = 0
    for trial in itertools.count():
        if done == kills:
            break
        killed = folder / f"killed{trial}"
        killed.mkdir()
        for _ in range(min(4, kills - done)):
            process = start(operation, killed)
            process.join(rng.uniform(0, seconds))
            if not process.is_alive():
                break
            process.kill()
            process.join()
            done += 1
            check(killed)
        finish(operation, killed)
        compare(killed, whole)
