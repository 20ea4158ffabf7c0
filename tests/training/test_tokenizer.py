"""A CLIP tokenizer trained on captions."""

import pytest
from transformers import CLIPTokenizer

from modeling_glccl.training.tokenizer import train_clip_tokenizer

CAPTIONS = ["a red ball bounces", "a blue square slides", "the red square, then the blue ball!"] * 5


def test_the_vocabulary_is_laid_out_as_clips():
    tokenizer = train_clip_tokenizer(CAPTIONS, vocab_size=540)
    assert isinstance(tokenizer, CLIPTokenizer)
    assert len(tokenizer) == 540
    assert tokenizer.convert_ids_to_tokens([0, 256]) == ["!", "!</w>"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (538, 539)
    assert tokenizer("red")["input_ids"][0] == 538
    assert tokenizer("red")["input_ids"][-1] == 539


def test_frequent_words_become_one_token():
    tokenizer = train_clip_tokenizer(CAPTIONS, vocab_size=1000)
    assert 514 < len(tokenizer) < 1000, "these captions offer few merges"
    assert tokenizer.tokenize("RED square") == ["red</w>", "square</w>"]
    assert len(tokenizer.tokenize("zebra")) > 1


def test_any_text_is_known_and_comes_back():
    tokenizer = train_clip_tokenizer(CAPTIONS, vocab_size=514)
    for text in ["a red ball", "日本語", "emoji 😀 and ümläut", "x" * 50, "~`^\x7f"]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.eos_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_training_is_deterministic_and_cleans_the_captions():
    first, second = (train_clip_tokenizer(iter(CAPTIONS), vocab_size=560) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    assert "&amp" not in "".join(train_clip_tokenizer(["salt &amp; pepper"] * 9, vocab_size=600).get_vocab())


def test_a_vocabulary_too_small_for_the_bytes_is_refused():
    with pytest.raises(ValueError, match="vocab_size=513 is less than the 514 tokens"):
        train_clip_tokenizer(CAPTIONS, vocab_size=513)
