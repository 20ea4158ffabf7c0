"""What the stored features depend on, so that an index is never searched with another model than it was made with."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ..checkpoints import weights_digest
from ..modeling_glccl import GLCCLModel
from ..processing_glccl import GLCCLProcessor

# Of the processor, what decides which pixels the model sees; threads and padding do not.
_PIXELS = ("size", "crop_size", "keep_aspect_ratio", "resample", "image_mean", "image_std", "max_frames", "sampling")
# Of the configuration, what no feature depends on: where a checkpoint comes from, its loss, and the use of its scores.
_ORIGIN = ("_name_or_path", "transformers_version", "architectures", "auto_map", "dtype", "torch_dtype")
_ORIGIN += ("confidence_weights", "csc_weight", "csc_scores", "csc_variant")
ROUNDED = "bfloat16:"  # begins what is said of weights that were rounded


def checkpoint_of(model: GLCCLModel) -> str:
    """Where a model was loaded from: the absolute path of a folder, or a Hub repository; empty if from neither."""
    name = model.name_or_path or ""
    return str(Path(name).absolute()) if name and Path(name).is_dir() else name


def describe_model(model: GLCCLModel, processor: GLCCLProcessor, rounded: bool = True) -> dict[str, Any]:
    """`checkpoint` (where it came from) and what features depend on: `weights`, `config`, `processor`, for JSON.

    Features of another runtime than torch depend on that, too: an index adds it as `runtime`.

    Weights are hashed rounded to bfloat16: a checkpoint in float32 and in bfloat16 is one model, as their features are
    close (docs/search.md). For an index that was made before they were, they are not `rounded`.
    """

    def without_origin(part: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in part.items() if name not in _ORIGIN}

    settings = {name: getattr(processor.video_processor, name) for name in _PIXELS}
    return {
        "checkpoint": checkpoint_of(model),
        "weights": f"{ROUNDED if rounded else ''}{weights_digest(model.state_dict(), rounded=rounded)}",
        "config": json.loads(json.dumps(model.config.to_dict()), object_hook=without_origin),
        "processor": json.loads(json.dumps(settings)),
    }


def fingerprint(description: dict[str, Any]) -> str:
    """16 hexadecimal digits for everything in a description but where the checkpoint came from."""
    parts = {name: value for name, value in description.items() if name != "checkpoint"}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def difference(indexed: dict[str, Any], given: dict[str, Any]) -> str | None:
    """In words, what tells the model of the index from the given one; None if nothing does."""
    found = [
        f"{part}.{name} is {given[part].get(name)!r} instead of {indexed[part].get(name)!r}"
        for part in ("config", "processor")
        for name in sorted((indexed[part].keys() | given[part].keys()) - set(_ORIGIN))
        if indexed[part].get(name) != given[part].get(name)
    ]
    if indexed["weights"] != given["weights"]:
        found.append("its weights are others, or in another precision than float32 and bfloat16")
    return "; ".join(found) or None
