"""Trains a small CLIP on single frames and phrases, and saves it as a plain CLIP checkpoint.

It stands for the CLIP that GLCCL starts from, where none can be downloaded:

    python -m modeling_glccl.training.pretrain_clip recipes/shapes_clip.yaml [key=value ...]
"""

import json
import math
import shlex
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate.utils import set_seed
from huggingface_hub.dataclasses import strict
from torch import Tensor
from tqdm.auto import tqdm
from transformers import CLIPConfig, CLIPModel, get_cosine_schedule_with_warmup

from ..atomic import replace_folder, room_for
from ..console import run
from ..data import load_benchmark
from ..data.shapes.sampler import STILLS_PER_GROUP
from ..environment import describe_environment, resolve_precision
from ..processing_glccl import GLCCLProcessor
from ..video_processing_glccl import GLCCLVideoProcessor
from .optimization import MAX_LOGIT_SCALE
from .recipe import at_least, check_config, load_recipe, save_recipe
from .tokenizer import token_ids, train_clip_tokenizer


@strict
@dataclass
class ClipRecipe:
    """A training run of a small CLIP on the stills of the shapes benchmark."""

    output_dir: str  # folder of the checkpoint
    data_dir: str | None = None  # folder of the benchmark
    options: dict = field(default_factory=dict)  # of the benchmark (`num_stills`, `image_size`, `seed`, ...)
    # Values of CLIPConfig; ids and sizes that follow from tokenizer and images are filled in.
    clip_config: dict = field(default_factory=dict)
    vocab_size: int = 1000  # of the tokenizer, trained on the phrases and on the captions of the training videos
    max_words: int = 32  # most tokens of a phrase, BOS and EOS included
    epochs: int = 5  # passes over the stills
    batch_size: int = 64  # pairs per step, in whole groups of stills that differ in shape or action alone
    learning_rate: float | int = 1.5e-3  # peak rate, after `warmup_ratio` of the steps, before a cosine to zero
    text_learning_rate_factor: float | int = 0.3  # for the text encoder's layers and projection, times `learning_rate`
    weight_decay: float | int = 0.05  # of weight matrices outside these
    warmup_ratio: float | int = 0.1  # share of the steps
    precision: Literal["fp32", "bf16", "auto"] = "fp32"  # `bf16` is an autocast; `auto`: the faster of the hardware
    seed: int = 42  # of the weights and the order

    def validate_clip_config(self):
        """The names and values in `clip_config` are CLIP's."""
        check_config("clip_config", CLIPConfig, self.clip_config)

    def validate_numbers(self):
        """Numbers in their ranges."""
        at_least(self, 1, "vocab_size", "max_words", "epochs", "batch_size")
        at_least(self, 0, "learning_rate", "text_learning_rate_factor", "weight_decay", "warmup_ratio")


def pretrain_clip(recipe: ClipRecipe) -> CLIPModel:
    """Trains the model that a recipe describes and saves model and tokenizer into `output_dir`.

    It replaces the result of such a training; anything else there is a ValueError.
    """
    folder = Path(recipe.output_dir)
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if names and not {"recipe.yaml", "results.json"} <= set(names):
        raise ValueError(f"output_dir={folder} holds {', '.join(names[:5])}: choose another output_dir")
    set_seed(recipe.seed)
    started = time.perf_counter()
    load = {"data_dir": recipe.data_dir, "split": "train", **recipe.options}
    stills = load_benchmark("shapes", config_name="stills", **load)
    captions = load_benchmark("shapes", with_videos=False, **load)["caption"]
    texts = cast(list[str], [*stills["phrase"]])
    tokenizer = train_clip_tokenizer([*texts, *cast(list[str], captions)], recipe.vocab_size)
    stacked = np.stack([np.asarray(image) for image in stills["image"]])
    size = stacked.shape[2]
    processor = GLCCLProcessor(
        tokenizer, GLCCLVideoProcessor(size=size, crop_size=size, max_frames=1), max_words=recipe.max_words
    )
    phrases = processor(text=texts)
    input_ids, lengths = phrases["input_ids"], phrases["attention_mask"].sum(1)
    normalise = processor.video_processor
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (normalise.image_mean, normalise.image_std))
    images = torch.from_numpy(stacked).permute(0, 3, 1, 2)

    text_config = {**token_ids(tokenizer), "pad_token_id": 0, **recipe.clip_config.get("text_config", {})}
    vision_config = {"image_size": size, **recipe.clip_config.get("vision_config", {})}
    config: dict[str, Any] = recipe.clip_config | {"text_config": text_config, "vision_config": vision_config}
    model = CLIPModel(CLIPConfig(**config)).train()
    _initialise_for_a_short_training(model)
    model.set_attn_implementation("eager")  # faster than SDPA on sequences this short
    rate, slow_rate = recipe.learning_rate, recipe.learning_rate * recipe.text_learning_rate_factor
    matrices = {"params": [], "lr": rate, "weight_decay": recipe.weight_decay}
    vectors = {"params": [], "lr": rate, "weight_decay": 0.0}
    text_layers = {"params": [], "lr": slow_rate, "weight_decay": 0.0}
    for name, weight in model.named_parameters():
        slow = name.startswith("text_") and "token_embedding" not in name
        group = text_layers if slow else vectors if weight.ndim < 2 else matrices
        group["params"].append(weight)
    optimizer = torch.optim.AdamW([matrices, vectors, text_layers], betas=(0.9, 0.98))
    steps = recipe.epochs * (len(images) // recipe.batch_size)
    scheduler = get_cosine_schedule_with_warmup(optimizer, math.ceil(recipe.warmup_ratio * steps), steps)
    precision = resolve_precision(recipe.precision, "cpu")
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with tqdm(total=steps, unit="step", desc="CLIP on stills") as bar:
        for _ in range(recipe.epochs):
            groups = torch.randperm(len(images) // STILLS_PER_GROUP)[:, None] * STILLS_PER_GROUP
            for rows in (groups + torch.arange(STILLS_PER_GROUP)).flatten().split(recipe.batch_size):
                if len(rows) < recipe.batch_size:
                    break
                pixels = (images[rows].float() / 255 - mean) / std
                with autocast:
                    text: Any = model.get_text_features(input_ids[rows, : lengths[rows].max()])
                    image: Any = model.get_image_features(pixels)
                text, image = text.pooler_output.float(), image.pooler_output.float()
                loss = contrast(text, image, model.logit_scale, input_ids[rows])
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
                bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
                bar.update()
    results = {"loss": loss.item(), "seconds": time.perf_counter() - started, "precision": precision}
    results |= describe_environment()
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    with room_for(new):
        model.eval().save_pretrained(new)
        tokenizer.save_pretrained(new)
        save_recipe(recipe, new / "recipe.yaml")
        (new / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    replace_folder(new, folder)
    return model


def contrast(text: Tensor, image: Tensor, logit_scale: Tensor, input_ids: Tensor) -> Tensor:
    """CLIP's loss, except that pairs with the same phrase are all right answers: phrases repeat within a batch.

    `text` and `image` are features [B, D], `input_ids` those of the phrases [B, Nw].
    """
    normalize = torch.nn.functional.normalize
    logits = logit_scale.exp() * normalize(text, dim=-1) @ normalize(image, dim=-1).T
    same = (input_ids[:, None] == input_ids[None]).all(-1).float()
    target = same / same.sum(1, keepdim=True)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def _initialise_for_a_short_training(model: CLIPModel) -> None:
    """Starts the text encoder as a bag of words, and both encoders with embeddings that are seen.

    As CLIP draws its weights, the EOS token first hears little of the words, and after a minute of training opposite
    actions would still be read alike.
    """
    vision, text = model.vision_model.embeddings, model.text_model.embeddings
    vision.patch_embedding.weight.normal_(std=0.05)
    vision.position_embedding.weight.normal_(std=0.3)
    text.token_embedding.weight.normal_(std=0.3)
    text.position_embedding.weight.normal_(std=0.05)
    layer: Any  # modules name no types for what they hold
    for layer in model.text_model.encoder.layers:
        attention = layer.self_attn
        for projection in (attention.v_proj, attention.out_proj):
            projection.weight.normal_(std=2 * projection.in_features**-0.5)
        for projection in (attention.q_proj, attention.k_proj, layer.mlp.fc2):
            projection.weight.mul_(0.1)


def main() -> None:
    """The command line: a recipe and overrides."""
    pretrain_clip(load_recipe(sys.argv[1], sys.argv[2:], ClipRecipe))


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        sys.exit(print(__doc__))
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(run(main, "pretrain_clip", shlex.join(sys.argv), goes_on=False))
