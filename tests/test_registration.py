"""What is imported when, and that transformers knows the classes in whatever order both are imported."""

import subprocess
import sys

import pytest
from checkpoints import save_tiny_checkpoint

import modeling_glccl
from modeling_glccl.peers import XCLIPModel

MODEL = "from transformers import AutoModel; print(type(AutoModel.from_pretrained(folder)).__name__)"
PIPELINE = """
from transformers import pipeline
print(type(pipeline("text-video-retrieval", model=folder).model).__name__)
"""
PROCESSORS = """
from transformers import AutoProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
print(*(type(auto.from_pretrained(folder)).__name__ for auto in (AutoProcessor, AutoVideoProcessor)))
"""


@pytest.fixture(scope="module")
def xclip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xclip")
    save_tiny_checkpoint(folder, ["a red star"], XCLIPModel, csc_weight=0)
    return folder


def python(program: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("first", "peer", "use", "printed"),
    [
        ("import modeling_glccl", "checkpoint", MODEL, "GLCCLModel"),
        ("from transformers import AutoModel; import modeling_glccl", "xclip", MODEL, "XCLIPModel"),
        # A module whose own import imports transformers: its classes are registered when all of it is there.
        ("import modeling_glccl.pipeline_glccl", "xclip", PIPELINE, "XCLIPModel"),
        slow("import transformers; import modeling_glccl", "checkpoint", MODEL, "GLCCLModel"),
        slow("import modeling_glccl", "checkpoint", PROCESSORS, "GLCCLProcessor GLCCLVideoProcessor"),
        slow("from modeling_glccl import GLCCLConfig", "checkpoint", PIPELINE, "GLCCLModel"),
    ],
)
def test_transformers_loads_checkpoints_in_any_order_of_imports(request, first, peer, use, printed):
    assert python(f"{first}\nfolder = {str(request.getfixturevalue(peer))!r}\n{use}") == printed


def test_the_command_line_starts_without_torch():
    program = (
        "import sys; from modeling_glccl.cli import main; code = main(sys.argv[1:] or ['--help']); "
        "print(code, sorted({'torch', 'transformers', 'datasets', 'numpy', 'rich'} & set(sys.modules)))"
    )
    assert python(program).endswith("\n0 []")
    assert python(program.replace("['--help']", "['search', '--help']")).endswith("\n0 []")
    assert python(program.replace("['--help']", "['search', 'a dog']")) == "2 []"


def test_a_search_imports_what_it_needs_and_collects_no_garbage_before(tmp_path):
    program = f"""
import gc, sys
from modeling_glccl.cli import main
code = main(["search", "a dog", "--index", {str(tmp_path)!r}])
client, unused = "lance_namespace_urllib3_client", {{"gradio", "datasets", "matplotlib"}}
print(code, gc.isenabled(), gc.get_freeze_count() > 100_000, client + ".api" in sys.modules, unused & set(sys.modules))
print(sys.modules[client].TableApi.__module__)  # what LanceDB's REST client offers is there once it is asked for
"""
    assert python(program).splitlines() == [
        "1 True True False set()",
        "lance_namespace_urllib3_client.api.table_api",
    ]


def test_the_package_offers_its_names_and_no_others():
    assert set(modeling_glccl.__all__) <= set(dir(modeling_glccl))
    for name in modeling_glccl.__all__:
        assert getattr(modeling_glccl, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'GLCCL'"):
        modeling_glccl.GLCCL  # noqa: B018
