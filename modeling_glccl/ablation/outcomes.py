"""What the finished runs of a grid found, summed up over seeds, and which variants belong to which table."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

from ..peers.heads import FIXED_CONFIG, HEADS
from ..training import Recipe
from ..training.recipe import differences
from .grid import Grid, Run
from .worker import analysis_file, is_done

GLIM = ("glim_global", "glim_local")


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds; None with one seed."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Of one value per seed, at least one."""
        values = list(values)
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Outcome:
    """A finished run with its `results.json` and `analysis.json`."""

    run: Run
    results: dict[str, Any]
    analysis: dict[str, Any]


@dataclass(frozen=True)
class Outcomes:
    """The finished runs of a grid: variant -> its outcomes in the order of the seeds, without unfinished variants."""

    grid: Grid
    by_variant: Mapping[str, Sequence[Outcome]]

    @property
    def reference(self) -> str:
        """The variant that the others are compared with."""
        return self.grid.settings.reference

    def spread(self, variant: str, value: Callable[[Outcome], float]) -> Spread:
        """A value of a variant over its seeds."""
        return Spread.of(map(value, self.by_variant[variant]))

    def metric(self, variant: str, direction: str, name: str) -> Spread:
        """A test metric of a variant over its seeds."""
        return self.spread(variant, lambda outcome: outcome.results["test"][direction][name])

    def difference(self, variant: str, other: str, direction: str = "t2v", name: str = "R@1") -> Spread | None:
        """A metric of a variant minus that of another one, seed by seed; None if they share no seed."""
        values = [
            {outcome.run.seed: outcome.results["test"][direction][name] for outcome in self.by_variant.get(one, ())}
            for one in (variant, other)
        ]
        shared = [seed for seed in values[0] if seed in values[1]]
        return Spread.of(values[0][seed] - values[1][seed] for seed in shared) if shared else None


@dataclass(frozen=True)
class Sections:
    """The finished variants by what they change of the reference, which is part of each list but the last.

    Args:
        heads: another head.
        glim_csc: GLIM's switches, and CSC on (as in the reference) or off.
        eta: the weight of CSC, in its order.
        others: anything else.
    """

    heads: list[str]
    glim_csc: list[str]
    eta: list[str]
    others: list[str]


def collect(grid: Grid) -> Outcomes:
    """Reads what is finished."""
    found: dict[str, list[Outcome]] = {}
    for run in grid:
        if is_done(grid, run):
            analysis = json.loads(analysis_file(run).read_text(encoding="utf-8"))
            found.setdefault(run.variant, []).append(Outcome(run, run.results, analysis))
    return Outcomes(grid, found)


def sections(outcomes: Outcomes) -> Sections:
    """Sorts the finished variants by what they change of the reference."""
    grid, reference = outcomes.grid, outcomes.grid.recipe(outcomes.reference)
    switches = {f"model.config.{name}" for name in (*GLIM, "csc_weight")}
    found = Sections([], [], [], [])
    for variant in outcomes.by_variant:
        recipe = grid.recipe(variant)
        changed = set(differences(reference, recipe)) - {"output_dir"}
        same_glim = all(setting(recipe, name) == setting(reference, name) for name in GLIM)
        if recipe.model.head != reference.model.head:
            found.heads.append(variant)
        elif changed <= switches:
            if same_glim:
                found.eta.append(variant)
            if setting(recipe, "csc_weight") in (0, setting(reference, "csc_weight")):
                found.glim_csc.append(variant)
        else:
            found.others.append(variant)
    if outcomes.reference in outcomes.by_variant:
        found.heads.insert(0, outcomes.reference)
    found.eta.sort(key=lambda variant: setting(grid.recipe(variant), "csc_weight"))
    return found


def setting(recipe: Recipe, name: str) -> Any:
    """A value of the model's configuration, the head's default where the recipe does not say it."""
    values = recipe.model.config | FIXED_CONFIG.get(recipe.model.head, {})
    return values.get(name, getattr(HEADS[recipe.model.head].config_class, name))
