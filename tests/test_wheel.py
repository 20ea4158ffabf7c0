"""The wheel, installed away from the repository: commands find all that they need in it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest
import yaml
from paths import REPOSITORY
from training_runs import TINY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", REPOSITORY, "--wheel-dir", folder)
    (path,) = folder.glob("*.whl")
    return path


def pip(command: str, *arguments: object) -> None:
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", command, *options, *map(str, arguments)], check=True)


@pytest.mark.slow
def test_the_wheel_holds_what_lies_beside_the_package_and_no_second_copy(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    held = {name.removeprefix("modeling_glccl/") for name in names}
    folders = (REPOSITORY / folder for folder in ("recipes", "hub/datasets", "hub/models/glccl-shapes"))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    single = ("constraints.txt", "model_card.md", "hub/endpoint/handler.py", "modeling_glccl/py.typed")
    files += [REPOSITORY / name for name in single]
    assert {path.relative_to(REPOSITORY).as_posix().removeprefix("modeling_glccl/") for path in files} < held
    assert len(names) == len(set(names))
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"modeling_glccl"}


# Commands in one process, which imports torch once; prints where the package is, then what the commands print.
PROGRAM = """
import json, sys
import modeling_glccl
from modeling_glccl.cli import main
print(modeling_glccl.__file__)
for command in json.loads(sys.argv[1]):
    assert main(command) == 0, command
"""


@pytest.mark.slow
def test_commands_run_from_an_installed_wheel(wheel, tmp_path):
    """Training by the name of a recipe, then what is done with the model; nothing of the checkout is seen."""
    site, run = tmp_path / "site", tmp_path / "run"
    pip("install", "--target", site, wheel)
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    recipe = {"output_dir": str(run), **TINY, "data": TINY["data"] | {"data_dir": "data"}}
    recipe["train"] = TINY["train"] | {"epochs": 1}
    commands = [
        [
            "train",
            "shapes",
            *(f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in recipe.items()),
        ],
        ["info", str(run / "best")],
        ["index", "data", "--index", "index", "--model", str(run / "best")],
        ["search", "a red ball", "--index", "index", "--top-k", "1", "--json"],
        ["publish", str(run / "best"), "someone/model", "--add", "hub/endpoint/handler.py"],
    ]
    program = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    printed = subprocess.check_output(program, cwd=tmp_path, env=environment, text=True)
    assert printed.startswith(str(site))
    for text in ("test, best model", "GLCCLModel", ".mp4", "handler.py", "# model", "Nothing was uploaded"):
        assert text in printed

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = shutil.which("glccl", path=site / "bin")
    server = subprocess.Popen(
        [str(program), "serve", "--index", "index", f"--port={port}"], cwd=tmp_path, env=environment
    )
    try:
        while True:
            assert server.poll() is None
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
                    assert "gradio" in answer.read().decode()
                break
            except urllib.error.URLError:  # not yet
                time.sleep(0.2)
    finally:
        server.terminate()
        assert server.wait(60) == 143
