"""The grid of an ablation: variants of one recipe, each trained with several seeds."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict

from modeling_glccl.peers import HEADS
from modeling_glccl.training import Recipe, load_recipe
from modeling_glccl.training.recipe import differences, flat
from modeling_glccl.training.run_folder import holds_results

SWITCHES = ("glim_global", "glim_local", "csc_weight")


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

    def validate_values(self):
        """Names that stand for variants are variants, no two share a folder, and numbers are in their ranges."""
        for name in (self.reference, *self.length_variants):
            if name not in self.variants:
                raise ValueError(f"{name!r} is none of the variants {', '.join(map(repr, self.variants))}")
        for name in self.variants:
            same = [other for other in self.variants if slug(other) == slug(name)]
            if len(same) > 1:
                raise ValueError(f"variants {' and '.join(map(repr, same))} would share the folder {slug(name)}")
        for name in ("num_proc", "threads", "queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds} must hold one seed or more, each once")


@dataclass(frozen=True, eq=False)
class Run:
    """One training of the grid: a variant with a seed, its recipe, its folder, and how its model is analysed."""

    variant: str
    seed: int
    recipe: Recipe
    folder: Path
    frame_counts: list[int]

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder / "run.log"

    @property
    def results(self) -> dict[str, Any]:
        """`results.json` of the training."""
        return json.loads((self.folder / "results.json").read_text(encoding="utf-8"))

    @property
    def analysis(self) -> dict[str, Any] | None:
        """`analysis.json`; None where the run is not trained, or not analysed with these frame counts."""
        file = self.folder / "analysis.json"
        if not holds_results(self.folder, self.recipe) or not file.exists():
            return None
        analysis = json.loads(file.read_text(encoding="utf-8"))
        return analysis if analysis.get("frame_counts") == self.frame_counts else None


@dataclass(frozen=True)
class Grid:
    """The settings, the recipe that pre-trains CLIP if there is one, and (variant, seed) -> run."""

    settings: GridRecipe
    clip_recipe: Path | None
    runs: dict[tuple[str, int], Run]

    def recipe(self, variant: str) -> Recipe:
        """The recipe of a variant, with the first seed."""
        return self.runs[variant, self.settings.seeds[0]].recipe

    def switches(self, variant: str) -> tuple[bool, bool, float]:
        """glim_global, glim_local and csc_weight, the head's defaults where the recipe does not say them."""
        model = self.recipe(variant).model
        glim_global, glim_local, csc_weight = (
            model.config.get(name, getattr(HEADS[model.head].config_class, name)) for name in SWITCHES
        )
        return glim_global, glim_local, csc_weight

    def sections(self, variants: Iterable[str]) -> dict[str, list[str]]:
        """Sorts variants by what they change of the reference, which belongs to each list.

        Returns:
            "heads"; "glim_csc", GLIM's switches, and CSC on as in the reference or off; "eta", in its order.
        """
        name = self.settings.reference
        reference, (*glim, weight) = self.recipe(name), self.switches(name)
        found = {"heads": [name], "glim_csc": [], "eta": []}
        for variant in variants:
            recipe, switches = self.recipe(variant), self.switches(variant)
            changed = {key.removeprefix("model.config.") for key in differences(reference, recipe)} - {"output_dir"}
            if recipe.model.head != reference.model.head:
                found["heads"].append(variant)
            elif changed <= {*SWITCHES}:
                if list(switches[:2]) == glim:
                    found["eta"].append(variant)
                if switches[2] in (0, weight):
                    found["glim_csc"].append(variant)
        found["eta"].sort(key=lambda variant: self.switches(variant)[2])
        return found


def load_grid(path: str | Path, overrides: Iterable[str] = ()) -> Grid:
    """Reads a [`GridRecipe`] under `key=value` strings that go over it; ValueError if a recipe of a run is wrong."""
    path = Path(path)
    settings = load_recipe(path, overrides, GridRecipe)
    runs = {}
    for variant, changes in settings.variants.items():
        counts = settings.frame_counts if variant in settings.length_variants else []
        for seed in settings.seeds:
            folder = Path(settings.output_dir) / "runs" / slug(variant) / f"seed{seed}"
            values = [*flat(settings.settings), *flat(changes or {}), ("seed", seed), ("output_dir", str(folder))]
            assignments = [f"{key}={json.dumps(value)}" for key, value in dict(values).items()]
            try:
                recipe = load_recipe(path.parent / settings.recipe, assignments)
                if not recipe.data.test_split:
                    raise ValueError("data.test_split is null, and there is nothing to compare without")
            except ValueError as error:
                raise ValueError(f"variant {variant!r}: {error}") from error
            runs[variant, seed] = Run(variant, seed, recipe, folder, counts)
    return Grid(settings, path.parent / settings.clip_recipe if settings.clip_recipe else None, runs)


def slug(name: str) -> str:
    """A name as that of a folder."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
