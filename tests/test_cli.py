"""The `glccl` command line on a tiny checkpoint and eight rendered videos."""

import json
import subprocess
import sys

import pytest
from families import save_plain
from paths import REPOSITORY

from modeling_glccl import cli
from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.cli import main
from modeling_glccl.packaged import install_line
from modeling_glccl.peers import CLIP4ClipModel

SHAPES = {"num_train": 0, "num_validation": 0, "num_test": 8, "image_size": 32}


def evaluate(checkpoint, shapes_dir, *more: str) -> int:
    options = [f"--set={name}={value}" for name, value in SHAPES.items()]
    arguments = ["evaluate", str(checkpoint), "--benchmark=shapes", f"--data-dir={shapes_dir}", "--num-workers=0"]
    return main([*arguments, *options, *more])


def fresh(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)


def test_info_tells_versions_and_what_a_checkpoint_is(checkpoint, capsys):
    assert main(["info", str(checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert '"transformers"' in printed
    assert "GLCCLModel" in printed
    assert '"max_words": 32' in printed


COMMANDS = [*([name] for name in cli.cli.commands), *(["data", name] for name in cli.data.commands)]
COMMANDS += [["export", name] for name in cli.export.commands]


def test_all_commands_are_there():
    names = "calibrate compare convert cut data demo duplicates evaluate export index info publish search serve train"
    assert " ".join(sorted(cli.cli.commands)) == f"{names} train-demo"
    assert set(cli.data.commands) == {"check", "compress", "export"}
    assert set(cli.export.commands) == {"onnx"}


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["index", "videos", "--index", "i", "--watch"],
        ["search", "a dog", "--index", "i", "--min-score"],
        ["cut", "a dog", "--index", "i", "--output", "o", "--padding"],
    ],
    ids=lambda arguments: arguments[-1],
)
def test_numbers_that_are_none_are_wrong_usage(arguments, value, capsys):
    assert main([*arguments[:-1], f"{arguments[-1]}={value}"]) == 2
    assert f"Invalid value for '{arguments[-1]}'" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command, capsys):
    assert main([*command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"Usage: glccl {' '.join(command)} ")
    assert "-h, --help" in printed
    assert "None" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evalute"], "No such command 'evalute'"),
        ([], "COMMAND [ARGS]"),
        (["info", "--verbose"], "No such option '--verbose'"),
        (["evaluate", "somewhere"], "Missing option '--benchmark'"),
        (["evaluate", "x", "--benchmark", "shapes", "--set", "num_test"], "num_test: not of the form key=value"),
        (["evaluate", "x", "--benchmark", "shapes", "--set", "a=["], "a=[: not of the form key=value"),
        (["data", "check", "shapes", "--num-workers", "2147483648"], "2147483648 is not in the range 0<=x<=1024"),
        (["evaluate", "x", "--benchmark", "shapes", "--queries", "-3"], "-3 is not in the range x>=0"),
        (["calibrate", "x", "--benchmark", "shapes", "--batch-size", "0"], "0 is not in the range 1<=x"),
        (["evaluate", "x", "--benchmark", "shapes", "--output", __file__], "test_cli.py' is a file"),
        (["serve", "--index", "x", "--port", "-1"], "-1 is not in the range 0<=x<=65535"),
    ],
)
def test_wrong_usage_is_explained(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


WRONG = {
    "evaluate m --benchmark shape": "unknown benchmark 'shape': did you mean shapes?",
    "train none.yaml": "none.yaml: no such file, and no recipe of the package",
    "train-demo --recipe none": "none: no such file, and no recipe of the package",
    "search '' --index .": "the query is empty; say what happens in the video",
    "cut a --and ' ' --index . --output o": "the query is empty; say what happens in the video",
    "search a --index none.index": "none.index: no such index; `glccl index` or VideoIndex.create makes one",
    "duplicates --index none.index": "none.index: no such index",
    "serve --index none.index": "none.index: no such index",
    "index none --index new.index --model m": "none: no such folder of videos",
    "info no/such/folder": "no/such/folder: no such folder",
    "info index": "index is no checkpoint: it is an index of videos",
    "index . --index new.index --model index": "index is no checkpoint: it is an index of videos",
    "evaluate no/such/folder --benchmark shapes": "no/such/folder: no such folder",
}


def test_an_argument_that_is_wrong_in_any_case_needs_no_torch(tmp_path, monkeypatch):
    program = """
import shlex, sys
from modeling_glccl.cli import main
print([main(shlex.split(line)) for line in sys.argv[1:]], "torch" in sys.modules)
"""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "index" / "clips.lance").mkdir(parents=True)
    done = fresh(program, *WRONG)
    assert done.stdout == f"{[1] * len(WRONG)} False\n"
    for error, (line, message) in zip(done.stderr.splitlines(), WRONG.items(), strict=True):
        assert error.startswith(f"glccl {line.split()[0]}: error: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_options_become_the_parameters_of_the_function(monkeypatch):
    """What a command passes on is what its function takes."""
    taken = {}
    for function in ("search.commands.search_command", "evaluation.evaluate_checkpoint.evaluate_checkpoint"):
        monkeypatch.setattr(f"modeling_glccl.{function}", lambda **options: taken.update(options))
    assert main(["search", "a dog", "--index=my.index", "--top-k=3", "--json"]) == 0
    expected = {"query": "a dog", "index_path": "my.index", "k": 3, "as_json": True, "html_path": None}
    expected |= {"open_page": False, "min_confidence": None, "ids": (), "shot_list": None, "sort": "score"}
    assert expected.items() <= taken.items()
    assert main(["evaluate", "x", "--benchmark=shapes", "--set=num_test=8", "--no-mask-padding", "--confidence"]) == 0
    assert (taken["num_test"], taken["mask_padding"], taken["confidence"]) == (8, False, 95.0)
    assert main(["evaluate", "x", "--benchmark=shapes", "--confidence", "90"]) == 0
    assert (taken["mask_padding"], taken["confidence"]) == (None, 90.0)


COMMAND = """
import sys
from modeling_glccl.cli import main
sys.modules |= dict.fromkeys({missing})
sys.exit(main({arguments}))
"""


@pytest.mark.parametrize(
    ("missing", "line", "extra"),
    [
        ("accelerate", "train recipes/shapes.yaml", "train"),
        ("lancedb", "search dog --index my.index", "search"),
        ("gradio", "serve model --videos videos", "demo"),
        ("fastapi", "serve model --videos videos", "demo"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(missing, line, extra):
    """A fresh interpreter, in which the module cannot be imported."""
    done = fresh(COMMAND.format(missing=[missing], arguments=line.split()))
    assert done.returncode == 1
    assert install_line(extra) in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("missing", "module", "extra"),
    [("datasets", "data", "train"), ("accelerate", "training", "train"), ("datasets", "mteb", "mteb")],
)
def test_a_module_names_its_extra_where_it_is_imported(missing, module, extra):
    done = fresh(f"import sys; sys.modules[{missing!r}] = None; import modeling_glccl.{module}")
    assert install_line(extra) in done.stderr.splitlines()[-1]


def test_a_checkpoint_is_published_without_what_training_needs():
    publish = ["publish", str(REPOSITORY / "hub" / "models" / "glccl-shapes"), "owner/name"]
    done = fresh(COMMAND.format(missing=["accelerate", "datasets", "matplotlib"], arguments=publish))
    assert done.returncode == 0, done.stderr
    assert "Nothing was uploaded" in done.stdout


def test_a_plain_clip_is_evaluated_beside_mean_pooling(shapes_dir, tmp_path, capsys):
    plain = save_plain("clip", tmp_path / "clip")
    assert evaluate(plain, shapes_dir, "--output", str(tmp_path / "report")) == 0
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["glim_temperature"] == load_checkpoint(plain)[0].config.glim_temperature
    pooled = CLIP4ClipModel.from_pretrained(plain)
    pooled.save_pretrained(tmp_path / "pooled")
    load_checkpoint(plain)[1].save_pretrained(tmp_path / "pooled")
    assert evaluate(tmp_path / "pooled", shapes_dir, "--output", str(tmp_path / "pooled_report")) == 0
    expected = json.loads((tmp_path / "pooled_report" / "results.json").read_text())
    assert results["baselines"] == {"mean pooling": {"metrics": expected["metrics"]}}
    assert (results["model"], expected["model"]) == ("GLCCLModel", "CLIP4ClipModel")  # the head that was saved
    assert "mean pooling" in capsys.readouterr().out
