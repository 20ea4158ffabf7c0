import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from paths import REPOSITORY
from training_runs import logged, write_recipe

# Nothing tells accelerate to use the CPU but that there is no GPU.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
ENVIRONMENT.pop("ACCELERATE_USE_CPU", None)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def start(*arguments, launcher=()):
    command = [sys.executable, *launcher, REPOSITORY / "train.py", *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def run(*arguments, launcher=()):
    process = start(*arguments, launcher=launcher)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return errors


def test_help_shows_the_launch_lines():
    process = start("--help")
    _, message = process.communicate()
    assert "accelerate launch train.py recipes/shapes.yaml" in message


@pytest.mark.slow
def test_a_killed_run_of_two_processes_goes_on_as_if_it_never_was(tmp_path):
    """As one of a single process does in tests/faults."""
    # 4 steps an epoch and a checkpoint every third: the kill falls between two checkpoints, in some epoch's midst.
    settings = ("train.batch_size=2", "train.epochs=10", "train.eval_epochs=5", "train.save_steps=3")
    recipe = write_recipe(tmp_path, tmp_path / "data")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(recipe, *settings, f"output_dir={whole}", launcher=TORCHRUN)
    process = start(recipe, *settings, f"output_dir={killed}", launcher=TORCHRUN)
    while not (killed / "last").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    launched = psutil.Process(process.pid)
    for one in [launched, *launched.children(recursive=True)]:
        one.kill()
    process.communicate()
    assert not (killed / "results.json").exists(), "the run ended before it could be killed"
    assert (killed / "last" / "training_state" / "random_states_1.pkl").exists()
    run(recipe, *settings, f"output_dir={killed}", launcher=TORCHRUN)

    assert logged(killed) == logged(whole)
    assert list(logged(killed)) == list(range(1, 41))
    results = [json.loads((folder / "results.json").read_text()) for folder in (killed, whole)]
    assert [result["processes"] for result in results] == [2, 2]
    assert results[0]["history"] == results[1]["history"]
    assert results[0]["test"] == results[1]["test"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_says_what_is_kept_and_leaves_no_process(tmp_path, number, code):
    folder = tmp_path / "run"
    recipe = write_recipe(tmp_path, tmp_path / "data")
    process = start(recipe, "train.epochs=1000", "data.num_workers=2", "train.save_steps=1")
    while not (folder / "last").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == code, errors
    assert f"{folder}/last holds step" in errors.splitlines()[-1]
    assert "the same command goes on" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert psutil.wait_procs(children, timeout=10)[1] == []


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_with_their_whole_batch(tmp_path):
    recipe = write_recipe(tmp_path, tmp_path / "data")
    without = [f"model.config.clip_config.{part}_config.attention_dropout=0.0" for part in ("text", "vision")]
    for folder, launcher in (("one", ()), ("two", TORCHRUN)):
        errors = run(
            recipe, *without, "train.total_batch_size=8", f"output_dir={tmp_path / folder}", launcher=launcher
        )
        assert "warning" not in errors.lower()
    one, two = (logged(tmp_path / folder) for folder in ("one", "two"))
    assert list(one) == list(two) == [1, 2, 3, 4]
    assert list(two.values()) == pytest.approx(list(one.values()), abs=1e-5)
    assert json.loads((tmp_path / "two" / "results.json").read_text())["processes"] == 2
