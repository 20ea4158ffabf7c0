"""A tiny recipe on the shapes benchmark, shared by the tests of training."""

from pathlib import Path

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ENCODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
# With dropout, so that a run resumes exactly only if the state of the random generators does.
TINY = {
    "model": {
        "config": {
            "clip_config": {
                "text_config": {**ENCODER, "attention_dropout": 0.1},
                "vision_config": {**ENCODER, "attention_dropout": 0.1, "image_size": 32, "patch_size": 16},
                "projection_dim": 32,
            },
            "max_words": 40,
            "max_frames": 4,
            "temporal_num_hidden_layers": 1,
        },
        "attn_implementation": "eager",
        "vocab_size": 600,
    },
    "data": {
        "options": {"num_train": 16, "num_validation": 8, "num_test": 8, "num_stills": 32, "image_size": 32},
        "num_workers": 0,
    },
    "train": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3},
}


def write_recipe(folder: Path, data_dir: Path) -> Path:
    """The tiny recipe as a file that trains into `folder / "run"` and keeps its videos in `data_dir`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    recipe = {"output_dir": str(folder / "run"), **TINY, "data": {**TINY["data"], "data_dir": str(data_dir)}}
    path.write_text(yaml.safe_dump(recipe))
    return path


def logged(run: Path, tag: str = "train/loss") -> dict[int, float]:
    """Step -> value of what a run logged for TensorBoard; a later entry for a step replaces an earlier one."""
    events = EventAccumulator(str(run / "logs"), size_guidance={"scalars": 0}).Reload()
    return {event.step: event.value for event in events.Scalars(tag)}
