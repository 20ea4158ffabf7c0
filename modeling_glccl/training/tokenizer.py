"""A CLIP tokenizer trained on captions, for runs that start from no pretrained one."""

import json
from collections.abc import Iterable

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
    text is unknown; and as EOS has the highest id, models that look for the highest id find it too. There are
    `vocab_size` tokens at most, which is at least 514, and fewer if the captions offer fewer merges.
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
