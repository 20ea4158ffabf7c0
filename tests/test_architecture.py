"""Who may import whom. Files that are copied to the Hub beside the weights stay flat, self-contained siblings."""

import ast
import sys
from pathlib import Path

import pytest
from paths import REPOSITORY

PACKAGE = REPOSITORY / "modeling_glccl"

# The checkpoint set: file -> the siblings it may import.
CHECKPOINT_SET = {
    "towers_glccl": set(),
    "configuration_glccl": {"towers_glccl"},
    "scoring_glccl": set(),
    "loss_glccl": set(),
    "features_glccl": set(),
    "interaction_glccl": {"features_glccl", "scoring_glccl"},
    # Importing the files of the pipeline and of the module of sentence-transformers saves them with the model's.
    "modeling_glccl": {
        "configuration_glccl",
        "features_glccl",
        "interaction_glccl",
        "loss_glccl",
        "pipeline_glccl",
        "sentence_transformers_glccl",
        "towers_glccl",
    },
    "sentence_transformers_glccl": set(),
    "video_streams_glccl": set(),
    "video_decoding_glccl": {"video_streams_glccl"},
    "decoding_process_glccl": {"video_decoding_glccl", "video_streams_glccl"},
    "video_processing_glccl": {"decoding_process_glccl", "video_decoding_glccl", "video_streams_glccl"},
    "processing_glccl": {"configuration_glccl", "towers_glccl", "video_processing_glccl"},
    "pipeline_glccl": {"features_glccl", "processing_glccl", "video_processing_glccl"},
}
CHECKPOINT_THIRD_PARTY = {
    "torch",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "PIL",
    "av",
    "ftfy",
    "tqdm",
}
# Sub-packages of the library set: the sub-packages and modules that they must not import.
FORBIDDEN = {
    "data": {"training", "evaluation", "search", "peers"},
    "training": {"search"},
    "evaluation": {"training", "search"},
    "search": {"training"},
    "peers": {"training", "evaluation", "search"},
}
ON_TOP = {"cli", "app", "api"}


def imports(path: Path, package: Path):
    """(node, absolute dotted module, inside try) of every import, also those inside functions."""
    inside_try = set()
    tree = ast.parse(path.read_text(), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            inside_try.update(child for statement in node.body for child in ast.walk(statement))
    parents = [package.name, *path.relative_to(package).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name, node in inside_try
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            names = [alias.name for alias in node.names] if module == package.name else [""]
            for name in names:
                yield node, f"{module}.{name}".rstrip("."), node in inside_try


def violations(package: Path) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        owner = relative.parts[0].removesuffix(".py")
        for node, module, inside_try in imports(path, package):
            where = f"{relative}:{node.lineno} imports {module}"
            parts = module.split(".")
            if path.stem.endswith("_glccl"):
                found += [f"{where}: {reason}" for reason in checkpoint_violations(path.stem, node, parts, inside_try)]
            elif parts[0] == package.name and len(parts) > 1:
                target, internal = parts[1], len(parts) > 2
                if target in FORBIDDEN.get(owner, ()):
                    found.append(f"{where}: {owner} must not know {target}")
                if {owner, target} == {"training", "evaluation"} and internal:
                    found.append(f"{where}: internals of {target}; import from its __init__")
                if target in ON_TOP and owner not in ON_TOP:
                    found.append(f"{where}: {target} sits on top")
            elif parts[0] in {"train", "benchmarks", "hub", "tests"}:
                found.append(f"{where}: sits on top of the package")
        if path.stem.endswith("_glccl") and path.stem not in CHECKPOINT_SET:
            found.append(f"{relative}: an unknown file of the checkpoint set; state here what it may import")
        if path.stem.endswith("_glccl") and len(relative.parts) > 1:
            found.append(f"{relative}: files of the checkpoint set lie beside each other")
    return found


def checkpoint_violations(stem, node, parts, inside_try):
    relative = isinstance(node, ast.ImportFrom) and node.level > 0
    if relative:
        if node.level > 1 or not node.module or any(alias.name == "*" for alias in node.names):
            yield "only `from .x_glccl import Name` survives the copy to the Hub"
        elif node.module not in CHECKPOINT_SET.get(stem, ()):
            yield f"{stem} may import {sorted(CHECKPOINT_SET.get(stem, ()))} of the package"
    elif parts[0] not in sys.stdlib_module_names | CHECKPOINT_THIRD_PARTY:
        yield "not among the libraries that a checkpoint may need"
    elif parts[0] == "ftfy" and not inside_try:
        yield "ftfy is optional there and stands under try"


def test_the_package_keeps_to_the_architecture():
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "source", "reason"),
    [
        ("loss_glccl.py", "from .modeling_glccl import GLCCLModel", "may import"),
        ("modeling_glccl.py", "from modeling_glccl.configuration_glccl import GLCCLConfig", "not among"),
        ("modeling_glccl.py", "from . import loss_glccl", "survives"),
        ("modeling_glccl.py", "from .loss_glccl import *", "survives"),
        ("modeling_glccl.py", "def f():\n    from .training import loop", "may import"),
        ("modeling_glccl.py", "import pandas", "not among"),
        ("processing_glccl.py", "import ftfy", "under try"),
        ("extra_glccl.py", "", "unknown file"),
        ("data/loss_glccl.py", "", "beside each other"),
        ("training/loop.py", "from ..evaluation.evaluator import evaluate", "internals"),
        ("evaluation/evaluator.py", "from modeling_glccl.training import loop", "must not know"),
        ("search/index.py", "from ..training import recipe", "must not know"),
        ("search/index.py", "from .. import training", "must not know"),
        ("data/collate.py", "from ..cli import main", "sits on top"),
        ("data/collate.py", "import train", "sits on top"),
    ],
)
def test_a_violation_is_found(tmp_path, file, source, reason):
    path = tmp_path / "modeling_glccl" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    (found,) = violations(tmp_path / "modeling_glccl")
    assert reason in found
