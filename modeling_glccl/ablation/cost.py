"""What a head's scores cost, once texts and videos are encoded: seconds measured, multiply-adds counted."""

import json
import statistics
import time
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..environment import describe_environment
from ..features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from ..peers.heads import HEADS
from .grid import CostRecipe, Grid

# The longest video that heads with matrices over frames take; the others know no such limit.
MOST_FRAMES = 77


@dataclass(frozen=True)
class Cost:
    """The cost of scoring `texts` texts against `videos` videos with a head.

    Args:
        seconds: measured, the median of the repetitions.
        macs: multiply-adds in matrix products, counted as they are computed; element-wise work is left out.
    """

    head: str
    texts: int
    videos: int
    words: int
    frames: int
    width: int
    seconds: float
    macs: float


def measure_cost(
    head: str,
    *,
    texts: int,
    videos: int,
    words: int,
    frames: int,
    width: int,
    repetitions: int = 1,
    device: str = "cpu",
) -> Cost:
    """Scores random features with a head as it scores in evaluation, float32.

    Args:
        head: a name in `HEADS`.
        texts, videos: how many.
        words: slots per text, all counted.
        frames: per video, all counted.
        width: of the joint space.
        repetitions: measured after a warm-up, in which the multiply-adds are counted.
        device: of the features.

    Raises:
        ValueError: more frames than a head with matrices over frames can have.
    """
    model_class = HEADS[head]
    config = model_class.config_class(
        clip_config={"projection_dim": width},
        max_words=words,
        max_frames=min(frames, MOST_FRAMES),
        csc_weight=0.0,
    )
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    interaction = model_class.interaction_class(config).to(device).eval()
    word_features = torch.randn(texts, words, width, generator=generator).to(device)
    text = GLCCLTextFeatures(
        sentence=word_features[:, -1],
        words=word_features,
        word_mask=torch.ones(texts, words, dtype=torch.bool, device=device),
    )
    video = GLCCLVideoFeatures(
        frames=torch.randn(videos, frames, width, generator=generator).to(device),
        frame_mask=torch.ones(videos, frames, dtype=torch.bool, device=device),
    )
    # All that `get_scores` reads of a model; CLIP's towers are not needed.
    model = SimpleNamespace(
        interaction=interaction, clip=SimpleNamespace(logit_scale=torch.tensor(100.0, device=device).log())
    )

    def score() -> None:
        model_class.get_scores(model, text, video)
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = []
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            score()
        for _ in range(repetitions):
            started = time.perf_counter()
            score()
            seconds.append(time.perf_counter() - started)
    macs = counter.get_total_flops() / 2
    return Cost(head, texts, videos, words, frames, width, statistics.median(seconds), macs)


def measure_costs(grid: Grid) -> dict[str, Any]:
    """The costs of a grid's heads, measured on its number of threads, or as they were measured before.

    Returns:
        "settings"; "hardware", where they were measured; "main", a [`Cost`] as a dictionary for every head and
        number of words; "curve", those of the heads of `length_variants` against the number of frames.
    """
    settings: CostRecipe = grid.settings.cost
    heads = list(dict.fromkeys(grid.recipe(variant).model.head for variant in grid.settings.variants))
    curves = list(dict.fromkeys(grid.recipe(variant).model.head for variant in grid.settings.length_variants))
    wanted = {**asdict(settings), "threads": grid.settings.threads, "heads": heads, "curves": curves}
    file = grid.output_dir / "cost.json"
    if file.exists() and (costs := json.loads(file.read_text(encoding="utf-8")))["settings"] == wanted:
        return costs
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    torch.set_num_threads(grid.settings.threads)
    try:
        hardware = describe_environment()["hardware"] | {"device": device}
        size = {"width": settings.width, "repetitions": settings.repetitions, "device": device}
        main = [
            measure_cost(
                head, texts=settings.items, videos=settings.items, words=words, frames=settings.frames, **size
            )
            for head in heads
            for words in settings.words
        ]
        curve = [
            measure_cost(head, texts=settings.items, videos=settings.curve_videos, words=words, frames=frames, **size)
            for head in curves
            for words in settings.words
            for frames in settings.curve_frames
        ]
    finally:
        torch.set_num_threads(threads)
    costs = {
        "settings": wanted,
        "hardware": hardware,
        "main": list(map(asdict, main)),
        "curve": list(map(asdict, curve)),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(costs, indent=2) + "\n", encoding="utf-8")
    return costs
