"""The model card of a checkpoint: its template, filled from results.json, with a usage example that was run."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .configuration_glccl import GLCCLConfig

TEMPLATE = Path(__file__).with_name("model_card.md")

SNIPPET = """\
from transformers import pipeline

pipe = pipeline("text-video-retrieval", model={model}, trust_remote_code=True)
query = {query}
videos = {videos}
for result in pipe(query, videos=videos, moments=True):
    print(f"{{result['id']}}: score {{result['score']:.2f}}, from {{result['start']:.1f}} to {{result['end']:.1f}} s")
"""
SHAPES_NOTE = (
    "Run when this card was made, on two rendered clips of the shapes benchmark; the query describes `first.mp4`:"
)
OWN_NOTE = "Run when this card was made:"
TITLES = {
    "shapes": "shapes (rendered videos of moving shapes; no people, no sound)",
    "msrvtt": "MSR-VTT",
    "didemo": "DiDeMo",
    "vatex": "VATEX",
    "msvd": "MSVD",
    "activitynet": "ActivityNet Captions",
    "lsmdc": "LSMDC",
}
METRICS = ("R@1", "R@5", "R@10", "MdR", "MnR")
DIRECTIONS = {"t2v": "text to video", "v2t": "video to text"}
# Of a launcher, which a process of its own must not take for its own.
_LAUNCHER = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK"}


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
    """Writes the card of a checkpoint, and runs the usage example that it shows.

    Args:
        checkpoint: folder of model and processor.
        repo_id: "owner/name", under which the card's readers find it.
        results: results.json of `glccl train` or `glccl evaluate`; by default the one in the folder, if there is one.
        base_model: CLIP on the Hub that training started from; by default what the recipe names, if that is a Hub id.
        dataset: benchmark on the Hub that it was trained and measured on; by default what the recipe names.
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
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    source = Path(results) if results else folder / "results.json"
    found = json.loads(source.read_text(encoding="utf-8")) if results or source.exists() else {}
    recipe = found.get("recipe", {})
    measured = [row | {"dataset": dataset or row["dataset"]} for row in _measured(found, source)]
    name = repo_id.split("/")[-1]
    datasets = [dataset] if dataset else [row["dataset"] for row in measured] + [recipe.get("data", {}).get("repo_id")]
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
        eval_results=_eval_results(measured) or None,
    )
    snippet, output, note = _example(folder, repo_id, query, videos)
    return str(
        ModelCard.from_template(
            data,
            template_path=str(TEMPLATE),
            model_name=name,
            facts=_facts(folder, config),
            snippet=snippet,
            snippet_note=note,
            snippet_output=output,
            training=_training(recipe, found),
            results=_results(measured, found),
            max_words=config["max_words"],
            max_frames=config["max_frames"],
        )
    )


def _measured(found: dict[str, Any], source: Path) -> list[dict[str, Any]]:
    """One row per measurement: benchmark, dataset, split, size, metrics, and what chose the model."""
    if not found:
        return []
    try:
        if "metrics" in found:  # of `glccl evaluate`
            options = found.get("settings", {}).get("benchmark_options", {})
            row = {"benchmark": found["benchmark"], "dataset": options.get("repo_id"), "split": found["split"]}
            return [row | {"size": found, "metrics": found["metrics"], "chosen": None}]
        data = found["recipe"]["data"]
        row = {"benchmark": data["benchmark"], "dataset": data["repo_id"], "split": data["test_split"]}
        return [
            row | {"size": found["test_size"], "metrics": part["test"], "chosen": part.get("selected_by")}
            for part in (found, found.get("best_on_test", {}))
            if "test" in part
        ]
    except KeyError as error:
        raise ValueError(f"{source} lacks {error}: it is no results.json of glccl train or glccl evaluate") from error


def _base_model(recipe: dict[str, Any]) -> str | None:
    """What training started from, if that is a repository of the Hub rather than a folder."""
    start = recipe.get("model", {})
    name = start.get("clip") or start.get("checkpoint")
    return (
        name if name and name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).exists() else None
    )


def _eval_results(measured: list[dict[str, Any]]) -> list[EvalResult]:
    """For the metadata: only results of models that were not chosen by the test set."""
    if not measured:
        return []
    row = measured[0]
    return [
        EvalResult(
            task_type="feature-extraction",
            task_name=f"{DIRECTIONS[direction]} retrieval",
            dataset_type=row["dataset"] or row["benchmark"],
            dataset_name=row["benchmark"],
            dataset_split=row["split"],
            metric_type=f"{direction}_{metric}",
            metric_name=f"{DIRECTIONS[direction]} {metric}",
            metric_value=round(values[metric], 2),
        )
        for direction, values in row["metrics"].items()
        for metric in METRICS
    ]


def _facts(folder: Path, config: dict[str, Any]) -> str:
    weights = sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
    clip = config["clip_config"]
    image = clip["vision_config"]["image_size"]
    width = GLCCLConfig(clip_config=clip, max_words=3, temporal_num_hidden_layers=0).width
    padding = (
        "a score never depends on padding (`mask_padding=True`)"
        if config["mask_padding"]
        else "padding takes part in the scores, as in the authors' release (`mask_padding=False`)"
    )
    return (
        f"Frames of {image} x {image} pixels, joint width {width}, at most {config['max_words']} words and by default "
        f"{config['max_frames']} frames; {padding}. {weights / 1e6:,.1f} MB of weights in {config['dtype']}."
    )


def _training(recipe: dict[str, Any], found: dict[str, Any]) -> str:
    if not recipe:
        return "No recipe was recorded with these weights."
    data, train, start, hardware = recipe["data"], recipe["train"], recipe["model"], found["hardware"]
    begin = _base_model(recipe) or start["checkpoint"] or start["clip"]
    if begin is None:
        begin = "random weights"
    elif begin == _base_model(recipe):
        begin = f"`{begin}`"
    else:  # where a folder lay means nothing to the reader
        begin = f"a checkpoint of its own (`{Path(begin).name}`)"
    machine = ", ".join(hardware["gpus"]) or f"{hardware['cpu_cores']} cores of {hardware['cpu']}"
    title = TITLES.get(data["benchmark"], data["benchmark"])
    lines = [
        f"Trained on {title}, split `{data['train_split']}`, from {begin}: {train['epochs']} epochs, "
        f"batches of {train['batch_size']} pairs, learning rate {train['learning_rate']:g} "
        f"({train['clip_learning_rate_factor']:g} of it for CLIP), {found['precision']}, seed {found['seed']}.",
        f"{found['seconds']['training'] / 60:.1f} minutes on {machine}, {found['processes']} "
        f"process{'es' * (found['processes'] > 1)}. "
        "recipe.yaml has every value, results.json what came out; `train.py recipe.yaml` trains it again.",
    ]
    return "\n\n".join(lines)


def _results(measured: list[dict[str, Any]], found: dict[str, Any]) -> str:
    if not measured:
        return "No results were recorded with these weights. Evaluate them before use: `glccl evaluate`."
    rows = [f"| | {' | '.join(METRICS)} |", f"|---|{'---|' * len(METRICS)}"]
    notes = []
    for row in measured:
        size = f"{row['size']['captions']:,} captions, {row['size']['videos']:,} videos"
        for direction, values in row["metrics"].items():
            label = DIRECTIONS[direction] + (", chosen on the test set" if row is not measured[0] else "")
            rows.append(f"| {label} | {' | '.join(f'{values[metric]:.1f}' for metric in METRICS)} |")
        if row["chosen"]:
            notes.append(f"Of all epochs the weights were chosen by {row['chosen']}.")
    title = TITLES.get(measured[0]["benchmark"], measured[0]["benchmark"])
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return "\n\n".join(
        [
            f"Measured on {title}, split `{measured[0]['split']}` ({size}): recall in percent, median and mean rank.",
            "\n".join(rows),
            " ".join(
                [
                    *dict.fromkeys(notes),
                    "Every query counts once; ties get the worst rank; a video's best-ranked caption counts for it.",
                    f"No post-processing. {versions}; commit {found['git'] or 'not known'}.",
                ]
            ),
        ]
    )


def _example(folder: Path, repo_id: str, query: str | None, videos: Sequence[str | Path]) -> tuple[str, str, str]:
    """The example as the reader sees it, what it printed here, and what it was run on."""
    with tempfile.TemporaryDirectory() as place:
        if query is None:
            query, names = _render_clips(Path(place)), ["first.mp4", "second.mp4"]
        else:
            for video in map(Path, videos):
                (Path(place) / video.name).symlink_to(video.absolute())
            names = [Path(video).name for video in videos]
        code = _snippet(str(folder.absolute()), query, names)
        environment = {name: value for name, value in os.environ.items() if name not in _LAUNCHER}
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=place,
            env=environment | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if run.returncode:
        raise ValueError(f"the example of the model card fails with {folder}: {run.stderr.strip()[-2000:]}")
    note = OWN_NOTE if videos else SHAPES_NOTE
    return _snippet(repo_id, query, names), run.stdout, note


def _snippet(model: str, query: str, videos: list[str]) -> str:
    # JSON writes strings and lists as Python does, with double quotes.
    values = {"model": model, "query": query, "videos": videos}
    return SNIPPET.format(**{name: json.dumps(value, ensure_ascii=False) for name, value in values.items()})


def _render_clips(folder: Path) -> str:
    """Writes first.mp4 and second.mp4; returns the caption of the first."""
    import numpy as np

    from .data.shapes import sample_clips
    from .data.shapes.render import encode_video, render_frames

    first, *others = sample_clips("test", 16)
    second = next(clip for clip in others if clip.twin_group != first.twin_group)
    for name, clip in (("first.mp4", first), ("second.mp4", second)):
        frames = render_frames(np.random.default_rng(0), clip.scene, clip.events, 96)
        (folder / name).write_bytes(encode_video(frames))
    return first.caption
