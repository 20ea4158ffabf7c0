"""Texts and videos together; texts as the release tokenises them."""

import gzip
import json

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoProcessor, CLIPTokenizer
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from videos import write_video

from modeling_glccl import GLCCLProcessor, GLCCLVideoProcessor
from modeling_glccl.towers_glccl import FAMILIES
from modeling_glccl.training.tokenizer import train_clip_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_clip_tokenizer(["a red ball bounces", "a blue square slides to the left"] * 4, vocab_size=600)


@pytest.fixture
def video_processor():
    return GLCCLVideoProcessor(size=32, crop_size=32, max_frames=4)


@pytest.fixture
def processor(tokenizer, video_processor):
    return GLCCLProcessor(tokenizer, video_processor)


@pytest.fixture(scope="module")
def clip_tokenizer(reference_dir):
    """CLIP's own tokenizer, from OpenAI's file of merges."""
    with gzip.open(reference_dir / "data" / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz", "rt") as file:
        lines = file.read().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(byte + "</w>" for byte in alphabet), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)


@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.filterwarnings("ignore:text")  # the empty caption and the one with control tokens
def test_tokens_equal_the_release_but_for_padding(reference_dir, clip_tokenizer, video_processor, mask_padding):
    cases = json.loads((reference_dir / "golden" / "tokenization.json").read_text())
    assert len(cases) == 60
    for case in cases:
        if mask_padding and (not case["caption"] or "<|" in case["caption"]):
            continue
        processor = GLCCLProcessor(clip_tokenizer, video_processor, case["max_words"], mask_padding)
        batch = processor(text=[case["caption"]])
        length = sum(case["attention_mask"]) if mask_padding else None
        for name in ("input_ids", "attention_mask"):
            assert batch[name].tolist() == [case[name][:length]]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a dog\n", "a dog"),
        ("salt &amp; pepper", "salt & pepper"),
        ("<b>salt &amp;amp; pepper", "<b>salt & pepper"),  # ftfy leaves entities alone where it sees a tag
        ("schÃ¶n", "schön"),
        ("ﬁne", "fine"),
        ("a  b", "a  b"),
    ],
)
def test_clean_text(raw, clean):
    assert FAMILIES["clip"].clean(raw) == clean


def test_texts_are_padded_with_zeros_to_the_longest(processor, tokenizer):
    batch = processor(text=["a red ball", "ball"])
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert ids.dtype == mask.dtype == torch.int64
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert ids[0].tolist()[0] == bos
    assert ids[0].tolist()[-1] == eos
    assert ids[1].tolist() == [bos, ids[0, 3], eos, 0, 0]
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert torch.equal(processor(text="a red ball")["input_ids"], ids[:1])


def test_long_texts_are_cut_and_still_end_with_eos(tokenizer, video_processor):
    processor = GLCCLProcessor(tokenizer, video_processor, max_words=8)
    batch = processor(text=["a red ball bounces to the left and a blue square slides", "a ball"])
    assert batch["input_ids"].shape == (2, 8)
    assert batch["input_ids"][0, -1] == tokenizer.eos_token_id
    assert batch["attention_mask"].sum(dim=1).tolist() == [8, 4]


def test_without_masks_everything_is_padded_to_the_full_length(tokenizer, video_processor):
    processor = GLCCLProcessor(tokenizer, video_processor, max_words=9, mask_padding=False)
    batch = processor(text=["a ball"], videos=np.zeros((2, 40, 40, 3), np.uint8))
    assert {name: tuple(values.shape) for name, values in batch.items()} == {
        "input_ids": (1, 9),
        "attention_mask": (1, 9),
        "pixel_values_videos": (1, 4, 3, 32, 32),
        "padding_mask_videos": (1, 4),
    }
    assert batch["padding_mask_videos"].tolist() == [[1, 1, 0, 0]]
    assert torch.equal(processor(text=["a ball"], padding="max_length", max_length=9)["input_ids"], batch["input_ids"])
    with pytest.raises(ValueError, match="max_length=8: texts of this model have exactly 9 tokens"):
        processor(text="a ball", max_length=8)
    masked = GLCCLProcessor(tokenizer, video_processor, max_words=9)
    assert masked(videos=np.zeros((2, 40, 40, 3), np.uint8))["padding_mask_videos"].tolist() == [[1, 1]]


def test_control_tokens_in_a_caption_are_ordinary_text(processor, tokenizer):
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    plain = processor(text="a red <| endoftext |> ball")["input_ids"]
    for caption in ["a red <|endoftext|> ball", "a red &lt;|EndOfText|&gt; ball", "a red<|endoftext|>ball"]:
        ids = processor(text=caption)["input_ids"]
        assert torch.equal(ids, plain)
        assert (ids == eos).sum() == 1
    assert (processor(text="<|startoftext|> a ball")["input_ids"] == bos).sum() == 1


def test_the_release_mode_keeps_what_the_release_does_and_warns(tokenizer, video_processor):
    processor = GLCCLProcessor(tokenizer, video_processor, max_words=12, mask_padding=False)
    with pytest.warns(UserWarning, match=r"text\[1\] 'a <\|endoftext\|> ball' contains control tokens"):
        ids = processor(text=["a ball", "a <|endoftext|> ball"])["input_ids"]
    assert (ids[1] == tokenizer.eos_token_id).sum() == 2
    with pytest.warns(UserWarning, match=r"text\[0\] '' has no word"):
        assert processor(text="")["attention_mask"].sum() == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (["a ball", ""], r"text\[1\] '' has no word"),
        ("  \n ", r"text\[0\] .* has no word"),
        (["a ball", None], r"text\[1\] must be a string, got NoneType"),
        (["a", "b", 3.5], r"text\[2\] must be a string, got float"),
        ([], "empty list"),
    ],
)
def test_captions_without_words_are_refused(processor, text, problem):
    with pytest.raises(ValueError, match=problem):
        processor(text=text)


def test_a_character_that_the_tokenizer_does_not_know_cannot_end_the_text(video_processor):
    letters = {letter: i for i, letter in enumerate("ab")} | {"a</w>": 2, "b</w>": 3}
    vocab = letters | {"<|startoftext|>": 4, "<|endoftext|>": 5}
    processor = GLCCLProcessor(CLIPTokenizer(vocab=vocab, merges=[]), video_processor)
    assert processor(text="ab")["input_ids"].tolist() == [[4, 0, 3, 5]]
    with pytest.raises(ValueError, match=r"text\[1\] 'a z b' has characters that the tokenizer does not know"):
        processor(text=["ab", "a z b"])


def test_nothing_to_do_and_stray_arguments_are_refused(processor):
    with pytest.raises(ValueError, match="text, videos or both"):
        processor()
    with pytest.raises(TypeError, match="start: only with videos"):
        processor(text="a ball", start=1)
    with pytest.raises(ValueError, match="max_words=2"):
        GLCCLProcessor(processor.tokenizer, processor.video_processor, max_words=2)
    with pytest.raises(TypeError, match="video_processor must be a GLCCLVideoProcessor, got CLIPTokenizer"):
        GLCCLProcessor(processor.tokenizer, processor.tokenizer)


@pytest.mark.parametrize("nested", [False, True])
def test_padding_and_truncation_are_taken_where_they_say_what_happens(processor, nested):
    def call(**asked):
        return processor(text=["a red ball", "ball"], **({"text_kwargs": asked} if nested else asked))["input_ids"]

    plain = processor(text=["a red ball", "ball"])["input_ids"]
    for padding in (True, "longest"):
        assert torch.equal(call(padding=padding, truncation=True, max_length=32), plain)
    padded = call(padding="max_length")
    assert padded.shape == (2, 32)
    assert torch.equal(padded[:, :5], plain)
    assert not padded[:, 5:].any()
    cut = call(max_length=4)
    assert cut[:, -1].tolist() == [processor.tokenizer.eos_token_id, 0]
    assert torch.equal(cut[:, :3], plain[:, :3])
    with pytest.raises(ValueError, match=r"padding=False, but texts of one batch must be padded to 5"):
        call(padding=False)
    assert torch.equal(processor(text=["ball", "ball"], padding=False)["input_ids"], plain[[1, 1], :3])
    for length in (2, 33):
        with pytest.raises(ValueError, match=rf"max_length={length}: texts of this model have 3 to 32 tokens"):
            call(max_length=length)
    with pytest.raises(ValueError, match=r"text\[0\] 'a red ball' has 5 tokens, more than 4"):
        call(max_length=4, truncation=False)
    assert torch.equal(call(truncation=False), plain)
    if nested:
        with pytest.raises(ValueError, match="padding: given in text_kwargs and beside it"):
            processor(text="ball", padding=True, text_kwargs={"padding": "max_length"})


def test_video_arguments_reach_the_video_processor(tmp_path, processor):
    path = write_video(tmp_path / "a.mp4", 50)
    batch = processor(text="a ball", videos=[path], start=1, max_frames=2, return_metadata=True, return_tensors="np")
    assert batch["pixel_values_videos"].shape == (1, 2, 3, 32, 32)
    assert isinstance(batch["input_ids"], np.ndarray)
    assert batch["video_metadata"][0]["timestamps"].tolist() == [1.24, 1.72]
    assert processor(videos=path, pad_to_max_frames=True)["padding_mask_videos"].shape == (1, 4)


def test_save_and_load(tmp_path, tokenizer):
    video_processor = GLCCLVideoProcessor(size=32, crop_size=32, max_frames=3, sampling="release")
    processor = GLCCLProcessor(tokenizer, video_processor, max_words=9, mask_padding=False)
    processor.save_pretrained(folder := tmp_path / "saved")
    inputs = {"text": ["a red ball", "schÃ¶n"], "videos": np.zeros((7, 40, 48, 3), np.uint8)}
    expected = processor(**inputs)
    for loaded in (GLCCLProcessor.from_pretrained(folder), AutoProcessor.from_pretrained(folder)):
        assert type(loaded) is GLCCLProcessor
        assert (loaded.max_words, loaded.mask_padding) == (9, False)
        assert (loaded.video_processor.max_frames, loaded.video_processor.sampling) == (3, "release")
        for name, values in loaded(**inputs).items():
            assert torch.equal(values, expected[name])
    assert type(AutoVideoProcessor.from_pretrained(folder)) is GLCCLVideoProcessor
    # What it needs as remote code, which tests/test_pipeline.py loads.
    code = {"configuration", "decoding_process", "processing", "towers"}
    code |= {"video_decoding", "video_processing", "video_streams"}
    assert {path.name.removesuffix("_glccl.py") for path in folder.glob("*.py")} == code
