"""Plain checkpoints of every family that GLCCL takes: tiny, random, with tokenizer and image settings."""

import json
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipModel,
    XLMRobertaTokenizer,
)

from modeling_glccl.training.tokenizer import token_ids, train_clip_tokenizer

FAMILY_NAMES = ("clip", "gelu_clip", "metaclip_2", "siglip")
LETTERS = "abcdefghijklmnopqrstuvwxyz,.'"
_TEXT = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION = {**_TEXT, "intermediate_size": 64, "image_size": 16, "patch_size": 8}


def plain_model(name: str, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model of transformers in evaluation mode whose every weight is noisy, and its tokenizer."""
    torch.manual_seed(seed)
    if name == "metaclip_2":
        pieces = [(special, 0.0) for special in ("<s>", "<pad>", "</s>", "<unk>")]
        pieces += [(piece, -2.0) for piece in ("▁", *LETTERS, *("▁" + letter for letter in LETTERS))]
        tokenizer = XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)])
        text = {**_TEXT, "vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 2}
        model = MetaClip2Model(MetaClip2Config(text_config=text, vision_config=_VISION, projection_dim=32))
    elif name == "siglip":
        pieces = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS)
        tokenizer = Siglip2Tokenizer(
            vocab={piece: place for place, piece in enumerate(pieces)}, merges=[], padding_side="right"
        )
        text = {**_TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 24}
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=_VISION))
    else:
        tokenizer = train_clip_tokenizer(["a red ball rolls", "two dogs run"], vocab_size=540)
        text = {**_TEXT, **token_ids(tokenizer), "max_position_embeddings": 77, "pad_token_id": 0}
        activation = {"hidden_act": "gelu" if name == "gelu_clip" else "quick_gelu"}
        config = CLIPConfig(text_config=text | activation, vision_config=_VISION | activation, projection_dim=32)
        model = CLIPModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    return model.eval(), tokenizer


def save_plain(name: str, folder: Path, seed: int = 0) -> Path:
    """A folder as it comes from the Hub: model, tokenizer and the settings of the family's image processor."""
    model, tokenizer = plain_model(name, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if name == "siglip":
        images = {"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    else:
        images = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, "resample": 3}
        images |= {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return folder


def save_deep_clip(folder: Path, captions: list[str]) -> Path:
    """A tiny random CLIP with the four text layers that a temporal encoder of four starts from, and its tokenizer."""
    tokenizer = train_clip_tokenizer(captions, vocab_size=600)
    width = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1}
    text = {**width, **token_ids(tokenizer), "num_hidden_layers": 4}
    vision = {**width, "num_hidden_layers": 1, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
