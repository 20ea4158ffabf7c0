"""Recipes and the `key=value` that go over them."""

import random
import shutil
from pathlib import Path

import yaml
from paths import REPOSITORY
from training_runs import TINY

from modeling_glccl.training import load_recipe
from modeling_glccl.training.recipe import save_recipe

from .harness import attempt
from .mutate import ODD, mutate_text, mutate_tree


def setup(seeds: Path) -> None:
    for name in ("shapes", "own_videos", "msrvtt", "paper_didemo"):
        shutil.copy(REPOSITORY / "recipes" / f"{name}.yaml", seeds)
    (seeds / "tiny.yaml").write_text(yaml.safe_dump({"output_dir": "run", **TINY}))


def warm(seeds: Path) -> None:
    for path in seeds.iterdir():
        load_recipe(path)


def run(rng: random.Random, seeds: Path, work: Path) -> None:
    paths = sorted(seeds.iterdir())
    content, other = rng.choice(paths).read_bytes(), rng.choice(paths).read_bytes()
    path, overrides = work / "x.yaml", []
    kind = rng.choice(("tree", "tree", "text", "override", "override"))
    if kind == "tree":
        tree = mutate_tree(rng, yaml.safe_load(content))
        content = yaml.dump(tree, allow_unicode=rng.random() < 0.5).encode(errors="surrogatepass")
    elif kind == "text":
        content = mutate_text(rng, content, other)
    else:
        overrides = [_override(rng, yaml.safe_load(content)) for _ in range(rng.choice((1, 1, 2)))]
    path.write_bytes(content)
    keys = [part for text in overrides for part in (text.partition("=")[0].split(".")[-1], repr(text))]
    top = [name for name in ("model", "data", "train", "the recipe", "unknown key", "seed", "resume", "output_dir")]
    recipe = attempt(lambda: load_recipe(path, overrides), str(path), *keys, *top, "push_to_hub")
    save_recipe(recipe, work / "saved.yaml")
    assert repr(load_recipe(work / "saved.yaml")) == repr(recipe), "saved and loaded it is another recipe"
    for part in (recipe, recipe.model, recipe.data, recipe.train):
        bad = [name for name, value in vars(part).items() if isinstance(value, float) and abs(value) == float("inf")]
        assert not bad, bad
        assert all(value == value for value in vars(part).values() if isinstance(value, float)), "NaN is taken"


def _override(rng: random.Random, tree: dict) -> str:
    keys, node = [], tree
    while isinstance(node, dict) and node and rng.random() < 0.95:
        keys.append(rng.choice(list(node)))
        node = node[keys[-1]]
    if rng.random() < 0.1:
        keys.insert(rng.randrange(len(keys) + 1), rng.choice(("", "x", "train", "0", "a b", "é")))
    value = rng.choice(ODD)
    text = str(value) if rng.random() < 0.5 else yaml.dump(value, default_flow_style=True)
    return ".".join(map(str, keys)) + rng.choice(("=", "=", "=", "=", "", "==", " = ", ":")) + text
