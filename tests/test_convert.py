"""Conversion of the release's checkpoints and of OpenAI CLIP state dicts."""

import os

import pytest
import torch
from models import tiny_config, tiny_model, tiny_text, tiny_video
from paths import TESTS
from safetensors.torch import load_file, save_file

from modeling_glccl import GLCCLModel, GLCCLProcessor
from modeling_glccl.cli import main
from modeling_glccl.convert_glccl_original_to_hf import (
    convert_original_checkpoint,
    load_original_state_dict,
    to_original_names,
)
from modeling_glccl.training.tokenizer import train_clip_tokenizer

GOLDEN = TESTS / "golden"
TOKENS = "clip.token_embedding.weight"


@pytest.fixture(scope="module")
def release():
    return load_file(GOLDEN / "glccl_weights_s0.safetensors")


def other_sizes():
    """A model whose every size differs from the golden case, in the release's names."""
    clip = tiny_config().clip_config.to_dict()
    vision = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 96, "num_hidden_layers": 1}
    clip["vision_config"] |= vision | {"patch_size": 4, "image_size": 12}
    text = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 80, "num_hidden_layers": 3}
    clip["text_config"] |= text | {"max_position_embeddings": 20}
    clip["projection_dim"] = 64
    model = tiny_model(
        clip_config=clip, max_words=5, temporal_num_attention_heads=1, temporal_num_hidden_layers=2, mask_padding=False
    )
    return model, to_original_names(model.state_dict(), model.config)


def assert_same_weights(model, other):
    other = dict(other.named_parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(weight, other[name]), name


def test_the_release_and_back_is_bit_equal(release):
    model = convert_original_checkpoint(release, csc_weight=0.5)
    back = to_original_names(model.state_dict(), model.config)
    assert set(release) - set(back) == {"visual_logit_weight"}
    assert all(torch.equal(back[name], release[name]) for name in back)
    config = model.config
    assert (config.max_words, config.max_frames, config.csc_weight) == (8, 6, 0.5)
    assert (config.mask_padding, config.temporal_layer_norm_eps, config.eos_token_id) == (False, 1e-12, 511)
    assert not model.training


def test_every_size_comes_from_the_tensors():
    model, original = other_sizes()
    converted = convert_original_checkpoint({**original, "visual_logit_weight": torch.eye(9)})
    assert_same_weights(converted, model)
    assert converted.config.max_frames == 9
    text, vision = converted.config.clip_config.text_config, converted.config.clip_config.vision_config
    assert (text.num_attention_heads, vision.num_attention_heads, vision.image_size) == (3, 2, 12)
    texts, videos = tiny_text([5, 3]), tiny_video([2, 1])
    videos["pixel_values_videos"] = videos["pixel_values_videos"][..., :12, :12]
    assert torch.equal(converted(**texts, **videos).logits_per_text, model(**texts, **videos).logits_per_text)


def test_data_parallel_prefix_half_precision_and_scalars(release):
    state = {f"module.{name}": weight.half() for name, weight in release.items()}
    state |= {f"module.clip.{name}": torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    model = convert_original_checkpoint(state)
    assert_same_weights(
        model, convert_original_checkpoint({name: weight.half().float() for name, weight in release.items()})
    )
    assert model.dtype == torch.float32


@pytest.mark.parametrize("prefix", ["", "clip."])
def test_openai_clip_starts_a_model(prefix):
    openai = load_file(GOLDEN / "clip_init_s0.safetensors")
    state = {prefix + name: weight for name, weight in openai.items()}
    state |= {prefix + name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    model = convert_original_checkpoint(state, max_words=8, max_frames=6)
    back = to_original_names(model.state_dict(), model.config)
    expected = load_file(GOLDEN / "glccl_init_nonclip_s0.safetensors")
    expected |= {f"clip.{name}": weight for name, weight in openai.items()}
    assert all(torch.equal(back[name], expected[name]) for name in back)
    assert model.config.mask_padding


def test_unknown_and_missing_names_are_all_listed(release):
    state = dict(release)
    for name in ("word_mat_weight", "clip.visual.proj", "transformerClip.resblocks.2.ln_1.bias"):
        state[name + "_renamed"] = state.pop(name)
    with pytest.raises(ValueError, match="unknown names") as error:
        convert_original_checkpoint(state)
    unknown, missing = str(error.value).splitlines()[1:]
    names = ["clip.visual.proj", "transformerClip.resblocks.2.ln_1.bias", "word_mat_weight"]
    assert unknown == "unknown names: " + ", ".join(name + "_renamed" for name in names)
    assert missing == "missing names: " + ", ".join(names)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda _: {}, {}, r"unknown names: none\nmissing names: .*visual\.conv1\.weight"),
        (lambda _: tiny_model().clip.state_dict(), {}, "from_clip_pretrained"),
        (lambda state: state | {"epoch": 3, "optimizer": {}}, {}, "epoch, optimizer"),
        (
            lambda state: state | {"word_mat_weight2": torch.eye(9), "clip.visual.proj": torch.zeros(64, 32)},
            {},
            r"(?s)clip.visual.proj \(64, 32\).*word_mat_weight2 \(9, 9\)",
        ),
        (lambda state: state, {"max_words": 32}, "max_words=32, but the tensors of this checkpoint say 8"),
        (lambda state: state, {"temporal_num_hidden_layers": 5}, "temporal_num_hidden_layers=5"),
        (lambda state: state | {"clip.visual.positional_embedding": torch.zeros(16, 64)}, {}, "15 patch positions"),
    ],
)
def test_what_is_no_checkpoint_or_does_not_fit_is_named(release, change, config, message):
    with pytest.raises(ValueError, match=message):
        convert_original_checkpoint(change(release), **config)


@pytest.mark.parametrize("name", ["pytorch_model.bin.4", "weights.safetensors"])
def test_the_command_line_writes_a_checkpoint(release, tmp_path, capsys, name):
    def save(weights):
        (save_file if name.endswith(".safetensors") else torch.save)(weights, tmp_path / name)

    tokenizer, output, embedding = train_clip_tokenizer(["a red star"], 600), tmp_path / "converted", release[TOKENS]
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    options = ["--csc-weight", "0.5", "--max-frames", "3", "--tokenizer", str(tmp_path / "tokenizer")]
    options += ["--mask-padding"] if name.endswith(".4") else []
    save(release)
    assert main(["convert", str(tmp_path / name), str(output), *options]) == 1
    assert f"tokenizer: the tokenizer has {len(tokenizer)} tokens and ends texts with" in capsys.readouterr().err
    assert not output.exists()
    release = release | {TOKENS: torch.cat([embedding, embedding[: len(tokenizer) - len(embedding)]])}
    save(release)
    assert main(["convert", str(tmp_path / name), str(output), *options]) == 0
    model = GLCCLModel.from_pretrained(output)
    assert_same_weights(model, convert_original_checkpoint(release))
    assert (model.config.csc_weight, model.config.max_frames, model.config.max_words) == (0.5, 3, 8)
    assert "max_words=8" in capsys.readouterr().out
    processor = GLCCLProcessor.from_pretrained(output)
    assert processor.max_words == 8
    assert processor.mask_padding == model.config.mask_padding == name.endswith(".4")
    sampling = "uniform" if name.endswith(".4") else "release"
    assert (processor.video_processor.max_frames, processor.video_processor.sampling) == (3, sampling)
    assert processor.video_processor.crop_size == model.config.clip_config.vision_config.image_size


def test_the_command_says_in_a_line_what_cannot_be_converted(tmp_path, capsys):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:20])
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe.bin")
    for name, message in (
        ("pipe.bin", "pipe.bin is not a regular file: name the file of weights"),
        ("x.safetensors", "unknown names: x; missing names: "),
        ("cut.safetensors", "cut.safetensors is damaged or cut"),
        ("clip", "clip needs no conversion: a folder with a config.json, of a plain CLIP too, works as it is"),
        (".", "name the file of weights in it"),
        ("none.bin", "none.bin: No such file or directory"),
    ):
        assert main(["convert", str(tmp_path / name), str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert error.startswith("glccl convert: error: ")
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


class Custom:
    """Something that only an unsafe load would rebuild."""


def test_files_that_need_more_than_weights_are_refused(tmp_path):
    torch.save({"weights": Custom()}, tmp_path / "pickle.bin")
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "archive.pt")
    (tmp_path / "text.bin").write_text("version https://git-lfs.github.com/spec/v1")
    (tmp_path / "empty.bin").touch()
    for file in tmp_path.iterdir():
        with pytest.raises(ValueError, match=rf"{file.name} is no file of plain weights.*state_dict"):
            load_original_state_dict(file)
    torch.save([torch.zeros(1)], tmp_path / "list.bin")
    with pytest.raises(ValueError, match="holds a list, not a state dict"):
        load_original_state_dict(tmp_path / "list.bin")
