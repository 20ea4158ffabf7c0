"""`glccl publish`: a checkpoint folder and its model card -> one commit of a Hub repository."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

# What model and processor write, and what a training run adds. Anything else in the folder stays where it is.
PUBLISHED = (
    "config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "*_glccl.py",
    "recipe.yaml",
    "results.json",
    "README.md",
)
# Of an earlier push, these would be loaded or mistaken for a part of this one.
REPLACED = ("model*.safetensors", "model.safetensors.index.json", "*_glccl.py", "data/*.parquet")


@dataclass
class Publication:
    """What a push will upload.

    Args:
        files: name in the repository -> a file or its content.
        left_out: what else lies in the checkpoint's folder.
    """

    files: dict[str, Path | bytes]
    left_out: list[str]

    @property
    def card(self) -> str:
        """The model card."""
        readme = self.files["README.md"]
        return readme.decode() if isinstance(readme, bytes) else readme.read_text(encoding="utf-8")

    def sizes(self) -> dict[str, int]:
        """Bytes of every file."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }


def collect(checkpoint: str | Path, card: str | None = None, more: Iterable[str | Path] = ()) -> Publication:
    """The files of a checkpoint that make it load anywhere by its name alone.

    Code that the configuration names and the folder lacks, as in this repository, is that of this package.

    Args:
        checkpoint: folder of model and processor, as `save_pretrained` writes them.
        card: content of README.md; by default the folder's own.
        more: further files for the top level of the repository, such as a handler or a feature file.

    Raises:
        FileNotFoundError: no folder, or a file is missing without which the model would not load.
        ValueError: the checkpoint's code was not saved with it.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise FileNotFoundError(f"{checkpoint} is not a folder; publish takes a checkpoint that lies on this machine")
    files: dict[str, Path | bytes] = {}
    left_out = []
    for entry in sorted(folder.iterdir()):
        if entry.is_file() and any(fnmatch(entry.name, pattern) for pattern in PUBLISHED):
            files[entry.name] = entry
        else:
            left_out.append(entry.name + "/" * entry.is_dir())
    if not any(name.endswith("_glccl.py") for name in files):
        files |= {code.name: code for code in Path(__file__).parent.glob("*_glccl.py")}
    for entry in map(Path, more):
        if not entry.is_file():
            raise FileNotFoundError(f"{entry} is not a file")
        files[entry.name] = entry
    if card is not None:
        files["README.md"] = card.encode()
    _check_complete(folder, files)
    return Publication(dict(sorted(files.items())), left_out)


def collect_dataset(folder: str | Path) -> Publication:
    """All files of a folder that [`modeling_glccl.data.export.export_benchmark`] wrote."""
    files = [file for file in sorted(Path(folder).rglob("*")) if file.is_file()]
    return Publication({file.relative_to(folder).as_posix(): file for file in files}, [])


def _check_complete(folder: Path, files: Mapping[str, Path | bytes]) -> None:
    needed = ["config.json", "processor_config.json", "tokenizer_config.json", "README.md"]
    if {"model.safetensors", "model.safetensors.index.json"} <= set(files):
        raise ValueError(
            f"{folder} holds model.safetensors and model.safetensors.index.json, the same weights or older ones: "
            "delete one, or save the model into an empty folder"
        )
    if "model.safetensors.index.json" in files:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        needed += sorted(set(index["weight_map"].values()))
    else:
        needed.append("model.safetensors")
    if missing := [name for name in needed if name not in files]:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}: save model and processor into it first")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    classes = [*config.get("auto_map", {}).values(), *(p["impl"] for p in config.get("custom_pipelines", {}).values())]
    code = {f"{name.partition('.')[0]}.py" for name in classes}
    if "AutoModel" not in config.get("auto_map", {}) or not code <= set(files):
        raise ValueError(
            f"{folder} was saved without its code and would load nowhere else. Save it again: "
            f"GLCCLModel.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )


def push(
    publication: Publication,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    repo_type: str = "model",
    message: str = "Upload GLCCL model, processor, code and card",
    api: HfApi | None = None,
) -> tuple[CommitInfo, bool]:
    """Uploads everything in one commit. Called again after an interruption, it uploads what is not there yet.

    Args:
        publication: see [`collect`].
        repo_id: "owner/name"; made if it does not exist.
        private: whether the repository is private; one that is public already is left alone.
        revision: branch to commit to, made from "main" if it does not exist.
        repo_type: "model" or "dataset".
        message: of the commit.
        api: the Hub and token to use; by default those of the environment.

    Returns:
        The commit, and whether it is a new one: with nothing changed it is the last one.

    Raises:
        ValueError: `repo_id` is not of the form owner/name, the Hub refuses the card, or the repository is public and
            `private` was asked for.
        OSError: no token or a wrong one, no permission, no connection, no space, a file that cannot be read.
    """
    validate_repo_id(repo_id)
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} must be of the form owner/name")
    api = api or HfApi()
    try:
        user = api.whoami()["name"]
    except LocalTokenNotFoundError as error:
        raise OSError("no token: run `hf auth login`, or set HF_TOKEN to a token that may write") from error
    except HfHubHTTPError as error:
        raise OSError(f"{api.endpoint} refuses the token ({error}): make a new one that may write") from error
    except HTTPError as error:
        raise OSError(f"{api.endpoint} cannot be reached: {error}") from error
    try:
        api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
        # A repository that was there keeps its visibility, whatever create_repo was told.
        if private and not api.repo_info(repo_id, repo_type=repo_type).private:
            raise ValueError(f"{repo_id} is public already: make it private in its settings, or push it as public")
        if revision and revision != "main":
            api.create_branch(repo_id, repo_type=repo_type, branch=revision, exist_ok=True)
        before = api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha
        present = api.list_repo_files(repo_id, repo_type=repo_type, revision=revision)
        stale = [
            name
            for name in present
            if name not in publication.files and any(fnmatch(name, pattern) for pattern in REPLACED)
        ]
        operations = [
            *(CommitOperationAdd(name, content) for name, content in publication.files.items()),
            *(CommitOperationDelete(name) for name in stale),
        ]
        commit = api.create_commit(repo_id, operations, repo_type=repo_type, commit_message=message, revision=revision)
    except HfHubHTTPError as error:
        if error.response.status_code == 403:
            raise PermissionError(f"{user}'s token may not write to {repo_id}: {error}") from error
        raise
    except HTTPError as error:
        raise OSError(f"{api.endpoint} was lost: {error}. Run the same again: it goes on from there") from error
    except RuntimeError as error:  # how huggingface_hub reports an upload that failed
        raise OSError(f"{error} {error.__cause__}. Run the same again: it goes on from there") from error
    return commit, commit.oid != before
