"""A CLIP tokenizer trained on captions, for runs that start from no pretrained one."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from ..towers_glccl import FAMILIES

END_OF_WORD = "</w>"


def train_clip_tokenizer(captions: Iterable[str], vocab_size: int = 1024) -> CLIPTokenizer:
    """Learns byte-pair merges from captions and lays out the vocabulary as CLIP's.

    Ids: 256 bytes, 256 bytes that end a word, the merges in the order learnt, BOS, EOS. As every byte is known, no
    text is unknown; models that look for the highest id find EOS. `vocab_size`, at least 514, is the most: there are
    fewer tokens if the captions offer fewer merges.
    """
    alphabet = sorted(ByteLevel.alphabet())
    tokens = alphabet + [byte + END_OF_WORD for byte in alphabet]
    if vocab_size < len(tokens) + 2:
        raise ValueError(f"vocab_size={vocab_size} is less than the {len(tokens) + 2} tokens for bytes, BOS and EOS")

    clip = CLIPTokenizer()
    learner = Tokenizer(BPE(end_of_word_suffix=END_OF_WORD))
    learner.normalizer = clip.backend_tokenizer.normalizer
    learner.pre_tokenizer = clip.backend_tokenizer.pre_tokenizer
    # Equally frequent merges are ordered by token id: with all ids given from the start, every run learns the same.
    trainer = BpeTrainer(
        vocab_size=vocab_size - 2, special_tokens=tokens, end_of_word_suffix=END_OF_WORD, show_progress=False
    )
    learner.train_from_iterator(map(FAMILIES["clip"].clean, captions), trainer)
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    # Two merges can make the same token: it is listed once.
    tokens = dict.fromkeys([*tokens, *map("".join, merges), str(clip.bos_token), str(clip.eos_token)])
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges)  # pyright: ignore[reportArgumentType]


def token_ids(tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """What the configuration of a text tower says of its tokenizer."""
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return {"vocab_size": len(tokenizer), **ids}
