import subprocess
import sys

import pytest

RUN = """
from modeling_glccl.data.collate import part_quietly
part_quietly(0)
def fail():
    try:
        raise {error}("gone")
    except Exception as error:
        import sys
        sys.excepthook(*sys.exc_info())
fail()
"""


@pytest.mark.parametrize(
    ("error", "said"), [("EOFError", False), ("ConnectionResetError", False), ("ValueError", True)]
)
def test_a_worker_says_nothing_of_a_process_that_has_gone_and_all_else(error, said):
    done = subprocess.run([sys.executable, "-c", RUN.format(error=error)], capture_output=True, text=True, check=True)
    assert ("Traceback" in done.stderr) == said
