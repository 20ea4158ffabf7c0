"""300 cases with fixed seeds, over all kinds."""

import subprocess
import sys

import pytest
from paths import REPOSITORY


@pytest.mark.slow
def test_every_mutation_is_read_or_refused_with_one_clear_error():
    command = [sys.executable, "-m", "tests.fuzz", "--cases", "300"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
