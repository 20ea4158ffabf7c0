"""Where the files of the repository are, and the command that installs an extra."""

import tomllib
from pathlib import Path

import pytest
import yaml
from paths import REPOSITORY

from modeling_glccl import packaged


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "preferred-citation"} <= citation.keys()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


BOTH = ("constraints.txt", "pyproject.toml")


@pytest.mark.parametrize(
    ("folder", "held", "line"),
    [
        ("here", BOTH, 'pip install -c constraints.txt -e ".[train]"'),
        (
            "with blank",
            BOTH,
            "pip install -c '{0}/constraints.txt' -e \"{0}[train]\"",
        ),
        ("with blank", ["constraints.txt"], "pip install -c '{0}/constraints.txt' \"modeling_glccl[train]\""),
        ("here", [], 'pip install "modeling_glccl[train]"'),
    ],
)
def test_the_command_of_an_extra_names_the_tested_versions_where_they_are(folder, held, line, tmp_path, monkeypatch):
    for name in ("here", "with blank"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(packaged, "ROOT", tmp_path / folder)
    for name in held:
        Path(tmp_path / folder / name).touch()
    assert packaged.install_line("train") == line.format(tmp_path / folder)
