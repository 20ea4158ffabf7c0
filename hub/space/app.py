"""The Space: modeling_glccl's web page over a folder of videos; see README.md for its variables."""

import os
from pathlib import Path
from typing import Any

try:
    from modeling_glccl.app import build_app, launch, open_searcher
    from modeling_glccl.serving import Access
except ImportError as error:
    raise SystemExit(f"{error}") from None

HERE = Path(__file__).parent


def checkpoint() -> str:
    """The model to use."""
    folders = (HERE / "checkpoint", HERE.parent / "models" / "glccl-shapes")
    return os.environ.get("GLCCL_CHECKPOINT") or str(next((folder for folder in folders if folder.is_dir()), ""))


def videos_and_examples() -> tuple[Path, list[str]]:
    """The folder to search, and queries to offer."""
    folder = Path(os.environ.get("GLCCL_VIDEOS") or HERE / "videos")
    if not folder.is_dir():
        return rendered_shapes()
    listed = Path(os.environ.get("GLCCL_EXAMPLES") or folder / "examples.txt")
    return folder, listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []


def rendered_shapes(count: int = 24) -> tuple[Path, list[str]]:
    """Clips of the shapes benchmark, rendered now, and for every group of twins the shortest of their captions."""
    from modeling_glccl.data import load_benchmark

    sizes: dict[str, Any] = {"num_train": 0, "num_validation": 0, "num_test": count, "image_size": 96}
    rows: Any = load_benchmark("shapes", data_dir=Path("runs/space"), **sizes)
    captions = {}
    for group, caption in zip(rows["twin_group"], rows["caption"], strict=True):
        captions[group] = min(captions.get(group, caption), caption, key=len)
    return Path(rows[0]["video"]["path"]).parent, list(captions.values())


def build():
    """The page of this Space."""
    model = checkpoint()
    if not model:
        raise SystemExit("no model: set GLCCL_CHECKPOINT to a Hub repository or a folder")
    videos, examples = videos_and_examples()
    return build_app(*open_searcher(checkpoint=model, videos=videos), examples=examples)


demo = build()

if __name__ == "__main__":
    # In a Space everybody may come in, under the names that its proxy gives it.
    host, names = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), ["*"] if "SPACE_ID" in os.environ else []
    launch(demo, Access(host, names, os.environ.get("GLCCL_TOKEN"), os.environ.get("GLCCL_USER"), bool(names)))
