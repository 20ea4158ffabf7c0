r"""Trained in one world of shapes, tested in it and in another: GLCCL, its peers and zero-shot GLCCL.

    python -m benchmarks.domains runs/domains

World 2 has other backgrounds, sizes, speeds and lengths (4.5 to 39 s), longer captions, and pairs of colour and shape
that world 1 never shows (docs/data.md). A small CLIP is trained on world 1's stills, or given. Each head is trained as
by recipes/shapes.yaml, except that the layers of CLIP's vision tower stay as they are: their output is computed once a
frame. Tested with 12 frames in both worlds; GLCCL, X-Pool and mean pooling also with more frames in world 2, for short
and long videos. The same command goes on where it was interrupted. Writes the runs, tables and figures.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm.auto import tqdm, trange
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_glccl import GLCCLModel, GLCCLProcessor
from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.data import load_benchmark
from modeling_glccl.data.group_sampler import GroupSampler
from modeling_glccl.evaluation.metrics import retrieval_metrics, retrieval_ranks
from modeling_glccl.evaluation.tables_and_plots import MODELS
from modeling_glccl.features_glccl import GLCCLVideoFeatures
from modeling_glccl.training import load_recipe
from modeling_glccl.training.build import build_model
from modeling_glccl.training.full_batch import FullBatchLoss
from modeling_glccl.training.optimization import build_optimizer, build_scheduler, training_step
from modeling_glccl.training.pretrain_clip import ClipRecipe, pretrain_clip

from .ablation.cost import ITEMS, WIDTH, WORDS, measure_cost
from .ablation.page import STYLE
from .table import RESULTS, hardware_slug, write_csv

HEADS = {
    "GLCCL": "glccl",
    "X-CLIP": "xclip",
    "X-Pool": "xpool",
    "GLSCL": "glscl",
    "CLIP4Clip seqTransf": "clip4clip_seqtransf",
    "CLIP4Clip meanP": "clip4clip_meanp",
}
ZERO_SHOT = "GLCCL, zero-shot"
LENGTH = ("GLCCL", "X-Pool", "CLIP4Clip meanP")
FRAMES, MORE_FRAMES = 12, (24, 48, 64)
# Seconds of the videos in world 2.
BINS = {"4 to 10 s": (0, 10), "10 to 20 s": (10, 20), "20 to 40 s": (20, 41)}
COST_VIDEOS = 20
# Half of a 95 % interval of the mean in standard errors: Student's t for so many seeds.
T95 = {1: np.nan, 2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}


class Split(NamedTuple):
    """Captions [V] and what the vision tower makes of V videos' frames, before its projection."""

    captions: list[str]
    groups: list[int]
    seconds: np.ndarray
    video: GLCCLVideoFeatures


def encode(folder: Path, clip: Path, name: str, world: int, frames: int, options: dict[str, Any]) -> Split:
    """A split of a world with so many frames a video, encoded at the first call and read afterwards."""
    data: Any = load_benchmark("shapes", data_dir=folder / "data", split=name, world=world, **options)
    path = folder / "features" / f"{name}-world{world}-{frames}.safetensors"
    if not path.exists():
        model, processor = load_checkpoint(clip)
        model.clip.set_submodule("visual_projection", nn.Identity())
        processor.video_processor.max_frames = frames
        parts = []
        with torch.inference_mode():
            for start in trange(0, len(data), 16, desc=path.stem):
                batch = processor(videos=data[start : start + 16]["video"])
                parts.append(model.get_video_features(**batch))
        path.parent.mkdir(exist_ok=True)
        GLCCLVideoFeatures.concatenate(parts).save(path)
    video, *_ = GLCCLVideoFeatures.load(path)
    seconds = np.array([events[-1]["end"] for events in data["events"]])
    return Split([*data["caption"]], [*data["twin_group"]], seconds, video)


def as_pixels(video: GLCCLVideoFeatures) -> Tensor:
    """Stored features in the shape of pixels, [V, Nf, 3, H, 1]."""
    return video.frames.unflatten(-1, (3, -1, 1))


def read_stored(model: Any) -> None:
    """Lets a model take [`as_pixels`] for pixels: of CLIP's vision tower only the projection is left to compute."""

    def get_image_features(pixels: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(pooler_output=model.clip.visual_projection(pixels.flatten(1)))

    model.clip.get_image_features = get_image_features
    model.clip.vision_model.requires_grad_(False)


def train_head(head: str, seed: int, clip: Path, train: Split, epochs: int) -> tuple[GLCCLModel, GLCCLProcessor]:
    """A head trained on stored features as recipes/shapes.yaml trains it."""
    csc_weight = 0.1 if head == "glccl" else 0
    changes = [f"model.head={head}", f"model.config.csc_weight={csc_weight}", f"train.epochs={epochs}"]
    recipe = load_recipe("recipes/shapes.yaml", [f"model.clip={clip}", f"seed={seed}", *changes])
    set_seed(seed)
    model, processor = build_model(recipe, [])
    read_stored(model)
    accelerator = Accelerator(cpu=True)
    size = min(recipe.train.pairs_per_process(1), len(train.captions))
    steps = epochs * (len(train.captions) // size)
    optimizer = build_optimizer(model, recipe.train)
    scheduler = build_scheduler(optimizer, recipe.train, steps)
    losses_of, optimizer = accelerator.prepare(FullBatchLoss(model).train(), optimizer)
    tokens = processor(text=train.captions)
    lengths, pixels, sampler = (
        tokens["attention_mask"].sum(dim=1),
        as_pixels(train.video),
        GroupSampler(train.groups, seed),
    )
    with tqdm(total=steps, desc=f"{head}, seed {seed}") as bar:
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            for rows in torch.tensor([*sampler]).split(size):
                if len(rows) == size:
                    inputs = {"input_ids": tokens["input_ids"][rows, : lengths[rows].max()]}
                    inputs["pixel_values_videos"] = pixels[rows]
                    where = f"step {bar.n + 1}"
                    training_step(
                        accelerator, losses_of, optimizer, scheduler, inputs, recipe.train.max_grad_norm, where
                    )
                    bar.update()
    return model.eval(), processor


@torch.inference_mode()
def test(model: GLCCLModel, processor: GLCCLProcessor, split: Split) -> dict[str, float]:
    """R@1 both ways, and that of the captions whose videos are of one of the `BINS`, among all videos."""
    text = model.get_text_features(**processor(text=split.captions))
    video = model.get_video_features(as_pixels(split.video), split.video.frame_mask)
    similarity, index = model.similarity(text, video).numpy(), np.arange(len(split.captions))
    found = {f"{way} R@1": metrics["R@1"] for way, metrics in retrieval_metrics(similarity, index).items()}
    first = retrieval_ranks(similarity, index)["t2v"] == 1
    inside = {name: (split.seconds >= low) & (split.seconds < high) for name, (low, high) in BINS.items()}
    return found | {name: 100 * float(first[rows].mean()) if rows.any() else np.nan for name, rows in inside.items()}


def train_clip(folder: Path, data_dir: Path, changes: Iterable[str]) -> Path:
    """Trains a small CLIP on world 1's stills, once; returns its folder."""
    if not (folder / "results.json").exists():
        changes = [f"output_dir={folder}", f"data_dir={data_dir}", "options.world=1", *changes]
        pretrain_clip(load_recipe("recipes/shapes_clip.yaml", changes, ClipRecipe))
    return folder


def run(folder: Path, clip: Path, seeds: Iterable[int], options: dict[str, Any], epochs: int) -> pd.DataFrame:
    """Trains and tests what is not done yet. A row for each model, seed, world and number of frames."""
    tested = {
        (world, frames): encode(folder, clip, "test", world, frames, options)
        for world, frames in [(1, FRAMES), *((2, count) for count in (FRAMES, *MORE_FRAMES))]
    }
    train = encode(folder, clip, "train", 1, FRAMES, options)
    rows = []
    for name, seed in [(ZERO_SHOT, 0), *((name, seed) for seed in seeds for name in HEADS)]:
        file = folder / "runs" / f"{name}-{seed}.json"
        if not file.exists():
            if name == ZERO_SHOT:
                model, processor = load_checkpoint(clip)
                read_stored(model)
            else:
                model, processor = train_head(HEADS[name], seed, clip, train, epochs)
            found = [
                {"model": name, "seed": seed, "world": world, "frames": frames, **test(model, processor, split)}
                for (world, frames), split in tested.items()
                if frames == FRAMES or name in LENGTH
            ]
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(found))
        rows += json.loads(file.read_text())
    return pd.DataFrame(rows)


def mean_and_interval(values: Any) -> tuple[float, float]:
    """The mean over seeds, and half of its 95 % interval; NaN of one seed."""
    return float(values.mean()), float(T95[len(values)] * values.std() / len(values) ** 0.5)


def summarize(runs: pd.DataFrame) -> list[dict]:
    """A row for each model: R@1 in world 1 and in world 2 both ways, and the share of it that is left in world 2."""
    rows = []
    for name, own in runs[runs["frames"] == FRAMES].groupby("model", sort=False):
        row: dict[str, Any] = {"model": name, "seeds": len({*own["seed"]})}
        worlds = own.set_index("seed").groupby("world")
        for way in ("t2v", "v2t"):
            one, two = (worlds.get_group(world)[f"{way} R@1"] for world in (1, 2))
            for label, values in {"world 1": one, "world 2": two, "drop": one - two}.items():
                row[f"{way} R@1 {label}"], row[f"{way} R@1 {label} ±"] = np.round(mean_and_interval(values), 2)
            row[f"{way} R@1 kept %"] = round(100 * two.mean() / one.mean(), 1)
        rows.append(row)
    return rows


def length_accuracy(runs: pd.DataFrame) -> list[dict]:
    """A row for each model, length and number of frames: text-to-video R@1 in world 2."""
    own = runs[(runs["world"] == 2) & runs["model"].isin(LENGTH)]
    rows = []
    for name in LENGTH:
        for frames, group in own.query("model == @name").groupby("frames"):
            for seconds in BINS:
                mean, half = np.round(mean_and_interval(group[seconds]), 2)
                rows.append({"model": name, "videos": seconds, "frames": frames, "t2v R@1": mean, "±": half})
    return rows


def length_cost() -> list[dict]:
    """A row for each model, number of words and of frames: processor time and multiply-adds of scoring a pair."""
    rows = []
    for name in LENGTH:
        for words in WORDS:
            for frames in (FRAMES, *MORE_FRAMES):
                cost, pairs = measure_cost(HEADS[name], ITEMS, COST_VIDEOS, words, frames, WIDTH), ITEMS * COST_VIDEOS
                row = {"model": name, "words": words, "frames": frames}
                row["CPU µs a pair"] = round(1e6 * cost["cpu_seconds"] / pairs, 3)
                rows.append(row | {"million MAC a pair": round(cost["macs"] / pairs / 1e6, 4)})
    return rows


def plot_accuracy(rows: list[dict]) -> Figure:
    """R@1 against frames, a panel for each length of videos; bars are 95 % intervals over seeds."""
    figure, table = Figure(figsize=(12, 3.8), layout="constrained"), pd.DataFrame(rows)
    for axes, (seconds, own) in zip(
        figure.subplots(1, len(BINS), sharey=True), table.groupby("videos", sort=False), strict=True
    ):
        for colour, (name, line) in zip(MODELS, own.groupby("model", sort=False), strict=False):
            axes.errorbar(line["frames"], line["t2v R@1"], line["±"], color=colour, marker="o", capsize=3, label=name)
        axes.set(title=f"videos of {seconds}", xlabel="frames per video", ylim=(0, None))
        axes.set_xticks(table["frames"].unique())
    figure.axes[0].set_ylabel("text-to-video R@1 (%)")
    figure.axes[0].legend(fontsize=9)
    return figure


def plot_cost(rows: list[dict]) -> Figure:
    """Scoring time and multiply-adds a pair against frames; dashed: texts of 32 words in place of 11."""
    figure, table = Figure(figsize=(9, 3.8), layout="constrained"), pd.DataFrame(rows)
    for axes, column in zip(figure.subplots(1, 2), ("CPU µs a pair", "million MAC a pair"), strict=True):
        for colour, (name, own) in zip(MODELS, table.groupby("model", sort=False), strict=False):
            for style, (words, line) in zip(("-", "--"), own.groupby("words"), strict=True):
                label = f"{name}, {words} words"
                axes.plot(line["frames"], line[column], style, color=colour, marker="o", label=label)
        axes.set(xlabel="frames per video", ylabel=column, yscale="log")
        axes.set_xticks(table["frames"].unique())
    figure.axes[1].legend(fontsize=8)
    return figure


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for data, features and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45])
    parser.add_argument("--num-train", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--clip", type=Path, help="folder of one (default: trained on world 1's stills)")
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options = {"num_train": arguments.num_train}
    changes = [f"options.num_train={arguments.num_train}"]
    clip = arguments.clip or train_clip(arguments.folder / "clip", arguments.folder / "data", changes)
    runs = run(arguments.folder, clip, arguments.seeds, options, arguments.epochs)
    accuracy, cost = length_accuracy(runs), length_cost()
    tables = {"domains_runs": runs.round(2).to_dict("records"), "domains": summarize(runs)}
    for name, rows in (tables | {"domains_length": accuracy, "domains_length_cost": cost}).items():
        write_csv(rows, name, arguments.output)
    with matplotlib.rc_context(STYLE):
        plot_accuracy(accuracy).savefig(arguments.images / "length_accuracy.png")
        plot_cost(cost).savefig(arguments.images / "length_cost.png")
    print(pd.DataFrame(tables["domains"]).to_string(index=False), hardware_slug(), sep="\n")


if __name__ == "__main__":
    main()
