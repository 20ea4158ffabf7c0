"""Errors, signals and progress of a command."""

import os
import signal
import subprocess
import sys

import pytest

from modeling_glccl import console


def run(command, goes_on=False) -> int:
    return console.run(command, "glccl x", "glccl x --y", goes_on)


def failing(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("first\n  second"), "first; second"),
        (FileNotFoundError(2, "No such file or directory", "a.mp4"), "a.mp4: No such file or directory"),
        (OSError("no space"), "no space"),
        (ModuleNotFoundError("x", name="ray.data"), "ray is not installed: pip install 'modeling_glccl[scale]'"),
        (subprocess.CalledProcessError(3, ["a", "b c"]), "a 'b c' ended with exit code 3; the lines above say why"),
    ],
)
def test_what_a_user_can_cause_is_one_line(error, message, capsys):
    assert run(failing(error)) == 1
    assert capsys.readouterr().err == f"glccl x: error: {message}\n"


def test_damaged_weights_are_one_line(tmp_path, capsys):
    from safetensors.torch import load_file

    (tmp_path / "x.safetensors").write_bytes(b"cut")
    assert run(lambda: load_file(tmp_path / "x.safetensors")) == 1
    error = capsys.readouterr().err
    assert error.startswith("glccl x: error: ")
    assert error.count("\n") == 1


def test_an_unexpected_error_keeps_its_traceback_and_asks_for_a_report(capsys):
    assert run(failing(KeyError("a"))) == 1
    *lines, last = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "KeyError: 'a'"
    assert "please report the lines above with glccl x --y, Python" in last


def test_an_interruption_says_what_is_kept(capsys):
    assert run(failing(KeyboardInterrupt())) == 130
    assert run(failing(KeyboardInterrupt()), goes_on=True) == 130
    assert run(failing(KeyboardInterrupt("3 of 9 are kept")), goes_on=True) == 130
    assert capsys.readouterr().err.splitlines() == [
        "glccl x: interrupted",
        "glccl x: interrupted; the same command goes on where it stopped",
        "glccl x: interrupted; 3 of 9 are kept",
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_and_what_it_started(number, code, capsys):
    """The child does not see the signal itself, as where only this process gets it."""
    former = signal.getsignal(number)
    child = None

    def command():
        nonlocal child
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        child = subprocess.Popen(sleep, start_new_session=True)
        os.kill(os.getpid(), number)
        child.wait()

    assert run(command, goes_on=True) == code
    assert child.wait(60) == -signal.SIGTERM
    assert capsys.readouterr().err == "glccl x: interrupted; the same command goes on where it stopped\n"
    assert signal.getsignal(number) is former


def test_progress_in_a_file_is_lines():
    """Where nobody watches, one line at the start and one at the end of something short."""
    program = """
from modeling_glccl import console
def command():
    from tqdm.auto import tqdm
    for _ in tqdm(range(1000), "videos"):
        pass
console.run(command, "x", "x", False)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = [line.split("\r")[-1] for line in done.stderr.split("\n") if line.strip()]
    assert [line.split(" [")[0] for line in lines] == ["videos 0/1000", "videos 1000/1000"]
