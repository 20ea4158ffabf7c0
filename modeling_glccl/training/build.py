"""What a recipe describes: its data, as splits and batches, its model and its processor."""

import os
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, cast

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import DataLoader

from ..checkpoints import MODELS, check_checkpoint, load_checkpoint
from ..configuration_glccl import GLCCLConfig
from ..data import load_benchmark
from ..data.collate import RetrievalCollator, part_quietly
from ..data.frame_cache import with_frame_cache
from ..data.group_sampler import GroupSampler
from ..modeling_glccl import GLCCLModel
from ..packaged import install_line
from ..peers import FIXED_CONFIG, HEADS
from ..processing_glccl import GLCCLProcessor
from ..video_processing_glccl import GLCCLVideoProcessor
from .recipe import Recipe
from .tokenizer import token_ids, train_clip_tokenizer


def check_start(recipe: Recipe) -> None:
    """Refuses a recipe whose model or folders are not there, or something else, before anything takes long."""
    settings, cache_dir = recipe.model, recipe.data.frame_cache_dir
    if recipe.train.lora_rank and not find_spec("peft"):
        raise ValueError(f"train.lora_rank={recipe.train.lora_rank} needs PEFT: {install_line('peft')}")
    if cache_dir and os.path.isfile(cache_dir):
        raise ValueError(f"data.frame_cache_dir={cache_dir} is a file; it must be a folder, or none yet")
    for key, name in (("model.clip", settings.clip), ("model.checkpoint", settings.checkpoint)):
        if not name:
            continue
        try:
            model_class = MODELS.get(check_checkpoint(name))
        except (ValueError, FileNotFoundError) as error:
            # recipes/shapes.yaml starts from the CLIP of recipes/shapes_clip.yaml.
            hint = "; `glccl train-demo` trains this CLIP first" if name == "runs/shapes/clip" else ""
            raise type(error)(f"{key}: {error}{hint}") from error
        if key == "model.clip" and model_class:
            raise ValueError(f"model.clip={name} is a {model_class.__name__}: use model.checkpoint={name} instead")
        if key == "model.checkpoint" and (model_class or GLCCLModel) is not HEADS[settings.head]:
            found = (model_class or GLCCLModel).__name__
            raise ValueError(f"model.checkpoint={name} is a {found}, but model.head={settings.head}")


def load_splits(recipe: Recipe) -> dict[str, Dataset]:
    """The recipe's splits under the names "train", "validation" and "test"; absent ones are left out.

    So is "validation" where it is the test split: nothing then passes for a validation result that is none.
    """
    data = recipe.data
    validation_split = None if data.selects_on_test else data.validation_split
    names = {"train": data.train_split, "validation": validation_split, "test": data.test_split}
    return {
        role: load_benchmark(data.benchmark, data_dir=data.data_dir, repo_id=data.repo_id, split=name, **data.options)
        for role, name in names.items()
        if name
    }


def cache_frames(
    recipe: Recipe, splits: dict[str, Dataset], processor: GLCCLProcessor, accelerator: Accelerator
) -> dict[str, Dataset]:
    """The splits with frames in place of videos, if the recipe asks for it. Every process decodes its share."""
    data = recipe.data
    if not data.frame_cache:
        return splits
    assert data.frame_cache_dir, "the recipe was checked"
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE") or accelerator.num_processes)
    return {
        role: with_frame_cache(
            split,
            processor,
            data.frame_cache_dir,
            data.frame_cache,
            num_proc=max(1, (os.cpu_count() or 1) // processes_here),  # nothing else runs yet
            progress=accelerator.is_main_process,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
        )
        for role, split in splits.items()
    }


def check_batches(recipe: Recipe, split: Dataset, num_processes: int) -> None:
    """Refuses a training split that the recipe's batches cannot be made of, before its videos are decoded."""
    batch_size, group_by = recipe.train.pairs_per_process(num_processes), recipe.data.group_by
    if len(split) < batch_size * num_processes:
        size = "batch_size" if recipe.train.total_batch_size is None else "total_batch_size"
        raise ValueError(
            f"the training split has {len(split)} pairs but one step takes {num_processes} x {batch_size}: "
            f"lower train.{size}"
        )
    if group_by and group_by not in split.column_names:
        raise ValueError(f"data.group_by={group_by}: the training split has no such column, but {split.column_names}")


def build_loader(recipe: Recipe, split: Dataset, processor: GLCCLProcessor, num_processes: int) -> DataLoader:
    """Batches of the training split, each for one process."""
    group_by = recipe.data.group_by
    return DataLoader(
        split,  # pyright: ignore[reportArgumentType]
        recipe.train.pairs_per_process(num_processes),
        shuffle=group_by is None,
        sampler=GroupSampler(split[group_by], recipe.seed) if group_by else None,
        drop_last=True,  # the losses of a smaller batch are not comparable, and CSC needs two pairs
        collate_fn=RetrievalCollator(processor),
        num_workers=recipe.data.num_workers,
        worker_init_fn=part_quietly,
        # Without its own generator every new iterator draws from the global one, and a resumed run has one more.
        generator=torch.Generator(),
    )


def build_model(recipe: Recipe, captions: Iterable[str]) -> tuple[GLCCLModel, GLCCLProcessor]:
    """The model, in float32, and its processor: from a GLCCL checkpoint, from CLIP, or from scratch.

    Of `captions`, those of the training, a tokenizer is made where no pretrained one is given.
    """
    settings, model_class = recipe.model, HEADS[recipe.model.head]
    config: dict[str, Any] = settings.config | FIXED_CONFIG.get(settings.head, {})
    frames = recipe.data.processor
    if settings.checkpoint:
        model, processor = load_checkpoint(settings.checkpoint, **config)
        model.config.zero_shot = False
        processor.max_words, processor.mask_padding = model.config.max_words, model.config.mask_padding
        frames = {"max_frames": model.config.max_frames, **frames}
        processor.video_processor = GLCCLVideoProcessor.from_dict(processor.video_processor.to_dict(), **frames)
    elif settings.clip:
        model = model_class.from_clip_pretrained(settings.clip, clip_kwargs={"dtype": torch.float32}, **config)
        processor = GLCCLProcessor.from_clip_pretrained(settings.clip, model.config, **frames)
    else:
        tokenizer = train_clip_tokenizer(captions, settings.vocab_size)
        clip = config.get("clip_config") or {}
        config["clip_config"] = clip | {"text_config": clip.get("text_config", {}) | token_ids(tokenizer)}
        config_class = cast(type[GLCCLConfig], model_class.config_class)
        model = model_class(config_class(**config))
        side = model.config.clip_config.vision_config.image_size
        values = {"size": side, "crop_size": side, "max_frames": model.config.max_frames, **frames}
        videos = GLCCLVideoProcessor(**values)
        processor = GLCCLProcessor(tokenizer, videos, model.config.max_words, model.config.mask_padding)
    model.set_attn_implementation(settings.attn_implementation)
    return model, processor
