"""What is wrong with an argument whatever else is given: said without torch, whose import takes seconds."""

import os
import re
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from .packaged import packaged
from .video_files import VIDEO_SUFFIXES

# Of a query; no model reads more than some 77 tokens.
MAX_CHARACTERS = 2000
# Modules of `data`; each, or its BENCHMARK, has load(data_dir, repo_id, split, missing, with_videos, **more).
BENCHMARKS = ("shapes", "msrvtt", "didemo", "vatex", "msvd", "activitynet", "lsmdc", "captions")
_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_name(checkpoint: str | os.PathLike) -> None:
    """Raises FileNotFoundError for what is neither a path that exists nor a name that the Hub could have, and
    ValueError for a path of something else than a checkpoint."""
    if os.path.exists(checkpoint):
        if problem := _what_else(Path(checkpoint)):
            raise ValueError(f"{checkpoint} is no checkpoint: it {problem}")
    elif not _REPOSITORY.fullmatch(os.fspath(checkpoint)):
        raise FileNotFoundError(f"{checkpoint}: no such folder")


def check_benchmark_name(name: str) -> None:
    """Raises ValueError for a benchmark that there is not, with the one that may be meant."""
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}: {nearest(name, [*BENCHMARKS])}")


def check_index(uri: str) -> None:
    """Raises OSError where no folder of an index is; object stores are not asked, nor without LanceDB."""
    if "://" not in uri and not os.path.isdir(uri) and find_spec("lancedb"):
        if os.path.exists(uri):
            raise NotADirectoryError(f"{uri}: is a file; an index is a folder")
        raise FileNotFoundError(f"{uri}: no such index; `glccl index` or VideoIndex.create makes one")


def check_query(query: str) -> None:
    """Raises ValueError for a query in which nothing can be read, or one of more than `MAX_CHARACTERS`."""
    if not any(character.isprintable() and not character.isspace() for character in query):
        raise ValueError("the query is empty; say what happens in the video")
    if len(query) > MAX_CHARACTERS:  # before a tokeniser spends seconds on it
        raise ValueError(f"the query has {len(query):,} characters; at most {MAX_CHARACTERS:,} are allowed")


def find_recipe(path: str | Path) -> Path:
    """The file of a recipe, given that or the name of one that comes with the package; else FileNotFoundError."""
    file, known = Path(path), {recipe.stem: recipe for recipe in sorted(packaged("recipes").glob("*.yaml"))}
    if file.is_file() or (file.suffix and file.exists()):
        return file
    if str(path) not in known:
        raise FileNotFoundError(f"{path}: no such file, and no recipe of the package: {nearest(file.stem, [*known])}")
    return known[str(path)]


def nearest(name: str, known: list[str]) -> str:
    """What may have been meant by a name that is not known."""
    found = get_close_matches(name, known, n=1)
    return f"did you mean {found[0]}?" if found else f"known are {', '.join(known)}"


def _what_else(path: Path) -> str | None:
    """What a path that exists is, if no checkpoint, and what to do; None for what may be one."""
    if not path.is_dir():
        return "is a file. The authors' checkpoints and OpenAI's CLIP become one by: glccl convert FILE FOLDER"
    if (path / "config.json").exists():
        return None
    names = {child.name for child in path.iterdir()}
    if {"clips.lance", "about.lance"} & names:
        return "is an index of videos; glccl search and serve take it as --index"
    runs = [path / name for name in ("best", "last", "model/best", "model/last")]
    if runs := [str(run) for run in runs if (run / "config.json").exists()]:
        return f"is the folder of a training run, whose checkpoints are {' and '.join(runs)}"
    if {"dataset_info.json", "dataset_dict.json", "state.json"} & names or any(
        name.startswith("metadata.") or name.endswith((".parquet", ".arrow")) for name in names
    ):
        return "is a folder of data; a checkpoint has a config.json"
    if any(name.startswith("open_clip") for name in names):
        return "is in OpenCLIP's format; GLCCL takes transformers' (config.json, model.safetensors, tokenizer)"
    if any(name.lower().endswith(tuple(VIDEO_SUFFIXES)) for name in names):
        return "is a folder of videos; a checkpoint has a config.json"
    return "is empty" if not names else f"has no config.json but {', '.join(sorted(names)[:5])}"
