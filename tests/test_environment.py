"""What is told of the machine."""

import subprocess

import pytest
import torch

from modeling_glccl import environment
from modeling_glccl.environment import describe_environment, resolve_precision


@pytest.mark.parametrize("tracked", [True, False])
def test_the_commit_is_that_of_the_package_and_not_of_a_project_that_installed_it(tmp_path, monkeypatch, tracked):
    installed = tmp_path / ".venv" / "modeling_glccl" / "environment.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    (tmp_path / "own.txt").write_text("")
    settings = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init"], ["add", ".venv" if tracked else "own.txt"], [*settings, "commit", "-m", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    monkeypatch.setattr(environment, "__file__", str(installed))
    assert describe_environment()["git"] == (head.stdout.strip() if tracked else None)


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx512_bf16": False}, "fp32"), ({}, "fp32")],
)
def test_automatic_precision_is_bf16_where_the_processor_has_its_products(monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert resolve_precision("auto") == precision


@pytest.mark.parametrize(("supported", "precisions"), [(True, ("bf16", "bf16")), (False, ("fp16", "fp32"))])
def test_automatic_precision_of_a_gpu(monkeypatch, supported, precisions):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert (resolve_precision("auto"), resolve_precision("auto", training=True)) == precisions
    assert resolve_precision("auto", "cpu") in ("fp32", "bf16")
    assert resolve_precision("fp32") == "fp32"
