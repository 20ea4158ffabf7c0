"""Recipes: everything that a training run depends on, in one YAML file, typed and checked.

A recipe is read by [`load_recipe`], where `key=value` arguments override the file (`train.batch_size=16`). Keys that
do not exist are refused. The classes below are the one place where every key is documented.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import yaml
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassError
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ..arguments import find_recipe, nearest
from ..data.files import check_unfolded, read_text
from ..peers import FOUR_SCORES, HEADS

RecipeT = TypeVar("RecipeT")
Number = float | int
MAX_CHARACTERS = 100_000  # of a recipe; they are read in a second


@strict
@dataclass
class ModelRecipe:
    """What is trained and where its weights start. Without `clip` and `checkpoint` the weights are random."""

    clip: str | None = None  # CLIP checkpoint to start from, a folder or a Hub id; its tokenizer is used
    checkpoint: str | None = None  # GLCCL checkpoint to continue from, a folder or a Hub id, with its processor
    # How features are scored: `glccl`, or one of its peers (see `modeling_glccl.peers`). `clip4clip_meanp` has no
    # temporal encoder, whatever `config` says. All but `glccl` and `xclip` need `config.csc_weight: 0`.
    head: Literal["glccl", "xclip", "clip4clip_meanp", "clip4clip_seqtransf", "xpool", "glscl"] = "glccl"
    # Values of GLCCLConfig (`max_words`, `max_frames`, `csc_weight`, ...) or of the head's configuration.
    config: dict = field(default_factory=dict)
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"  # `eager` is faster on CPUs with tiny sequences
    vocab_size: int = 1000  # of the tokenizer trained on the training captions, where no pretrained one is given

    def validate_start(self):
        """One starting point at most."""
        if self.clip and self.checkpoint:
            raise ValueError(f"clip={self.clip!r} and checkpoint={self.checkpoint!r} exclude each other: set one")
        if (self.clip or self.checkpoint) and "clip_config" in self.config:
            raise ValueError("config.clip_config describes CLIP weights to draw; with clip or checkpoint leave it out")

    def validate_config(self):
        """The names and values in `config` are those of the head; one without the four scores has no CSC."""
        config_class = HEADS[self.head].config_class
        assert config_class is not None
        # With a pretrained CLIP, or a checkpoint, what fits together is known once its own configuration is read.
        check_config("config", config_class, self.config, alone=not (self.clip or self.checkpoint))
        if self.head not in FOUR_SCORES and self.config.get("csc_weight", config_class.csc_weight):
            raise ValueError(f"head={self.head} has one score, so CSC is not defined: set config.csc_weight=0")


@strict
@dataclass
class DataRecipe:
    """Which texts and videos, and how they become tensors."""

    benchmark: str = "shapes"  # name for `load_benchmark`
    data_dir: str | None = None  # folder of the annotations and videos
    repo_id: str | None = None  # dataset on the Hub instead of a folder
    # Further arguments of `load_benchmark` (sizes of the generated shapes benchmark, `missing`, ...).
    options: dict = field(default_factory=dict)
    train_split: str = "train"  # the split to train on
    # Evaluated after each epoch and chooses the best model; null: the last model is reported. Where it is the same as
    # `test_split`, as in the authors' release, the last model is the result too, and the epoch with the best R@1
    # stands beside it in `results.json`, labelled as selected on the test split.
    validation_split: str | None = "validation"
    test_split: str | None = "test"  # evaluated once, at the end, with the chosen model; null: no test
    # Column whose rows of equal value share batches, which then hold hard negatives (`twin_group` of the shapes
    # benchmark); null: rows are shuffled one by one.
    group_by: str | None = None
    # Values of GLCCLVideoProcessor (`sampling`, `size`, ...), over those of a pretrained processor.
    processor: dict = field(default_factory=dict)
    num_workers: int = 2  # processes per training process that decode videos; 0: the training process decodes
    # Decode each video once and keep its resized frames on disk; null: decode in every epoch. See `with_frame_cache`.
    frame_cache: Literal["raw", "jpeg"] | None = None
    frame_cache_dir: str | None = None  # folder of the frame cache, which runs may share

    def validate_values(self):
        """Numbers in their ranges; a cache has a place."""
        at_least(self, 0, "num_workers")
        if self.num_workers > 1024:
            raise ValueError(f"num_workers={self.num_workers} must be at most 1024")
        if self.frame_cache and not self.frame_cache_dir:
            raise ValueError(f"frame_cache={self.frame_cache} needs frame_cache_dir, the folder to keep frames in")

    @property
    def selects_on_test(self) -> bool:
        """Whether the split that chooses the best epoch is the one that results are reported on."""
        return self.validation_split is not None and self.validation_split == self.test_split


@strict
@dataclass
class TrainRecipe:
    """Optimisation."""

    epochs: int = 5  # passes over the training split; the schedule ends with the last
    max_steps: int | None = None  # stop (and end the schedule) after so many steps, if that is earlier
    batch_size: int = 128  # text-video pairs per step and process
    # Pairs per step of all processes together, instead of `batch_size`: a step is then the same on any number of
    # processes that divides it; null: `batch_size` times the number of processes.
    total_batch_size: int | None = None
    # `bert_adam` is the rule of the authors' release with its schedule and its choice of what is decayed: see
    # `BertAdam`, `warmup_cosine` and `parameter_groups`.
    optimizer: Literal["adamw", "bert_adam"] = "adamw"
    learning_rate: Number = 1e-4  # peak rate of the layers that CLIP does not have
    clip_learning_rate_factor: Number = 1e-3  # CLIP's rate is `learning_rate` times this
    adam_beta1: Number = 0.9  # decay rate of the mean gradient
    adam_beta2: Number = 0.98  # decay rate of the mean squared gradient
    adam_epsilon: Number = 1e-6  # added to the root of the mean squared gradient
    # With `adamw` of weight matrices: not of biases, normalisations, logit_scale and the score matrices that start as
    # identities. With `bert_adam` of everything but biases.
    weight_decay: Number = 0.2
    warmup_ratio: Number = 0.1  # share of the steps in which the rate rises linearly, before a cosine to 0
    max_grad_norm: Number = 1.0  # gradients are clipped to this global norm; `bert_adam` clips each tensor's as well
    # CLIP's embeddings, its pre-norm, and so many of the first layers of both its towers stay as they are; 0: the
    # embeddings and the pre-norm alone; null: nothing does.
    freeze_layer_num: int | None = None
    # LoRA of this rank on the attention projections of both towers, at `learning_rate`: of CLIP nothing else is
    # trained. Checkpoints hold it merged. Needs PEFT; null: CLIP itself is trained.
    lora_rank: int | None = None
    # Gradient cache: encode so many pairs at a time, with the exact gradient of the whole batch and the activations
    # of one chunk in memory; each pair is encoded twice. null: encode the batch at once.
    grad_cache_chunk: int | None = None
    activation_checkpointing: bool = False  # recompute the activations of each layer in the backward pass
    # `bf16` and `fp16` are autocasts with float32 master weights; `auto`: `bf16` on GPUs and CPUs that have such
    # products, else `fp32`.
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    eval_epochs: int = 1  # evaluate every so many epochs (and after the last)
    eval_batch_size: int = 32  # videos encoded at a time in evaluation
    save_steps: int = 0  # save a checkpoint every so many steps as well as after each epoch; 0: after each epoch only

    def validate_numbers(self):
        """Numbers in their ranges."""
        at_least(self, 1, "epochs", "max_steps", "batch_size", "total_batch_size", "grad_cache_chunk")
        at_least(self, 1, "eval_epochs", "eval_batch_size", "lora_rank")
        at_least(self, 0, "learning_rate", "clip_learning_rate_factor", "weight_decay", "warmup_ratio", "save_steps")
        at_least(self, 0, "adam_beta1", "adam_beta2", "adam_epsilon", "freeze_layer_num")
        for name in ("adam_beta1", "adam_beta2"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be less than 1")
        if self.warmup_ratio > 1:
            raise ValueError(f"warmup_ratio={self.warmup_ratio} is a share of the steps: at most 1")
        if self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm={self.max_grad_norm} must be positive")

    def pairs_per_process(self, num_processes: int) -> int:
        """Text-video pairs that each of so many processes takes per step."""
        if self.total_batch_size is None:
            return self.batch_size
        if self.total_batch_size % num_processes:
            raise ValueError(
                f"total_batch_size={self.total_batch_size} cannot be divided among {num_processes} processes: "
                "use a number of processes that divides it, or batch_size, which counts per process"
            )
        return self.total_batch_size // num_processes


@strict
@dataclass
class Recipe:
    """A training run."""

    output_dir: str  # folder for `best`, `last`, `logs`, `recipe.yaml` and `results.json`
    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)
    seed: int = 42  # of the weights, the data order and dropout
    resume: bool = True  # continue the run found in `output_dir`, exactly; `false` starts over and replaces it
    # Hub repository (`owner/name`) for the final model, its processor and code, results, recipe and a model card;
    # what `glccl publish` does. For `model.head: glccl` alone.
    push_to_hub: str | None = None

    def validate_seed(self):
        """One that every random generator takes."""
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} must lie in 0..{2**32 - 1}")

    def validate_push(self):
        """The name is one of the Hub, and the code of the model can travel with it."""
        if self.push_to_hub and self.push_to_hub.count("/") != 1:
            raise ValueError(f"push_to_hub={self.push_to_hub!r} must be of the form owner/name")
        if self.push_to_hub and self.model.head != "glccl":
            raise ValueError(
                f"push_to_hub={self.push_to_hub!r}: a model with model.head={self.model.head} needs this package and "
                "would not load from the Hub alone; only model.head=glccl is published"
            )


def load_recipe(path: str | Path, overrides: Iterable[str] = (), recipe_class: type[RecipeT] = Recipe) -> RecipeT:
    """Reads a recipe.

    Args:
        path: YAML file, or the name of a recipe that comes with the package ("own_videos").
        overrides: `key=value` strings that go over the file: dotted keys, values in YAML (`train.learning_rate=1e-3`,
            `model.config.glim_local=false`, `data.validation_split=null`).
        recipe_class: the dataclass to fill.

    Raises:
        ValueError: an unknown key (with the nearest known one), a value of another type or out of its range, an
            override that is not `key=value`.
        FileNotFoundError: no such file.
    """
    values = _parse(read_text(find_recipe(path)), str(path)) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must be a mapping of keys; got {str(values)[:60]}")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"{override!r} is not of the form key=value (train.batch_size=16)")
        *parents, name = key.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ValueError(f"{override!r}: {parent} holds the value {target!r}, it has no keys of its own")
        target[name] = _parse(value, f"{override!r}")
        if key == "train.batch_size" and target.get("total_batch_size") is not None:
            raise ValueError(
                f"{override!r} would change nothing: train.total_batch_size={target['total_batch_size']} counts here, "
                "the pairs of all processes; set that one"
            )
    recipe = _build(recipe_class, values, "", list(_known_keys(recipe_class, "")))
    if (length := len(_written(recipe))) > MAX_CHARACTERS:  # a run could not read what it keeps of it
        raise ValueError(f"{path}: has {length:,} characters with every key; a recipe has at most {MAX_CHARACTERS:,}")
    return recipe


def save_recipe(recipe: Any, path: str | Path) -> None:
    """Writes a recipe, every key with its value, so that [`load_recipe`] reads the same one back."""
    Path(path).write_text(_written(recipe), encoding="utf-8")


def _written(recipe: Any) -> str:
    return yaml.safe_dump(asdict(recipe), sort_keys=False)


def differences(recipe: Any, other: Any) -> dict[str, str]:
    """Dotted keys whose values differ between two recipes of a class, and how: "train.epochs: 3 -> 4"."""
    values, others = dict(flat(asdict(recipe))), dict(flat(asdict(other)))
    pairs = {key: (values.get(key), others.get(key)) for key in values | others}
    return {key: f"{key}: {old!r} -> {new!r}" for key, (old, new) in pairs.items() if old != new}


def flat(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of nested dictionaries, with their values."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as a string and `no` as False; this reads numbers as Python writes them."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """As the base class, which takes the last of several values of a key."""
        node = super().compose_mapping_node(anchor)
        if twice := [key for key, count in Counter(str(key.value) for key, _ in node.value).items() if count > 1]:
            raise yaml.MarkedYAMLError(problem=f"{twice[0]} stands there twice", problem_mark=node.start_mark)
        return node


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)


def _parse(text: str, where: str) -> Any:
    try:
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"{len(text):,} characters; a recipe has at most {MAX_CHARACTERS:,}")
        value = yaml.load(text, Loader=_Loader)
        check_unfolded(value, len(text))
        return value
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"{where}{place}: no YAML: {problem}") from error


def _known_keys(recipe_class: Any, prefix: str) -> Iterator[str]:
    for f in fields(recipe_class):
        yield f"{prefix}{f.name}"
        if is_dataclass(f.type):
            yield from _known_keys(f.type, f"{prefix}{f.name}.")


def _build(recipe_class: Any, values: dict, prefix: str, known: list[str]) -> Any:
    """Fills a recipe class from nested mappings, with errors that name the dotted key."""
    types = {f.name: f.type for f in fields(recipe_class)}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in types:
            raise ValueError(f"unknown key {key}: {nearest(key, known)}")
        if is_dataclass(types[name]):
            if not isinstance(value, dict):
                raise ValueError(f"{key} must be a mapping of keys; got {value!r}")
            values = values | {name: _build(types[name], value, f"{key}.", known)}
    try:
        return recipe_class(**values)
    except (StrictDataclassError, TypeError) as error:
        raise ValueError(f"{prefix}{_one_line(error)}") from error


def check_config(key: str, config_class: type[PreTrainedConfig], values: dict, alone: bool = True) -> None:
    """Checks values of a model's configuration, whose classes ignore names that they do not know.

    Unknown names and wrong types are a ValueError that begins with the key. So are values that, with the defaults of
    the others, do not fit together, if they stand `alone`.
    """
    known = [f.name for f in fields(config_class)]
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{key}.{name} is unknown: {nearest(name, known)}")
        if isinstance(value, dict) and name.endswith("_config"):
            part = dict(value)
            model_type = part.pop("model_type", "clip")
            if name == "clip_config" and model_type in CONFIG_MAPPING:
                check_config(f"{key}.{name}", CONFIG_MAPPING[model_type], part)
            elif name != "clip_config" and (part_class := cast(dict, config_class.sub_configs).get(name)):
                check_config(f"{key}.{name}", part_class, part)
    try:
        config_class(**values)
    except (StrictDataclassError, TypeError, ValueError) as error:
        if alone or not isinstance(error, StrictDataclassClassValidationError):
            raise ValueError(f"{key}.{_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """What a strict dataclass found: "batch_size: expected int, got str (value: 'large')"."""
    text = str(error.__cause__ or error).partition(". Errors: ")[0]
    text = re.sub(r"^\w+\.__init__\(\) missing .* argument.*: '(\w+)'.*", r"\1 is missing", text)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text).replace("typing.", "")
    text = re.sub(r"^Field '(\w+)' with value (.*) doesn't match any type in \((.*)\)$", r"\1: \2 is none of \3", text)
    return re.sub(r"^Field '(\w+)' ", r"\1: ", text)


def at_least(recipe: Any, minimum: int, *names: str) -> None:
    """Refuses values of these fields that are smaller or not finite; None is no value."""
    for name in names:
        value = getattr(recipe, name)
        if value is not None and not minimum <= value < math.inf:
            raise ValueError(f"{name}={value} must be {f'at least {minimum}' if value < minimum else 'finite'}")
