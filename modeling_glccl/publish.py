"""`glccl publish`: a checkpoint folder and its model card -> one commit of a Hub repository."""

import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]
    LocalTokenNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from .arguments import check_benchmark_name
from .checkpoints import check_checkpoint
from .configuration_glccl import GLCCLConfig
from .model_card import make_card
from .packaged import packaged

# What model and processor write, and what a training run adds. Anything else in the folder stays where it is.
PUBLISHED = (
    *("config.json", "*.safetensors", "model.safetensors.index.json", "*processor_config.json", "*_glccl.py"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "modules.json", "recipe.yaml", "results.json", "README.md"),
)
# Of an earlier push, these would be loaded or mistaken for a part of this one.
REPLACED = ("model*.safetensors", "model.safetensors.index.json", "*_glccl.py", "data/*.parquet")

NO_TOKEN = "no token: run `hf auth login`, or set HF_TOKEN to a token that may write"


def publish_checkpoint(
    checkpoint: str,
    repo_id: str,
    *,
    upload: bool,
    private: bool,
    revision: str | None,
    more: Iterable[str],
    **card: Any,
) -> None:
    """`glccl publish`: prints the files of a checkpoint and its card, made if there is none; uploads them if told to.

    No code in the folder is run.
    """
    _check_target(repo_id, upload)
    folder = Path(checkpoint)
    has_card = (folder / "README.md").exists()
    files = collect(folder, None if has_card else "", more)
    if has_card:  # that of a checkpoint in this repository was made before it had a place on the Hub
        text = (folder / "README.md").read_text(encoding="utf-8").replace(f"owner/{folder.name}", repo_id)
    else:
        text = make_card(folder, repo_id, **card)
    files["README.md"] = text.encode()
    for name, content in files.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        print(f"{size:>13,}  {name}")
    left_out = [entry.name + "/" * entry.is_dir() for entry in sorted(folder.iterdir()) if entry.name not in files]
    if left_out:
        print(f"{'left out':>13}  {', '.join(left_out)}")
    print(f"\n{text}")
    if upload:
        _push_and_tell(files, repo_id, private=private, revision=revision)
    else:
        print(f"Nothing was uploaded. With --push this becomes one commit of {repo_id}.")


def publish_dataset(
    benchmark: str, folder: Path, card: Path | None, repo_id: str | None, public: bool, **options: Any
) -> None:
    """`glccl data export`: writes a benchmark into a new folder and, given a dataset repository, uploads it."""
    from .data.export import export_benchmark

    check_benchmark_name(benchmark)
    if repo_id:
        _check_target(repo_id, True)
    rows = export_benchmark(benchmark, folder, card or packaged("hub", "datasets", benchmark, "README.md"), **options)
    print(f"{folder}: {', '.join(f'{split} {count:,} rows' for split, count in rows.items())}")
    if repo_id:
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        _push_and_tell(files, repo_id, private=not public, repo_type="dataset", message=f"Upload {benchmark}")


def _check_target(repo_id: str, upload: bool) -> None:
    """Before anything is made that could then not be uploaded."""
    validate_repo_id(repo_id)
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} must be of the form owner/name")
    if upload and not get_token():
        raise OSError(NO_TOKEN)


def _push_and_tell(files: Mapping[str, Path | bytes], repo_id: str, **options: Any) -> None:
    commit, changed = push(files, repo_id, **options)
    print(commit.commit_url if changed else f"Nothing has changed since {commit.commit_url}")


def collect(
    checkpoint: str | Path, card: str | None = None, more: Iterable[str | Path] = ()
) -> dict[str, Path | bytes]:
    """The files of a checkpoint that make it load anywhere by its name alone: name on the Hub -> file or content.

    Code that the configuration names and the folder lacks, as in this repository, is that of this package. `card` is
    the content of README.md, by default the folder's own; `more` are further files, such as a handler.

    Raises:
        FileNotFoundError: no folder, or a file is missing without which the model would not load.
        ValueError: another model than GLCCL, or its code was not saved with it.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise FileNotFoundError(f"{checkpoint} is not a folder; publish takes a checkpoint that lies on this machine")
    model_type = check_checkpoint(folder)
    if model_type != GLCCLConfig.model_type:
        raise ValueError(
            f"{folder} is a model of the type {model_type!r}, and only GLCCL's are published: a plain CLIP works by "
            "its own name wherever a command takes a checkpoint, other heads do not load from the Hub alone"
        )
    files: dict[str, Path | bytes] = {
        path.name: path
        for path in folder.iterdir()
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in PUBLISHED)
    }
    if not any(name.endswith("_glccl.py") for name in files):
        files |= {code.name: code for code in Path(__file__).parent.glob("*_glccl.py")}
    if "modules.json" in files:  # sentence-transformers names classes by the package that they were imported from
        text = (folder / "modules.json").read_text(encoding="utf-8")
        files["modules.json"] = text.replace(f"{__package__}.", "").encode()
    for path in map(Path, more):
        path = path if path.is_file() else packaged(str(path))
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not a file")
        files[path.name] = path
    if card is not None:
        files["README.md"] = card.encode()

    needed = ["config.json", "processor_config.json", "tokenizer_config.json", "README.md", "model.safetensors"]
    if "model.safetensors.index.json" in files:
        if "model.safetensors" in files:
            raise ValueError(
                f"{folder} holds model.safetensors and model.safetensors.index.json, the same weights or older ones: "
                "delete one, or save the model into an empty folder"
            )
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        needed[-1:] = sorted(set(index["weight_map"].values()))
    if missing := [name for name in needed if name not in files]:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}: save model and processor into it first")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    classes = [*config.get("auto_map", {}).values(), *(p["impl"] for p in config.get("custom_pipelines", {}).values())]
    code = {f"{name.partition('.')[0]}.py" for name in classes}
    if "AutoModel" not in config.get("auto_map", {}) or not code <= files.keys():
        raise ValueError(
            f"{folder} was saved without its code and would load nowhere else. Save it again: "
            f"GLCCLModel.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    return dict(sorted(files.items()))


def push(
    files: Mapping[str, Path | bytes],
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    repo_type: str = "model",
    message: str = "Upload GLCCL model, processor, code and card",
) -> tuple[CommitInfo, bool]:
    """Uploads everything in one commit. Called again after an interruption, it uploads what is not there yet.

    `files` are as of [`collect`]; the repository `repo_id` ("owner/name") and branch `revision` are made if needed.
    Returns the commit, and whether it is a new one: with nothing changed it is the last one.

    Raises:
        ValueError: `repo_id` is not of the form owner/name, the Hub refuses the card, or the repository is public and
            `private` was asked for.
        OSError: no token or a wrong one, no permission, no connection, no space, a file that cannot be read.
    """
    _check_target(repo_id, upload=False)
    api = HfApi()
    try:
        api.whoami()
        api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
        # A repository that was there keeps its visibility, whatever create_repo was told.
        if private and not api.repo_info(repo_id, repo_type=repo_type).private:
            raise ValueError(f"{repo_id} is public already: make it private in its settings, or push it as public")
        if revision and revision != "main":
            api.create_branch(repo_id, repo_type=repo_type, branch=revision, exist_ok=True)
        before = api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha
        present = set(api.list_repo_files(repo_id, repo_type=repo_type, revision=revision)) - files.keys()
        stale = [name for name in present if any(fnmatch(name, pattern) for pattern in REPLACED)]
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        operations += [CommitOperationDelete(name) for name in stale]
        commit = api.create_commit(repo_id, operations, repo_type=repo_type, commit_message=message, revision=revision)
    except LocalTokenNotFoundError as error:
        raise OSError(NO_TOKEN) from error
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            raise OSError(f"{api.endpoint} refuses the token ({error}): make a new one that may write") from error
        if error.response.status_code == 403:
            raise PermissionError(f"the token may not write to {repo_id}: {error}") from error
        raise
    except HTTPError as error:
        raise OSError(f"{api.endpoint} cannot be reached: {error}. Run the same again: it goes on") from error
    except RuntimeError as error:  # how huggingface_hub reports an upload that failed
        raise OSError(f"{error} {error.__cause__}. Run the same again: it goes on from there") from error
    return commit, commit.oid != before
