"""The pool that decodes videos: failures and crashes cost one video, and no process outlives the call."""

import multiprocessing
import os
import signal
import warnings
from itertools import chain

import pytest

from modeling_glccl.data.pool import map_videos
from modeling_glccl.video_decoding_glccl import VideoDamageWarning


def work(name, action):
    """A job of the pool."""
    if action == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "full disk":
        raise OSError(28, "No space left on device", name)
    if action == "fail":
        b"\xff".decode()
    if action == "warn":
        warnings.warn(f"{name} is cut", stacklevel=1)
    return name.upper()


@pytest.mark.usefixtures("quick_pool")
@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_video_that_fails_or_crashes_its_process_fails_alone_and_no_process_is_left(num_proc):
    actions = {"a": "", "b": "fail", "c": "warn", "d": "crash" if num_proc > 1 else "fail", "e": "", "f": "", "g": ""}
    results = map_videos(work, chain(actions.items(), ((str(number), "") for number in range(10**9))), num_proc)
    outcomes = {}
    while not actions.keys() <= outcomes.keys():
        outcome = next(results)
        outcomes[outcome.job[0]] = outcome
    assert bool(multiprocessing.active_children()) == (num_proc > 1)
    results.close()  # the caller stops
    assert not multiprocessing.active_children()
    outcomes = {name: outcomes[name] for name in actions}
    assert {name: outcome.value for name, outcome in outcomes.items() if not outcome.error} == {
        name: name.upper() for name in "acefg"
    }
    assert outcomes["b"].error.startswith("b: UnicodeDecodeError: ")
    assert outcomes["d"].error.startswith("d: the process that read it crashed" if num_proc > 1 else "d: Unicode")
    assert [str(outcome.warning) for outcome in outcomes.values() if outcome.warning] == ["c is cut"]


def test_a_full_disk_ends_the_call():
    with pytest.raises(OSError, match=r"No space left.*'b'"):
        list(map_videos(work, [("a", ""), ("b", "full disk"), ("c", "")]))


def warn_of_damage_first(path):
    warnings.warn(f"{path}: is damaged", VideoDamageWarning, stacklevel=1)
    warnings.warn(f"{path}: holds 2 video streams", stacklevel=1)


def test_a_note_does_not_hide_damage():
    (outcome,) = map_videos(warn_of_damage_first, [("a.mp4",)], 1)
    assert str(outcome.warning) == "a.mp4: is damaged"
