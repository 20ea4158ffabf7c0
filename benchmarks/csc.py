"""Does the CSC loss help where it should: on a frozen CLIP, over seeds, and beside variants of it? If not, why not?

    python benchmarks/csc.py runs/shapes/clip runs/shapes/data runs/csc --seeds 0 1 2 3 --eta 0 0.1 0.5
    python benchmarks/csc.py runs/shapes/clip runs/shapes/data runs/csc --seeds 0 1 2 3 --eta 0.5 --variants hard
    python benchmarks/csc.py runs/shapes/clip runs/shapes/data runs/csc --seeds 0 --eta 0 --steps 0
    python benchmarks/csc.py runs/shapes/clip runs/shapes/data runs/csc --report-only

CLIP encodes all frames and captions of the shapes benchmark once; what is trained is the rest of GLCCL, with its own
scorer, losses and the paper's optimiser. A seed is an order of the training pairs. What is trained is not trained
again, so commands may follow each other, or run side by side. Prints tables of all runs in the folder and writes
benchmarks/results/csc_*_<hardware>.csv and docs/images/csc.png.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import errors

import numpy as np
import pandas as pd
import torch
from ablation.analysis import twin_accuracy
from accelerate.utils import set_seed
from confidence import calibration_error
from matplotlib.figure import Figure
from table import RESULTS, show, write_csv

from modeling_glccl import scoring_glccl
from modeling_glccl.configuration_glccl import CSC_VARIANTS, SCORE_NAMES
from modeling_glccl.data.collate import RetrievalCollator
from modeling_glccl.data.group_sampler import GroupSampler
from modeling_glccl.evaluation import retrieval_metrics
from modeling_glccl.evaluation.tables_and_plots import MODELS
from modeling_glccl.features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from modeling_glccl.loss_glccl import contrastive_loss, csc_loss
from modeling_glccl.training.build import build_model, load_splits
from modeling_glccl.training.optimization import build_optimizer, build_scheduler, clamp_logit_scale
from modeling_glccl.training.recipe import Recipe, load_recipe

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "images" / "csc.png"
KEYS = ["batches", "variant", "eta"]
# Of Student's distribution with n - 1 degrees of freedom, for 95% intervals of n seeds.
QUANTILES = dict(zip(range(2, 13), (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20), strict=True))
DECILES = [f"variance in decile {d}" for d in range(1, 11)]


class Pairs(NamedTuple):
    """A split as CLIP sees it: texts, frames before the temporal encoder, and the twin group of each pair."""

    text: GLCCLTextFeatures
    video: GLCCLVideoFeatures
    groups: torch.Tensor


def encode(recipe: Recipe, split: str, folder: Path) -> Pairs:
    """The pairs of a split, encoded once and kept in `folder`."""
    texts, videos = (folder / f"{split}_{name}.safetensors" for name in ("texts", "videos"))
    if not videos.exists():
        dataset: Any = load_splits(recipe)[split]
        model, processor = build_model(recipe, [])
        model.temporal = None
        collate, parts = RetrievalCollator(processor), []
        with torch.inference_mode():
            for start in range(0, len(dataset), 64):
                rows = range(start, min(start + 64, len(dataset)))
                inputs = collate([dataset[row] for row in rows])["inputs"]
                text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
                video = model.get_video_features(inputs["pixel_values_videos"], inputs["padding_mask_videos"])
                parts.append((text, video))
        text, video = (type(side[0]).concatenate(side) for side in zip(*parts, strict=True))
        text.save(texts, groups=torch.tensor(dataset["twin_group"]))
        video.save(videos)
    text, other, _ = GLCCLTextFeatures.load(texts)
    return Pairs(text, GLCCLVideoFeatures.load(videos)[0], other["groups"])


def score(model: Any, pairs: Pairs, rows: Sequence[int] | torch.Tensor) -> Any:
    """The four scores of these texts with these videos."""
    video = pairs.video.select(rows)
    frames = model.temporal(video.frames, video.frame_mask).last_hidden_state
    return model.get_scores(pairs.text.select(rows), model._video_features(frames, frames, video.frame_mask))


def batches(pairs: Pairs, recipe: Recipe, kind: str, steps: int) -> Iterator[torch.Tensor]:
    """Rows of each step: "random" pairs, or with the "twins" of each video."""
    size, epoch = recipe.train.pairs_per_process(1), 0
    sampler = GroupSampler(pairs.groups.tolist() if kind == "twins" else range(len(pairs.groups)), recipe.seed)
    while steps:
        sampler.set_epoch(1000 * recipe.seed + epoch)  # orders of two seeds share no epoch
        full = [rows for rows in torch.tensor([*sampler]).split(size) if len(rows) == size][:steps]
        yield from full
        steps, epoch = steps - len(full), epoch + 1


def train(recipe: Recipe, pairs: Pairs, kind: str, steps: int) -> tuple[Any, float]:
    """The model on these pairs, CLIP frozen, and its mean contrastive loss over the last tenth of the steps."""
    set_seed(recipe.seed)
    model, _ = build_model(recipe, [])
    model.train().clip.requires_grad_(False)
    model.clip.logit_scale.requires_grad_(True)
    optimizer = build_optimizer(model, recipe.train)
    scheduler = build_scheduler(optimizer, recipe.train, max(steps, 1))
    config, losses = model.config, []
    for rows in batches(pairs, recipe, kind, steps):
        scores = score(model, pairs, rows)
        loss = contrastive_loss(scores.logits)
        losses.append(loss.item())
        if config.csc_weight:
            loss = loss + config.csc_weight * csc_loss(model.csc_inputs(scores), config.csc_variant)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.train.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        clamp_logit_scale(model)
    return model.eval(), float(np.mean(losses[-max(1, steps // 10) :])) if losses else float("nan")


def gradients(model: Any, pairs: Pairs, rows: torch.Tensor) -> dict[str, float]:
    """Norms of what the losses ask of the weights of a batch, and cosines of CSC's two parts with the contrastive.

    The gradient of CSC is the sum of that of its numerator, which "detached" leaves alone, and its denominator.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def flat(loss: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([one.flatten() for one in found])

    scores = score(model, pairs, rows)
    four = model.csc_inputs(scores)
    contrastive, whole, agree = (
        flat(loss) for loss in (contrastive_loss(scores.logits), csc_loss(four), csc_loss(four, "detached"))
    )
    parts = {"CSC": whole, "matching pairs": agree, "other pairs": whole - agree}
    found = {"gradient, contrastive": contrastive.norm().item()}
    for name, part in parts.items():
        found[f"gradient, {name}"] = part.norm().item()
        found[f"cosine, {name}"] = torch.cosine_similarity(part, contrastive, dim=0).item()
    return found


def analyse(four: np.ndarray, scale: float, groups: np.ndarray) -> dict[str, float]:
    """What is asked of a trained model, from the four scores [4, N, N] of N test captions and videos."""
    own, logits = np.arange(four.shape[1]), four.mean(axis=0)
    metrics = retrieval_metrics(logits, own)
    values = {f"{way} {name}": metrics[way][name] for way in metrics for name in ("R@1", "R@5", "MnR")}
    values |= {f"twin in {kind}": share for kind, share in twin_accuracy(logits, own, groups).items()}
    for name, one in zip(SCORE_NAMES, four, strict=True):
        values[f"{name} alone"] = retrieval_metrics(one, own)["t2v"]["R@1"]
    variance, other = (four / scale).var(axis=0, ddof=1), ~np.eye(len(own), dtype=bool)
    rivals = np.where(other, logits, -np.inf).argmax(axis=1)
    values["variance ratio"] = variance[own, own].mean() / variance[other].mean()
    values["variance ratio to hardest"] = variance[own, own].mean() / variance[own, rivals].mean()
    # What adds the same to one score of all other pairs is no disagreement about a video.
    values["offsets' share"] = four[:, other].mean(axis=1).var(ddof=1) / scale**2 / variance[other].mean()
    ordered = variance[other][logits[other].argsort()]
    values |= {
        name: part.sum() / ordered.sum() for name, part in zip(DECILES, np.array_split(ordered, 10), strict=True)
    }
    values["variance in hardest 1%"] = ordered[-len(ordered) // 100 :].sum() / ordered.sum()
    for name, powers in (("", [1.0]), (", best temperature", np.geomspace(0.05, 20, 121))):
        likely = [torch.tensor(logits * power, dtype=torch.float64).softmax(dim=1).numpy() for power in powers]
        losses = [-np.log(one[own, own]).mean() for one in likely]
        best = likely[int(np.argmin(losses))]
        values[f"NLL{name}"] = min(losses)
        values[f"ECE{name}"] = 100 * calibration_error(best.argmax(axis=1) == own, best.max(axis=1))
    return {name: float(value) for name, value in values.items()}


def run(recipe: Recipe, splits: dict[str, Pairs], kind: str, steps: int) -> dict[str, Any]:
    """One training and what comes of it."""
    model, loss = train(recipe, splits["train"], kind, steps)
    with torch.inference_mode():
        test = splits["test"]
        four = torch.stack([*score(model, test, range(len(test.groups))).values()]).numpy()
    scale = model.clip.logit_scale.exp().item()
    values = analyse(four, scale, test.groups.numpy()) | {"training loss": loss, "exp(logit_scale)": scale}
    looked = [gradients(model, splits["train"], rows) for rows in batches(splits["train"], recipe, kind, 2)]
    return values | {name: float(np.mean([one[name] for one in looked])) for name in looked[0]}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of the 95% t-interval."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    return float(np.mean(values)), float(QUANTILES.get(len(values), 2.2) * np.std(values, ddof=1) / len(values) ** 0.5)


def summarize(runs: Any) -> pd.DataFrame:
    """Means over seeds, half intervals, and the paired difference of each value to that without CSC."""
    rows = []
    names = [name for name in runs.columns if name not in (*KEYS, "seed")]
    for (kind, variant, eta), some in runs.groupby(KEYS, sort=False):
        plain = runs[(runs["batches"] == kind) & (runs["eta"] == 0)].set_index("seed")
        some = some.set_index("seed")
        both = some.index.intersection(plain.index)
        row = {"batches": kind, "variant": variant, "eta": eta, "seeds": " ".join(map(str, sorted(some.index)))}
        for name in names:
            row[name], row[f"{name} ±"] = interval(some[name])
            if eta:
                row[f"{name} gain"], row[f"{name} gain ±"] = interval(some.loc[both, name] - plain.loc[both, name])
        rows.append(row)
    return pd.DataFrame(rows).sort_values(KEYS, ignore_index=True)


def draw(table: Any) -> Figure:
    """Gains in R@1 over no CSC with intervals; and where the variance of CSC's denominator lies."""
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    trained = table[(table["eta"] > 0)].reset_index(drop=True)
    for shift, colour, way in ((0.12, MODELS[0], "t2v"), (-0.12, MODELS[1], "v2t")):
        gains, halves = trained[f"{way} R@1 gain"], trained[f"{way} R@1 gain ±"]
        label = {"t2v": "text to video", "v2t": "video to text"}[way]
        left.errorbar(gains, -trained.index + shift, xerr=halves, fmt="o", color=colour, capsize=3, label=label)
    left.axvline(0, color="grey", linewidth=1)
    names = trained["variant"] + ", η = " + trained["eta"].map("{:g}".format)
    names += trained["batches"].map({"random": "", "twins": ", twins"})
    left.set_yticks(-trained.index, names)
    left.set(xlabel="R@1 minus that without CSC (points, 95% interval over seeds)")
    left.legend(fontsize=9, loc="upper right")
    kinds = [("untrained", 0), ("random", 0), ("random", 0.1), ("random", 0.5)]
    for colour, (kind, eta) in zip(MODELS, kinds, strict=False):
        row = table[(table["batches"] == kind) & (table["variant"] == "paper") & (table["eta"] == eta)]
        if len(row):
            label = f"η = {eta}" if kind == "random" else kind
            right.plot(range(1, 11), 100 * row[DECILES].to_numpy()[0], color=colour, marker="o", label=label)
    right.set(
        xlabel="other pairs by logit, tenths from the easiest to the hardest", ylabel="share of their variance (%)"
    )
    right.set_xticks(range(1, 11))
    right.set_ylim(0, None)
    right.legend(fontsize=9)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", help="of recipes/shapes_clip.yaml")
    parser.add_argument("data_dir")
    parser.add_argument("output", type=Path, help="folder for features and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--eta", type=float, nargs="+", default=[0.0, 0.1, 0.5])
    parser.add_argument("--variants", nargs="+", default=["paper"], choices=CSC_VARIANTS)
    parser.add_argument("--batches", default="random", choices=["random", "twins"])
    parser.add_argument("--steps", type=int, default=250, help="0: what it is before training")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="over recipes/shapes.yaml")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--name", default="csc", help="of the tables; the picture is that of the default")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    # The block's values fit: computing them again in the backward pass would take a third of the time.
    scoring_glccl.checkpoint = lambda function, *values, **_: function(*values)
    values = [f"model.clip={options.clip}", f"data.data_dir={options.data_dir}", "output_dir=unused"]
    values += ["data.frame_cache=null", "train.optimizer=bert_adam", "train.clip_learning_rate_factor=1e-3"]
    values += ["train.total_batch_size=64", "train.learning_rate=1e-3", *options.set]
    if not options.report_only:
        recipe = load_recipe(ROOT / "recipes" / "shapes.yaml", values)
        kind = options.batches if options.steps else "untrained"
        splits = {split: encode(recipe, split, options.output) for split in ("train", "test")}
        for seed in options.seeds:
            for variant in options.variants:
                for eta in options.eta:
                    file = options.output / f"{kind}-{variant}-{eta:g}-{seed}.json"
                    if file.exists():
                        continue
                    own = [f"seed={seed}", f"model.config.csc_weight={eta}", f"model.config.csc_variant={variant}"]
                    recipe = load_recipe(ROOT / "recipes" / "shapes.yaml", [*values, *own])
                    row = {"batches": kind, "variant": variant, "eta": eta, "seed": seed}
                    row |= run(recipe, splits, options.batches, options.steps)
                    file.write_text(json.dumps(row) + "\n")
                    print(file.name, *(f"{row[name]:.1f}" for name in ("t2v R@1", "v2t R@1")), flush=True)
    found = [json.loads(file.read_text()) for file in sorted(options.output.glob("*-*-*-*.json"))]
    table = summarize(pd.DataFrame(found))
    for index, row in enumerate(table.to_dict("records")):
        shown = {name: row[name] for name in (*KEYS, "seeds")}
        for name in ("t2v R@1", "v2t R@1"):
            shown |= {name: f"{row[name]:.1f} ± {row[name + ' ±']:.1f}"}
            shown[f"{name} gain"] = f"{row[name + ' gain']:+.1f} ± {row[name + ' gain ±']:.1f}" if row["eta"] else ""
        show(shown, index == 0, wide=("t2v R@1", "v2t R@1", "t2v R@1 gain", "v2t R@1 gain"))
    if options.report_only:
        write_csv(found, f"{options.name}_runs", RESULTS)
        write_csv(table.to_dict("records"), f"{options.name}_summary", RESULTS)
        if options.name == "csc":
            draw(table).savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
