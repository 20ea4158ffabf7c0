"""The documentation becomes a site without a warning: every link, anchor and documented name is there."""

import subprocess
import sys

import pytest
from paths import REPOSITORY

pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install '.[docs]'")
pytest.importorskip("mkdocstrings_handlers.python", reason="mkdocstrings is not installed: pip install '.[docs]'")


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("GLCCLModel", "GLCCLProcessor", "TextVideoRetrievalPipeline", "search.VideoIndex"):
        assert f'id="modeling_glccl.{name}"' in api
