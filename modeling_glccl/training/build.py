"""A recipe's model and processor."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

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
    if settings.checkpoint:
        model = model_class.from_pretrained(settings.checkpoint, dtype=torch.float32, **config)
        tokenizer = GLCCLProcessor.from_pretrained(settings.checkpoint).tokenizer
    elif settings.clip:
        dtype = {"dtype": torch.float32}
        model = model_class.from_clip_pretrained(settings.clip, clip_kwargs=dtype, **config)
        tokenizer = CLIPTokenizer.from_pretrained(settings.clip)
    else:
        tokenizer = train_clip_tokenizer(captions, settings.vocab_size)
        model = model_class(model_class.config_class(**_with_vocabulary(config, tokenizer)))
    model.set_attn_implementation(settings.attn_implementation)

    frames = {"max_frames": model.config.max_frames, **recipe.data.processor}
    if settings.checkpoint:
        video_processor = GLCCLVideoProcessor.from_pretrained(settings.checkpoint, **frames)
    else:
        side = model.config.clip_config.vision_config.image_size
        video_processor = GLCCLVideoProcessor(**{"size": side, "crop_size": side, **frames})
    processor = GLCCLProcessor(
        tokenizer, video_processor, max_words=model.config.max_words, mask_padding=model.config.mask_padding
    )
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
