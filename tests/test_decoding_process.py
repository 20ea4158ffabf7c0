"""Videos decoded in another process: as in this one, whatever happens to it."""

import io
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hostile import HANGING, hanging
from transformers.dynamic_module_utils import get_imports
from videos import write_video

from modeling_glccl import decoding_process_glccl
from modeling_glccl.decoding_process_glccl import decode_in_process
from modeling_glccl.video_decoding_glccl import decode_video
from modeling_glccl.video_streams_glccl import VideoDecodeError

PACKAGE = Path(decoding_process_glccl.__file__).parent
JOB = (4, None, None, "uniform", 1)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    # A frame of it is more than a pipe holds: the other process is still writing when this one has the first.
    return write_video(tmp_path_factory.mktemp("videos") / "a.mp4", 50, fps=10, size=(320, 240))


@pytest.mark.parametrize("job", [JOB, (12, 1.05, 1.35, "uniform", 1), (3, 0.0, 3.0, "release", 1)])
@pytest.mark.parametrize("transform", [None, lambda frame: frame[::2, :5, 0]])
def test_it_gives_what_this_process_would(video, job, transform):
    content = video.read_bytes()
    for source in (video, str(video), content, io.BytesIO(content), {"path": "a.mp4", "bytes": content}):
        expected = decode_video(source, *job, transform)
        found = decode_in_process(source, *job, transform=transform, deadline=time.monotonic() + 300)
        for name in ("frames", "timestamps", "frame_times"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert (found.duration, found.decoded_frames) == (expected.duration, expected.decoded_frames)


@pytest.mark.parametrize("content", [b"", b"no video", b"\x00\x00\x00\x20ftypisom"])
def test_an_error_says_what_this_process_would_but_not_what_ffmpeg_says(content, tmp_path):
    (tmp_path / "a.mp4").write_bytes(content)
    for source in (content, tmp_path / "a.mp4", tmp_path / "none.mp4"):
        with pytest.raises(VideoDecodeError) as expected:
            decode_video(source, *JOB)
        with pytest.raises(VideoDecodeError) as found:
            decode_in_process(source, *JOB, deadline=time.monotonic() + 300)
        assert str(found.value) == str(expected.value).partition(" ([Errno")[0]


def test_a_process_that_hangs_or_dies_is_replaced_and_none_starts_without_time(video, monkeypatch):
    started = hanging(monkeypatch)
    content, deadline = video.read_bytes(), {"deadline": time.monotonic() + 300}
    decode_in_process(content, *JOB, **deadline)
    with pytest.raises(VideoDecodeError, match="could not be decoded in the time allowed"):
        decode_in_process(HANGING, *JOB, deadline=time.monotonic() + 0.3)
    assert started[0].returncode == -signal.SIGKILL
    decode_in_process(content, *JOB, **deadline)
    with pytest.raises(VideoDecodeError, match="the process that decoded it broke down"):
        decode_in_process(content, *JOB, **deadline, transform=lambda frame: os.kill(started[1].pid, signal.SIGSEGV))
    decode_in_process(content, *JOB, **deadline)
    started[2].kill()  # while it waits, which is no fault of the next video
    started[2].wait()
    with pytest.raises(VideoDecodeError, match="no time was left"):
        decode_in_process(HANGING, *JOB, deadline=time.monotonic())
    assert len(started) == 3
    decode_in_process(content, *JOB, **deadline)
    assert decoding_process_glccl._idle == started[3:]
    started[3].communicate()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited on Linux")
def test_its_memory_is_limited(video):
    decode_in_process(video, *JOB, deadline=time.monotonic() + 300)
    limits = Path(f"/proc/{decoding_process_glccl._idle[-1].pid}/limits").read_text()
    assert re.search(rf"Max data size +{2**30} ", limits)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what the memory of threads is, /proc says")
def test_it_has_one_thread_and_bears_a_lower_limit(video, monkeypatch):
    """NumPy's own threads would take its memory on a machine with many processors."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (2**29, 2**29)); "
    monkeypatch.setattr(decoding_process_glccl, "_COMMAND", limit + decoding_process_glccl._COMMAND)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    started = hanging(monkeypatch)
    decode_in_process(video, *JOB, deadline=time.monotonic() + 300)
    status = Path(f"/proc/{started[0].pid}/status").read_text()
    started[0].kill()
    started[0].communicate()
    assert "Threads:\t1\n" in status


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*_glccl.py")), ids=lambda path: path.name)
def test_a_checkpoint_asks_for_no_module_that_windows_lacks(path):
    """transformers refuses its code where something is missing that is imported outside of `try`."""
    assert not {"fcntl", "grp", "pwd", "resource", "termios"} & {*get_imports(path)}


def test_what_goes_wrong_here_ends_the_process_that_waits_for_it(video, monkeypatch):
    started = hanging(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        decode_in_process(video, *JOB, transform=lambda frame: 1 // 0, deadline=time.monotonic() + 300)
    assert started[0].returncode is not None
    assert decoding_process_glccl._idle == []
