"""Complete tiny checkpoints: model and processor that fit each other."""

from collections.abc import Iterable
from pathlib import Path

import torch
from models import tiny_config

from modeling_glccl import GLCCLModel, GLCCLProcessor, GLCCLVideoProcessor
from modeling_glccl.training.tokenizer import token_ids, train_clip_tokenizer


def save_tiny_checkpoint(
    folder: Path, captions: Iterable[str], model_class=GLCCLModel, seed: int = 0, layers: int = 2, **config
) -> None:
    """Random weights of this seed, a tokenizer made of the captions, 4 frames of 16 pixels and at most 32 words."""
    tokenizer = train_clip_tokenizer(captions, vocab_size=600)
    clip = tiny_config().clip_config.to_dict()
    clip["text_config"] |= token_ids(tokenizer) | {"num_hidden_layers": layers}
    clip["vision_config"]["num_hidden_layers"] = layers
    values = {"clip_config": clip, "max_words": 32, "temporal_num_hidden_layers": layers}
    values = tiny_config(**values | config).to_dict()
    values.pop("model_type")
    torch.manual_seed(seed)
    model_class(model_class.config_class(**values)).save_pretrained(folder)
    GLCCLProcessor(tokenizer, GLCCLVideoProcessor(size=16, crop_size=16, max_frames=4)).save_pretrained(folder)
