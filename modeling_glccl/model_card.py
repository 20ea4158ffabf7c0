"""The model card of a checkpoint: its template, filled from results.json, with a usage example that was run."""

import io
import json
import tempfile
from collections.abc import Sequence
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.utils import logging

from .configuration_glccl import GLCCLConfig
from .packaged import packaged

SNIPPET = """\
from transformers import pipeline

pipe = pipeline("text-video-retrieval", model={model}, trust_remote_code={trust})
query = {query}
videos = {videos}
for result in pipe(query, videos=videos, moments=True):
    print(f"{{result['id']}}: score {{result['score']:.2f}}, from {{result['start']:.1f}} to {{result['end']:.1f}} s")
"""
SHAPES_NOTE = (
    "Run when this card was made, on two rendered clips of the shapes benchmark; the query describes `first.mp4`:"
)
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


class Test(NamedTuple):
    """What results.json says of the test; of `models`, the first was not chosen by it."""

    benchmark: str
    dataset: str | None
    split: str
    size: dict[str, int]
    models: list[dict[str, Any]]


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

    Args:
        checkpoint: folder of model and processor. No code in it is run.
        repo_id: "owner/name", under which the card's readers find it.
        results: results.json of `glccl train` or `glccl evaluate`; by default the folder's, if there is one.
        base_model, dataset: on the Hub, what training started from, and what it was trained and measured on; by
            default what the recipe names.
        license: of the weights, as an identifier of the Hub.
        query, videos: for the example; by default a caption and two rendered clips of the shapes benchmark.

    Returns:
        README.md, metadata included.

    Raises:
        ValueError: the example fails (the error has its message), results.json is not what those commands write, or
            metadata that huggingface_hub does not accept.
    """
    folder = Path(checkpoint)
    if bool(query) != bool(videos):
        raise ValueError("query and videos belong together: pass both, or neither for rendered clips")
    source = Path(results or folder / "results.json")
    found = json.loads(source.read_text(encoding="utf-8")) if results or source.exists() else {}
    recipe = found.get("recipe", {})
    try:
        test = _test(found, dataset)
        texts = {"training": _training(found, recipe), "results": _results(found, test)}
    except KeyError as error:
        raise ValueError(f"{source} lacks {error}: it is no results.json of glccl train or glccl evaluate") from error
    name = repo_id.split("/")[-1]
    datasets = [dataset or recipe.get("data", {}).get("repo_id"), test and test.dataset]
    data = ModelCardData(
        language="en",
        license=license,
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=["glccl", "text-to-video-retrieval", "video-text-retrieval", "video-search", "clip", "custom_code"],
        base_model=base_model or _base_model(recipe),
        datasets=sorted({name for name in datasets if name and "/" in name}) or None,
        metrics=["recall"],
        model_name=name,
        eval_results=_eval_results(test) if test else None,
    )
    config = GLCCLConfig.from_pretrained(folder)
    snippet, output = _example(folder, repo_id, query, videos)
    return str(
        ModelCard.from_template(
            data,
            template_path=str(packaged("model_card.md")),
            model_name=name,
            facts=_facts(folder, config),
            snippet=snippet,
            snippet_note="Run when this card was made:" if videos else SHAPES_NOTE,
            snippet_output=output,
            max_words=config.max_words,
            max_frames=config.max_frames,
            **texts,
        )
    )


def _test(found: dict[str, Any], dataset: str | None) -> Test | None:
    if "metrics" in found:  # of `glccl evaluate`
        dataset = dataset or found.get("settings", {}).get("benchmark_options", {}).get("repo_id")
        return Test(found["benchmark"], dataset, found["split"], found, [{"test": found["metrics"]}])
    if not found:
        return None
    data = found["recipe"]["data"]
    models = [part for part in (found, found.get("best_on_test", {})) if "test" in part]
    if not models:
        return None
    return Test(data["benchmark"], dataset or data["repo_id"], data["test_split"], found["test_size"], models)


def _base_model(recipe: dict[str, Any]) -> str | None:
    """What training started from, if that is a repository of the Hub rather than a folder."""
    start = recipe.get("model", {})
    name = start.get("clip") or start.get("checkpoint") or ""
    is_folder = name.count("/") != 1 or name.startswith((".", "/")) or Path(name).exists()
    return None if is_folder else name


def _eval_results(test: Test) -> list[EvalResult]:
    """For the metadata: only results of the model that was not chosen by the test set."""
    return [
        EvalResult(
            task_type="feature-extraction",
            task_name=f"{DIRECTIONS[direction]} retrieval",
            dataset_type=test.dataset or test.benchmark,
            dataset_name=test.benchmark,
            dataset_split=test.split,
            metric_type=f"{direction}_{metric}",
            metric_name=f"{DIRECTIONS[direction]} {metric}",
            metric_value=round(value, 2),
        )
        for direction, values in test.models[0]["test"].items()
        for metric, value in values.items()
    ]


def _facts(folder: Path, config: GLCCLConfig) -> str:
    weights = sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
    values = config.to_dict()
    image = values["clip_config"]["vision_config"]["image_size"]
    padding = "a score never depends on padding (`mask_padding=True`)"
    if not config.mask_padding:
        padding = "padding takes part in the scores, as in the authors' release (`mask_padding=False`)"
    return (
        f"Frames of {image} x {image} pixels, joint width {config.width}, at most {config.max_words} words and by "
        f"default {config.max_frames} frames; {padding}. {weights / 1e6:,.1f} MB of weights in {values['dtype']}."
    )


def _training(found: dict[str, Any], recipe: dict[str, Any]) -> str:
    if not recipe:
        return "No recipe was recorded with these weights."
    data, train, start, hardware = recipe["data"], recipe["train"], recipe["model"], found["hardware"]
    begin = start["clip"] or start["checkpoint"]
    if begin is None:
        begin = "random weights"
    elif begin == _base_model(recipe):
        begin = f"`{begin}`"
    else:  # where a folder lay means nothing to the reader
        begin = f"a checkpoint of its own (`{Path(begin).name}`)"
    machine = ", ".join(hardware["gpus"]) or f"{hardware['cpu_cores']} cores of {hardware['cpu']}"
    return (
        f"Trained on {TITLES.get(data['benchmark'], data['benchmark'])}, split `{data['train_split']}`, from {begin}: "
        f"{train['epochs']} epochs, batches of {train['batch_size']} pairs, learning rate {train['learning_rate']:g} "
        f"({train['clip_learning_rate_factor']:g} of it for CLIP), {found['precision']}, seed {found['seed']}.\n\n"
        f"{found['seconds']['training'] / 60:.1f} minutes on {machine}, {found['processes']} "
        f"process{'es' * (found['processes'] > 1)}. "
        "recipe.yaml has every value, results.json what came out; `train.py recipe.yaml` trains it again."
    )


def _results(found: dict[str, Any], test: Test | None) -> str:
    if test is None:
        return "No results were recorded with these weights. Evaluate them before use: `glccl evaluate`."
    rows, notes = [], []
    for model in test.models:
        chosen = ", chosen on the test set" if model is not test.models[0] else ""
        for direction, values in model["test"].items():
            rows.append([DIRECTIONS[direction] + chosen, *(f"{value:.1f}" for value in values.values())])
        if model.get("selected_by"):
            notes.append(f"Of all epochs the weights were chosen by {model['selected_by']}. ")
    metrics = test.models[0]["test"]["t2v"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return "\n".join(
        [
            f"Measured on {TITLES.get(test.benchmark, test.benchmark)}, split `{test.split}` "
            f"({test.size['captions']:,} captions, {test.size['videos']:,} videos): "
            "recall in percent, median and mean rank.\n",
            f"| | {' | '.join(metrics)} |",
            f"|---|{'---|' * len(metrics)}",
            *(f"| {' | '.join(row)} |" for row in rows),
            f"\n{''.join(dict.fromkeys(notes))}Every query counts once; ties get the worst rank; a video's "
            "best-ranked caption counts for it. No post-processing. "
            f"{versions}; commit {found['git'] or 'not known'}.",
        ]
    )


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
