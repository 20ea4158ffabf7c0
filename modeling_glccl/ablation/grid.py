"""The grid of an ablation: variants of one recipe, each trained with several seeds."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict

from ..training import Recipe, load_recipe
from ..training.loop import MAY_CHANGE
from ..training.recipe import differences


@strict
@dataclass
class CostRecipe:
    """What the scoring cost is measured on: random features, at the size of the published models.

    Args:
        items: texts, and videos, of the main table.
        words: slots of a text, all counted; the table and the curve have every number given here.
        frames: of a video in the main table.
        curve_frames: frames of a video in the curve.
        curve_videos: of the curve, for `items` texts: what is done once per video is then shared by as many texts as
            in the table.
        width: of the joint space.
        repetitions: of each measurement, after a warm-up; the median counts.
    """

    items: int = 1000
    words: list[int] = field(default_factory=lambda: [11, 32])
    frames: int = 12
    curve_frames: list[int] = field(default_factory=lambda: [12, 24, 48, 64, 128, 256])
    curve_videos: int = 20
    width: int = 512
    repetitions: int = 1


@strict
@dataclass
class GridRecipe:
    """An ablation.

    Args:
        output_dir: folder for the runs (`runs/VARIANT/seedN`) and the report (`report/`).
        recipe: the recipe of training that all runs share; its path is relative to the file of the grid.
        variants: name -> what changes in that recipe, in its layout (`model: {head: xclip}`) or with dotted keys
            (`model.head: xclip`).
        reference: the variant that the others are compared with.
        settings: what changes in the recipe for all variants.
        clip_recipe: pre-trains the CLIP that the recipe starts from, if it is not there yet (shapes benchmark).
        seeds: every variant is trained once with each.
        num_proc: runs trained at the same time, each in a process of its own.
        threads: CPU threads of each process.
        frame_counts: the variants in `length_variants` are also tested with so many frames of each video.
        length_variants: these, and their heads' scoring cost against the number of frames.
        queries: captions, and videos, whose five best answers the report shows.
        cost: see [`CostRecipe`].
    """

    output_dir: str
    recipe: str
    variants: dict
    reference: str
    settings: dict = field(default_factory=dict)
    clip_recipe: str | None = None
    seeds: list[int] = field(default_factory=lambda: [42])
    num_proc: int = 1
    threads: int = 1
    frame_counts: list[int] = field(default_factory=list)
    length_variants: list[str] = field(default_factory=list)
    queries: int = 2
    cost: CostRecipe = field(default_factory=CostRecipe)

    def validate_names(self):
        """Names that stand for variants are variants."""
        for name in (self.reference, *self.length_variants):
            if name not in self.variants:
                raise ValueError(f"{name!r} is none of the variants {', '.join(map(repr, self.variants))}")
        folders = {slug(name): name for name in self.variants}
        for name in self.variants:
            if folders[slug(name)] != name:
                raise ValueError(f"variants {name!r} and {folders[slug(name)]!r} would share the folder {slug(name)}")

    def validate_numbers(self):
        """Numbers in their ranges, and every seed once."""
        for name in ("num_proc", "threads", "queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds} must hold one seed or more, each once")


@dataclass(frozen=True)
class Run:
    """One training of the grid: a variant with a seed, its recipe, and its folder."""

    variant: str
    seed: int
    recipe: Recipe
    folder: Path

    @property
    def results(self) -> dict[str, Any]:
        """`results.json` of the training."""
        return json.loads((self.folder / "results.json").read_text(encoding="utf-8"))

    @property
    def model_folder(self) -> Path:
        """The model that the results are those of."""
        return self.folder / self.results["model"]

    @property
    def precision(self) -> str:
        """In which it was trained and tested."""
        return self.results["precision"]

    def is_trained(self) -> bool:
        """Whether the folder holds the results of this run.

        Raises:
            ValueError: it holds those of another recipe.
        """
        if not (self.folder / "results.json").exists():
            return False
        changed = differences(load_recipe(self.folder / "recipe.yaml"), self.recipe)
        changes = [f"{key}: {old!r} -> {new!r}" for key, (old, new) in changed.items() if key not in MAY_CHANGE]
        if changes:
            raise ValueError(
                f"{self.folder} holds the results of another recipe ({'; '.join(changes)}): choose another output_dir "
                "or delete it"
            )
        return True


class Grid:
    """A grid and its runs, all recipes checked.

    Raises:
        ValueError: an unknown key or value in any of the recipes; a recipe without test split.
    """

    def __init__(self, settings: GridRecipe, path: Path):
        self.settings, self.output_dir = settings, Path(settings.output_dir)
        self.base = path.parent / settings.recipe
        self.clip_recipe = path.parent / settings.clip_recipe if settings.clip_recipe else None
        self.runs = [self._run(variant, seed) for variant in settings.variants for seed in settings.seeds]

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def find(self, variant: str, seed: int) -> Run:
        """The run of a variant with a seed."""
        return next(run for run in self.runs if (run.variant, run.seed) == (variant, seed))

    def recipe(self, variant: str) -> Recipe:
        """The recipe of a variant, with the first seed."""
        return self.find(variant, self.settings.seeds[0]).recipe

    def _run(self, variant: str, seed: int) -> Run:
        folder = self.output_dir / "runs" / slug(variant) / f"seed{seed}"
        values = flat(self.settings.settings) | flat(self.settings.variants[variant] or {})
        values |= {"seed": seed, "output_dir": str(folder)}
        try:
            recipe = load_recipe(self.base, [f"{key}={json.dumps(value)}" for key, value in values.items()])
        except ValueError as error:
            raise ValueError(f"variant {variant!r}: {error}") from error
        if not recipe.data.test_split:
            raise ValueError(f"variant {variant!r}: data.test_split is null, and there is nothing to compare without")
        return Run(variant, seed, recipe, folder)


def load_grid(path: str | Path, overrides: Iterable[str] = ()) -> Grid:
    """Reads a grid and the recipes of all its runs.

    Args:
        path: YAML file of a [`GridRecipe`].
        overrides: `key=value` strings that go over it (`seeds=[1, 2]`, `settings.train.epochs=2`).

    Raises:
        ValueError: see [`Grid`] and [`modeling_glccl.training.load_recipe`].
    """
    path = Path(path)
    return Grid(load_recipe(path, overrides, GridRecipe), path)


def slug(name: str) -> str:
    """A name as that of a folder."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> dotted keys."""
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
