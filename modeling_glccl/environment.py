"""What a result was obtained with: versions, hardware and the commit."""

import json
import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "huggingface_hub", "numpy", "av")


def show_info(checkpoint: str | None = None) -> None:
    """`glccl info`: prints versions, hardware and what a checkpoint is."""
    print(json.dumps(describe_environment(), indent=2))
    if checkpoint:
        from .checkpoints import load_checkpoint

        model, _ = load_checkpoint(checkpoint)
        trained = ", zero-shot (nothing but CLIP was trained)" if model.config.zero_shot else ""
        print(f"{checkpoint}: {type(model).__name__}{trained}, {model.num_parameters():,} parameters\n{model.config}")


def describe_environment() -> dict[str, Any]:
    """Versions, hardware and git commit of this process, as values that JSON can hold."""
    versions: dict[str, str | None] = {"python": platform.python_version()} | dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "versions": versions,
        "hardware": {
            "cpu": _cpu_name(),
            "cpu_cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        },
        "git": _git_commit(),
    }


def resolve_device(device: str = "auto") -> torch.device:
    """The device of that name, and for "auto" the GPU if there is one; ValueError for one that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        value = torch.zeros(1, device=device)
        value.item()  # which "meta" cannot
        return value.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # depends on how torch was built
        reason = str(error).splitlines()[0][:150]
        raise ValueError(f"device={device!r} cannot be used ({reason}); take auto, cpu, cuda or cuda:1") from error


def resolve_precision(precision: str, device: str = "auto", training: bool = False) -> str:
    """`precision` itself, and for "auto" what the device computes fastest: "bf16" where it has such products.

    Else "fp32" on a CPU, where bf16 may be 70 times slower, and for training; else "fp16".
    """
    if precision not in (known := ("auto", "fp32", "bf16", "fp16")):
        raise ValueError(f"precision={precision!r} is unknown; take {', '.join(known)}")
    if precision != "auto":
        return precision
    if resolve_device(device).type == "cuda":
        half = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return "fp32" if training and half == "fp16" else half
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older releases do not tell
    return "bf16" if any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "fp32"


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.+)", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return name[1].strip() if name else platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """Hash of this package's checked-out commit, with "-dirty" where files differ from it; None outside a checkout.

    An installed package lies in no repository, or in that of whoever uses it, which does not track it.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        command = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
