"""The model card of a checkpoint: its template, filled from results.json, with a usage example that was run."""

import io
import json
import tempfile
from collections.abc import Sequence
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined, UndefinedError
from transformers.utils import logging

from .configuration_glccl import GLCCLConfig
from .packaged import packaged
from .video_files import why_no_file

SNIPPET = """\
from transformers import pipeline

pipe = pipeline("text-video-retrieval", model={model}, trust_remote_code={trust})
query = {query}
videos = {videos}
for result in pipe(query, videos=videos, moments=True):
    print(f"{{result['id']}}: score {{result['score']:.2f}}, from {{result['start']:.1f}} to {{result['end']:.1f}} s")
"""
NOT_OURS = "it is no results.json of glccl train or glccl evaluate"
TITLES = {
    "shapes": "shapes (rendered videos of moving shapes; no people, no sound)",
    "msrvtt": "MSR-VTT",
    "didemo": "DiDeMo",
    "vatex": "VATEX",
    "msvd": "MSVD",
    "activitynet": "ActivityNet Captions",
    "lsmdc": "LSMDC",
}
DIRECTIONS = {"t2v": "text to video", "v2t": "video to text"}
TAGS = ("glccl", "text-to-video-retrieval", "video-text-retrieval", "video-search", "clip", "custom_code")


def make_card(
    checkpoint: str | Path,
    repo_id: str,
    *,
    results: str | Path | None = None,
    base_model: str | None = None,
    dataset: str | None = None,
    license: str = "apache-2.0",
    query: str | None = None,
    videos: Sequence[str | Path] = (),
) -> str:
    """Writes the card of a checkpoint, and runs the usage example that it shows, with the classes of this package.

    No code in the folder is run. By default `results` is the folder's results.json, if there is one, `base_model` and
    `dataset` are what the recipe names, and the example has a caption and two rendered clips of the shapes benchmark.

    Raises:
        ValueError: the example fails (the error has its message), results.json is not what those commands write, or
            metadata that huggingface_hub does not accept.
    """
    folder = Path(checkpoint)
    if bool(query) != bool(videos):
        raise ValueError("query and videos belong together: pass both, or neither for rendered clips")
    source = Path(results or folder / "results.json")
    found = _read(source) if results or source.exists() else {}
    recipe = found.get("recipe", {})
    try:
        test = _test(found, dataset)
    except KeyError as error:
        raise ValueError(f"{source} lacks {error}: {NOT_OURS}") from error
    name = repo_id.split("/")[-1]
    datasets = [dataset or recipe.get("data", {}).get("repo_id"), test and test["dataset"]]
    data = ModelCardData(
        language="en",
        license=license,
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=[*TAGS, "sentence-transformers"],
        base_model=base_model or _base_model(recipe),
        datasets=sorted({name for name in datasets if name and "/" in name}) or None,
        metrics=["recall"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="feature-extraction",
                task_name=f"{DIRECTIONS[direction]} retrieval",
                dataset_type=test["dataset"] or test["benchmark"],
                dataset_name=test["benchmark"],
                dataset_split=test["split"],
                metric_type=f"{direction}_{metric}",
                metric_name=f"{DIRECTIONS[direction]} {metric}",
                metric_value=round(value, 2),
            )
            for direction, values in test["models"][0]["test"].items()  # not of what was chosen by the test set
            for metric, value in values.items()
        ]
        if test
        else None,
    )
    snippet, output = _example(folder, repo_id, query, videos)
    weights = sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
    # A value that results.json lacks is an error, not an empty place.
    template = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    try:
        text = template.from_string(packaged("model_card.md").read_text(encoding="utf-8")).render(
            card_data=data.to_yaml(),
            model_name=name,
            repo_id=repo_id,
            config=GLCCLConfig.from_pretrained(folder),
            megabytes=weights / 1e6,
            snippet=snippet,
            rendered=not videos,
            snippet_output=output,
            found=found,
            recipe=recipe,
            test=test,
            base_model=_base_model(recipe),
            titles=TITLES,
            directions=DIRECTIONS,
        )
    except UndefinedError as error:
        raise ValueError(f"{source}: {error}; {NOT_OURS}") from error
    return str(ModelCard(text))


def _read(source: Path) -> dict[str, Any]:
    """Of a results.json; not with `data.files`, as a card needs no `datasets`."""
    try:
        if reason := source.exists() and why_no_file(source):
            raise ValueError(reason)
        found = json.loads(source.read_text(encoding="utf-8-sig"))
        if not isinstance(found, dict):
            raise ValueError(f"it is {str(found)[:40]!r}")
        return found
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: {error}; {NOT_OURS}") from error


def _test(found: dict[str, Any], dataset: str | None) -> dict[str, Any] | None:
    """What results.json says of the test; of `models`, the first was not chosen by it."""
    if "metrics" in found:  # of `glccl evaluate`
        dataset = dataset or found.get("settings", {}).get("benchmark_options", {}).get("repo_id")
        about = {"benchmark": found["benchmark"], "split": found["split"], "size": found}
        return about | {"dataset": dataset, "models": [{"test": found["metrics"]}]}
    data = found["recipe"]["data"] if found else {}
    models = [part for part in (found, found.get("best_on_test", {})) if "test" in part]
    if not models:
        return None
    about = {"benchmark": data["benchmark"], "split": data["test_split"], "size": found["test_size"]}
    return about | {"dataset": dataset or data["repo_id"], "models": models}


def _base_model(recipe: dict[str, Any]) -> str | None:
    """What training started from, if that is a repository of the Hub rather than a folder."""
    start = recipe.get("model", {})
    name = start.get("clip") or start.get("checkpoint") or ""
    is_folder = name.count("/") != 1 or name.startswith((".", "/")) or Path(name).exists()
    return None if is_folder else name


def _example(folder: Path, repo_id: str, query: str | None, videos: Sequence[str | Path]) -> tuple[str, str]:
    """The example as the reader sees it, and what it printed here."""
    logging.disable_progress_bar()  # of the weights
    folder, printed = folder.absolute(), io.StringIO()
    paths = [Path(video).absolute() for video in videos]
    with tempfile.TemporaryDirectory() as place, chdir(place), redirect_stdout(printed):
        for path in paths:
            Path(path.name).symlink_to(path)
        query = query or _render_clips()
        names = [path.name for path in paths] or ["first.mp4", "second.mp4"]
        # JSON writes strings and lists as Python does, with double quotes.
        values = {name: json.dumps(value, ensure_ascii=False) for name, value in (("query", query), ("videos", names))}
        try:  # without trust: the folder may hold anybody's code
            exec(SNIPPET.format(model=repr(str(folder)), trust=False, **values), {})
        except Exception as error:
            raise ValueError(f"the example of the model card fails with {folder}: {error}") from error
    return SNIPPET.format(model=json.dumps(repo_id), trust=True, **values), printed.getvalue()


def _render_clips() -> str:
    """Writes first.mp4 and second.mp4; returns the caption of the first."""
    from .data.shapes import sample_clips
    from .data.shapes.render import encode_video, render_frames

    first, *others = sample_clips("test", 16)
    second = next(clip for clip in others if clip.twin_group != first.twin_group)
    for name, clip in (("first.mp4", first), ("second.mp4", second)):
        frames = render_frames(np.random.default_rng(0), clip.scene, clip.events, 96)
        Path(name).write_bytes(encode_video(frames))
    return first.caption
