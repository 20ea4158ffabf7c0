"""A recipe's model and processor."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..checkpoints import load_checkpoint
from ..modeling_glccl import GLCCLModel
from ..peers.heads import FIXED_CONFIG, HEADS
from ..processing_glccl import GLCCLProcessor
from ..video_processing_glccl import GLCCLVideoProcessor
from .recipe import Recipe
from .tokenizer import train_clip_tokenizer


def build_model(recipe: Recipe, captions: Iterable[str]) -> tuple[GLCCLModel, GLCCLProcessor]:
    """The model, in float32, and its processor: from a GLCCL checkpoint, from CLIP, or from scratch.

    Args:
        recipe: its `model` says where the weights start, its `data.processor` how frames are prepared.
        captions: the training captions, of which a tokenizer is made where no pretrained one is given.
    """
    settings, model_class = recipe.model, HEADS[recipe.model.head]
    config = settings.config | FIXED_CONFIG.get(settings.head, {})
    frames = recipe.data.processor
    if settings.checkpoint:
        model, processor = load_checkpoint(settings.checkpoint, **config)
        if type(model) is not model_class:
            raise ValueError(
                f"model.checkpoint={settings.checkpoint} is a {type(model).__name__}, but model.head={settings.head}"
            )
        model = model.float()
        model.config.zero_shot = False
        processor.max_words, processor.mask_padding = model.config.max_words, model.config.mask_padding
        frames = {"max_frames": model.config.max_frames, **frames}
        processor.video_processor = GLCCLVideoProcessor.from_dict(processor.video_processor.to_dict(), **frames)
    elif settings.clip:
        model = model_class.from_clip_pretrained(settings.clip, clip_kwargs={"dtype": torch.float32}, **config)
        processor = GLCCLProcessor.from_clip_pretrained(settings.clip, model.config, **frames)
    else:
        tokenizer = train_clip_tokenizer(captions, settings.vocab_size)
        model = model_class(model_class.config_class(**_with_vocabulary(config, tokenizer)))
        side = model.config.clip_config.vision_config.image_size
        values = {"size": side, "crop_size": side, "max_frames": model.config.max_frames, **frames}
        processor = GLCCLProcessor(
            tokenizer,
            GLCCLVideoProcessor(**values),
            max_words=model.config.max_words,
            mask_padding=model.config.mask_padding,
        )
    model.set_attn_implementation(settings.attn_implementation)
    return model, processor


def _with_vocabulary(values: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Configuration values, the text encoder with the tokenizer's vocabulary."""
    clip = values.get("clip_config") or {}
    vocabulary = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    clip = clip | {"text_config": clip.get("text_config", {}) | vocabulary}
    return values | {"clip_config": clip}
