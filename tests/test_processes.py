from types import SimpleNamespace

import pytest
import torch

from modeling_glccl import processes
from modeling_glccl.processes import make_accelerator


@pytest.mark.parametrize(("gpu", "cpu"), [(True, False), (False, True)])
def test_the_cpu_is_asked_for_where_there_is_no_gpu(monkeypatch, gpu, cpu):
    asked = {}

    def accelerator(**settings):
        asked.update(settings)
        return SimpleNamespace(num_processes=1)

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
    monkeypatch.setattr(processes, "Accelerator", accelerator)
    make_accelerator("bf16", log_with="tensorboard")
    assert (asked["cpu"], asked["mixed_precision"], asked["log_with"]) == (cpu, "bf16", "tensorboard")


def test_processes_that_accelerate_does_not_see_are_refused(monkeypatch):
    monkeypatch.setattr(processes, "Accelerator", lambda **settings: SimpleNamespace(num_processes=1))
    monkeypatch.setenv("WORLD_SIZE", "1")
    make_accelerator("fp32")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were launched \(WORLD_SIZE\) but accelerate found 1"):
        make_accelerator("fp32")
