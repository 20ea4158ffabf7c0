"""Errors, signals and progress of a command."""

import os
import signal
import subprocess
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from paths import REPOSITORY
from safetensors import SafetensorError
from training_runs import TINY, write_recipe

from modeling_glccl import console
from modeling_glccl.data import load_benchmark
from modeling_glccl.packaged import install_line


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
        (SafetensorError("a\nb"), "a; b"),
        (ModuleNotFoundError("x", name="ray.data"), f"ray is not installed: {install_line('scale')}"),
        (subprocess.CalledProcessError(3, ["a", "b c"]), "a 'b c' ended with exit code 3; the lines above say why"),
    ],
)
def test_what_a_user_can_cause_is_one_line(error, message, capsys):
    assert run(failing(error)) == 1
    assert capsys.readouterr().err == f"glccl x: error: {message}\n"


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
    child: Any = None

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


def test_a_warning_is_a_line_without_source(capsys):
    def command():
        for text in ("a.mp4: is cut.\n  Using the rest.", "b.mp4: is cut"):
            warnings.warn(text, stacklevel=1)

    shown = warnings.showwarning
    assert run(command) == 0
    assert capsys.readouterr().err.splitlines() == [
        "glccl x: warning: a.mp4: is cut.; Using the rest.",
        "glccl x: warning: b.mp4: is cut",
    ]
    assert warnings.showwarning is shown


@pytest.mark.parametrize(("terminal", "imports"), [(True, True), (True, False), (False, True)])
def test_a_terminal_is_told_of_imports_that_last(terminal, imports, tmp_path, monkeypatch, capsys):
    told = "glccl x: loading torch and other libraries\n" if terminal and imports else ""

    def last() -> None:
        for _ in range(6000 if told else 50):  # in hundredths of a second
            time.sleep(0 if sys.stderr.getvalue() else 0.01)

    (tmp_path / "lasting.py").write_text("import sys\nsys.last()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lasting", raising=False)
    monkeypatch.setattr(sys, "last", last, raising=False)
    monkeypatch.setattr(console, "IMPORTING", 0.1)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert run(lambda: (import_module("lasting") if imports else last()) and None) == 0
    assert capsys.readouterr().err == told


@pytest.mark.slow
def test_training_into_a_file_is_short_lines(tmp_path):
    """Of each bar a line at its start and one at its end; a warning of a process that decodes has no source."""
    recipe = write_recipe(tmp_path, tmp_path / "data")
    dataset = load_benchmark("shapes", tmp_path / "data", split="train", **TINY["data"]["options"])
    video = Path(dataset[0]["video"]["path"])
    content = bytearray(video.read_bytes())
    content[2000:3000] = bytes(1000)
    video.write_bytes(content)
    command = [sys.executable, "train.py", str(recipe), "data.num_workers=1", "train.epochs=1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert all(line.isprintable() and line == line.rstrip() != "" for line in lines)
    (warning,) = [line for line in lines if "warn" in line.lower()]
    assert warning.startswith(f"glccl train: warning: {video}: should hold 48 frames, but ")
    assert len(lines) < 30
    assert max(map(len, lines)) < 300


@pytest.mark.parametrize(
    ("busy", "given", "policy"),
    [
        (True, {}, "PASSIVE"),
        (False, {}, None),
        (True, {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        (True, {"OMP_NUM_THREADS": "1"}, None),
    ],
)
def test_threads_spin_unless_another_process_is_busy_or_the_user_says_otherwise(monkeypatch, busy, given, policy):
    monkeypatch.setattr(console, "others_are_busy", lambda: busy)
    for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that it is as it was afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert run(lambda: None) == 0
    assert os.environ.get("OMP_WAIT_POLICY") == policy


@pytest.mark.skipif(not os.path.exists("/proc/loadavg"), reason="only Linux says what runs")
def test_a_busy_process_is_seen():
    program = "print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            assert console.others_are_busy()
        finally:
            process.kill()


def test_progress_in_a_file_is_lines():
    """Where nobody watches, a line now and then and one at the end, and none of something short."""
    program = """
import sys
from modeling_glccl import console
def command():
    from tqdm.auto import tqdm
    for _ in tqdm(range(10), "short"):
        pass
    for number in tqdm(range(10), "long", delay=1e-9, mininterval=0, miniters=5):
        if number == 7:
            tqdm.write("told", file=sys.stderr)
    print("begun", end="", file=sys.stderr)
console.run(command, "x", "x", False)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = done.stderr.split("\n")
    told = ["long 5/10", "told", "long 5/10", "long 10/10", "long 10/10", "begun", ""]
    assert [line.split(" [")[0] for line in lines] == told
    assert not [line for line in lines if line != line.rstrip() or not line.isprintable()]
