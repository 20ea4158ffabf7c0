"""What a benchmark says where a library is missing."""

import ast
import subprocess
import sys

import pytest
from paths import REPOSITORY

from modeling_glccl.packaged import install_line

BENCHMARKS = REPOSITORY / "benchmarks"
SCRIPTS = [path for path in sorted(BENCHMARKS.glob("*.py")) if "\nif __name__" in path.read_text(encoding="utf-8")]


def imported(path) -> list[str]:
    """The packages that a file imports at its start, in order, those of Python left out; of relative ones "."."""
    names = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append("." if node.level else node.module)
    return [name for name in names if name.partition(".")[0] not in sys.stdlib_module_names]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_errors_come_before_what_may_be_missing(path):
    """Modules, which `python -m benchmarks.NAME` runs, get them from the package."""
    assert imported(path)[0] == "errors" or "." in imported(path)


@pytest.mark.parametrize(
    ("missing", "arguments", "says"),
    [
        ("pandas", "csc.py", f"csc: error: pandas is not installed: {install_line('train')}"),
        ("playwright", "page_picture.py", f"page_picture: error: playwright is not installed: {install_line('dev')}"),
        ("pandas", "-m benchmarks.domains", "domains: error: pandas is not installed: pip install"),
        ("gradio", "../hub/space/app.py", "the page needs Gradio: pip install"),
    ],
)
def test_a_missing_library_is_one_line(missing, arguments, says, tmp_path):
    (tmp_path / missing).with_suffix(".py").write_text(f"raise ModuleNotFoundError('x', name={missing!r})")
    command = [BENCHMARKS / arguments] if arguments.endswith(".py") else arguments.split()
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
    )
    assert done.returncode == 1
    assert done.stderr.startswith(says)
    assert done.stderr.count("\n") == 1
