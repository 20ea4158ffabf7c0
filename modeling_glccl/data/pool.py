"""Many videos through one function, over processes: a video that fails, or crashes its process, fails alone."""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from queue import SimpleQueue
from typing import Any, NamedTuple

from av.error import FFmpegError

from ..video_decoding_glccl import VideoDamageWarning
from ..video_streams_glccl import VideoDecodeError


class Outcome(NamedTuple):
    """What came of a job: `value`, or `error`, which names the video; `warning`: of damage, if there was one."""

    job: tuple
    value: Any = None
    error: str = ""
    warning: Warning | None = None


def map_videos(function: Callable, jobs: Iterable[tuple], num_proc: int = 1) -> Iterator[Outcome]:
    """`function(*job)` of every job, as they end.

    No pool of a library does this: `datasets.map`, DataLoader and a plain ProcessPoolExecutor end all jobs when a
    decoder crashes its process, and the first forks, which a process that has run PyTorch or FFmpeg threads must not.

    Args:
        function: of a module, so that other processes find it. An `OSError` ends the call (a full disk, for instance);
            any other error fails its job.
        jobs: the first item of each names its video.
        num_proc: processes of one thread each; 1 works in this one. They end with this generator, and if this process
            is killed.
    """
    if num_proc <= 1:
        yield from (_run(function, job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    # Pools of one process each, so that it is known whose job crashed one; None: not started yet.
    pools = SimpleQueue()

    def run(job: tuple) -> Outcome:
        pool = pools.get() or ProcessPoolExecutor(1, context, initializer=_begin, initargs=(reader,))
        try:
            return pool.submit(_run, function, job).result()
        except BrokenProcessPool:
            pool.shutdown()
            pool = None
            return Outcome(job, error=f"{job[0]}: the process that read it crashed or was killed (out of memory?)")
        finally:
            pools.put(pool)

    waiting, running = iter(jobs), set()
    with ThreadPoolExecutor(num_proc) as threads:
        for _ in range(num_proc):
            pools.put(None)
        try:
            # Few at a time: jobs and values may be large.
            while running := running | {
                threads.submit(run, job) for job in islice(waiting, 2 * num_proc - len(running))
            }:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            writer.close()  # ends the processes
            threads.shutdown()
            for _ in range(num_proc):
                if pool := pools.get():
                    pool.shutdown()
            reader.close()


def _begin(reader: Any) -> None:
    """Ends this process once the other end of the pipe is closed, as it is when the parent's process is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.environ["OMP_NUM_THREADS"] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    threading.Thread(target=lambda: (reader.poll(None), os._exit(1)), daemon=True).start()


def _run(function: Callable, job: tuple) -> Outcome:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value, error = function(*job), ""
        except Exception as problem:
            if isinstance(problem, OSError) and not isinstance(problem, FFmpegError):
                raise
            value, error = None, str(problem)
            if not isinstance(problem, VideoDecodeError):
                error = f"{job[0]}: {type(problem).__name__}: {error}"
    # The last of damage knows most.
    found: list[Any] = sorted((shown.message for shown in caught), key=lambda it: isinstance(it, VideoDamageWarning))
    return Outcome(job, value, error, found[-1] if found and not error else None)
