"""A function on several processes of a group, as `torchrun` starts them, but forked from one that has imported all."""

import multiprocessing
import os
import socket
from collections.abc import Callable

CONTEXT = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
if hasattr(os, "fork"):
    CONTEXT.set_forkserver_preload(["modeling_glccl.evaluation", "modeling_glccl.training", "modeling_glccl.peers"])


def _run(rank: int, world_size: int, port: int, function: Callable, arguments: tuple) -> None:
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    os.environ |= {name: str(value) for name, value in group.items()}
    function(*arguments)


def launch(function: Callable, world_size: int, *arguments) -> None:
    """Waits until `function(*arguments)` has ended everywhere, and fails where it failed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = [
        CONTEXT.Process(target=_run, args=(rank, world_size, port, function, arguments)) for rank in range(world_size)
    ]
    for process in run:
        process.start()
    for process in run:
        process.join(300)
        process.kill()
    assert [process.exitcode for process in run] == [0] * world_size
