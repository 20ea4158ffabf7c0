"""Tiny models of every head, shared by the tests of the peers."""

from typing import Any

import torch
from models import tiny_config

from modeling_glccl.peers import FIXED_CONFIG, HEADS

PEERS = [head for head in HEADS if head != "glccl"]
# Without dropout, so that two passes give the same.
OWN = {
    "glscl": {"num_queries": 3, "decoder_layers": 2, "decoder_dropout": 0, "local_in_evaluation": True},
    "xpool": {"pool_dropout": 0},
}
SHARED = ("clip_config", "max_words", "max_frames", "temporal_num_attention_heads", "temporal_num_hidden_layers")


def peer_config(head: str, **config) -> Any:
    """`tiny_config`, as the head's own configuration."""
    tiny = tiny_config()
    values = {name: getattr(tiny, name) for name in SHARED} | FIXED_CONFIG.get(head, {}) | OWN.get(head, {})
    config_class: Any = HEADS[head].config_class
    return config_class(**values | config)


def peer_model(head: str, seed: int = 0, **config) -> Any:
    """A model in evaluation mode whose every weight is noisy."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = HEADS[head](peer_config(head, **config)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model
