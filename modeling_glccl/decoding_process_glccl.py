"""Videos of strangers, decoded in a process of its own that is ended when the time is up."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import IO, Any

import numpy as np

from .video_decoding_glccl import DecodedVideo, decode_video
from .video_streams_glccl import VideoDecodeError, locate

# Neither torch nor a package: what is killed is replaced in a fraction of a second, in a checkpoint's folder as well.
_COMMAND = (
    "import sys, types; package = types.ModuleType('apart'); package.__path__ = sys.argv[1:]; "
    "sys.modules['apart'] = package; from apart.decoding_process_glccl import serve; serve()"
)
# Bytes of such a process: a file of 8 kB may claim an index of many GB, which FFmpeg makes when it opens the file.
MAX_MEMORY = 2**30
_idle: list[subprocess.Popen] = []  # processes that wait for a video


def decode_in_process(
    source: Any, *settings: Any, transform: Callable[[np.ndarray], np.ndarray] | None = None, deadline: float
) -> DecodedVideo:
    """[`decode_video`] in another process, so that no file can hang or crash this one.

    The process is kept for the next video, or replaced if it had to be killed.

    Args:
        source: as of `decode_video`.
        *settings: `max_frames`, `start`, `end`, `sampling` and `num_threads` of `decode_video`.
        transform: as of `decode_video`; runs in this process.
        deadline: reading of `time.monotonic()`; then the process is killed.

    Raises:
        VideoDecodeError: as `decode_video`; not done in time; the process broke down.
    """
    file, name = locate(source)
    path, content = file, b""
    if not isinstance(file, str):
        file.seek(0)
        path, content = None, file.read()
    if (seconds := deadline - time.monotonic()) <= 0:
        raise VideoDecodeError(f"{name}: no time was left to decode it")
    process, usable = _take(), False
    timer = Timer(seconds, process.kill)
    timer.start()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        _write(process.stdin, [path, settings], np.frombuffer(content, np.uint8))
        frames = []
        while (answer := _read(process.stdout))[0] == "frame":
            frames.append(transform(answer[1]) if transform else answer[1])
        usable = True
    except (EOFError, OSError) as error:
        reason = "it is damaged, or takes more memory than there is: the process that decoded it broke down"
        if time.monotonic() >= deadline:
            reason = "could not be decoded in the time allowed"
        raise VideoDecodeError(f"{name}: {reason}") from error
    finally:
        timer.cancel()
        timer.join()  # it may just be killing
        if usable and time.monotonic() < deadline:
            _idle.append(process)
        else:
            process.kill()
            process.communicate()
    message, *arrays = answer
    if isinstance(message, str):
        raise VideoDecodeError(message)
    duration, decoded_frames = message
    rows, timestamps, frame_times = arrays
    return DecodedVideo(np.stack(frames)[rows], timestamps, duration, decoded_frames, frame_times)


def _take() -> subprocess.Popen:
    while True:
        try:
            process = _idle.pop()
        except IndexError:
            return _start()
        if process.poll() is None:
            return process


def _start() -> subprocess.Popen:
    command = [sys.executable, "-c", _COMMAND, str(Path(__file__).parent)]
    # NumPy's OpenBLAS would take 41 MB for every processor, and more than the limit where there are 25.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def serve() -> None:
    """What the other process does: decodes what [`decode_in_process`] sends, until there is nobody to send."""
    try:  # outside of such a block transformers would ask for it on Windows, which has none
        import resource
    except ModuleNotFoundError:
        pass
    else:
        least = min((MAX_MEMORY, *resource.getrlimit(resource.RLIMIT_DATA)), key=lambda limit: limit % 2**64)
        resource.setrlimit(resource.RLIMIT_DATA, (least, least))
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print
    while True:
        try:
            (path, settings), content = _read(requests)
        except EOFError:
            return
        sent = 0

        def send(frame: np.ndarray) -> np.ndarray:
            nonlocal sent
            _write(answers, "frame", frame)
            sent += 1
            return np.array(sent - 1)

        try:
            decoded = decode_video(path or content.tobytes(), *settings, transform=send)
        except VideoDecodeError as error:
            print(error, file=sys.stderr)
            _write(answers, str(error).partition(" ([Errno")[0])  # FFmpeg's own words stay here
        else:
            message = [decoded.duration, decoded.decoded_frames]
            _write(answers, message, decoded.frames, decoded.timestamps, decoded.frame_times)


def _write(file: IO[bytes], message: Any, *arrays: np.ndarray) -> None:
    header = [message, [[array.dtype.str, array.shape] for array in arrays]]
    file.write(json.dumps(header).encode() + b"\n")
    for array in arrays:
        file.write(np.ascontiguousarray(array).data)
    file.flush()


def _read(file: IO[bytes]) -> list[Any]:
    """The message and the arrays; plain numbers, so that what a broken process writes cannot become code here."""
    line = file.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    message, headers = json.loads(line)
    arrays = []
    for kind, shape in headers:
        size = np.dtype(kind).itemsize * math.prod(shape)
        content = file.read(size)
        if len(content) < size:
            raise EOFError
        arrays.append(np.frombuffer(content, kind).reshape(shape).copy())
    return [message, *arrays]
