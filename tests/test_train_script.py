import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_runs import logged, write_recipe

REPOSITORY = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}


def start(*arguments, launcher=()):
    command = [sys.executable, *launcher, REPOSITORY / "train.py", *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def run(*arguments, launcher=()):
    process = start(*arguments, launcher=launcher)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def test_help_shows_the_launch_lines():
    process = start("--help")
    _, message = process.communicate()
    assert "accelerate launch train.py recipes/shapes.yaml" in message


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_epoch_goes_on_as_if_it_never_was(tmp_path):
    # 16 steps an epoch and a checkpoint after each step: the kill falls into some epoch, between two checkpoints.
    settings = ("train.batch_size=2", "train.epochs=8", "train.eval_epochs=4", "train.save_steps=1")
    options = ("data.options.num_train=32", "data.options.num_validation=8", "data.options.num_test=8")
    recipe = write_recipe(tmp_path, tmp_path / "data")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(recipe, *settings, *options, f"output_dir={whole}")

    process = start(recipe, *settings, *options, f"output_dir={killed}")
    while not (killed / "last").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(0.7)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "results.json").exists()
    before = len(logged(killed))
    assert 0 < before < 128

    run(recipe, *settings, *options, f"output_dir={killed}")
    assert logged(killed) == logged(whole)
    assert len(logged(killed)) == 128
    results = [json.loads((folder / "results.json").read_text()) for folder in (killed, whole)]
    assert results[0]["history"] == results[1]["history"]
    assert results[0]["test"] == results[1]["test"]


@pytest.mark.slow
def test_two_processes_train_and_resume(tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    recipe = write_recipe(tmp_path, tmp_path / "data")
    run(recipe, f"output_dir={tmp_path / 'whole'}", launcher=torchrun)
    whole = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert whole["processes"] == 2
    assert [row["step"] for row in whole["history"]] == [2, 4]

    halves = (f"output_dir={tmp_path / 'halves'}", "train.save_steps=1")
    run(recipe, *halves, launcher=torchrun)
    # What an end right after the checkpoint of step 3 would have left behind.
    assert logged(tmp_path / "halves") == logged(tmp_path / "whole")
