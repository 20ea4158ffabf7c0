"""What a name can stand for: every checkpoint loads whole, and everything else gets its one error."""

import json
import shutil

import pytest
import torch
from checkpoints import save_tiny_checkpoint
from families import plain_model, save_plain
from huggingface_hub import constants
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel
from transformers.utils import logging

from modeling_glccl import GLCCLModel, GLCCLProcessor
from modeling_glccl.checkpoints import load_checkpoint, place
from modeling_glccl.cli import main
from modeling_glccl.model_card import make_card
from modeling_glccl.peers import GLSCLModel, XCLIPModel
from modeling_glccl.training.tokenizer import train_clip_tokenizer


@pytest.fixture
def checkpoint(checkpoint, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(checkpoint, tmp_path / "glccl")


@pytest.fixture
def clip(tmp_path):
    return save_plain("clip", tmp_path / "clip")


@pytest.fixture
def siglip(tmp_path):
    return save_plain("siglip", tmp_path / "siglip")


def change_json(file, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_checkpoint_loads_with_the_class_it_was_saved_from(checkpoint, tmp_path):
    model, processor = load_checkpoint(checkpoint)
    assert (type(model), type(processor), model.training) == (GLCCLModel, GLCCLProcessor, False)
    save_tiny_checkpoint(tmp_path / "xclip", ["a ball"], XCLIPModel, csc_weight=0)
    assert type(load_checkpoint(tmp_path / "xclip")[0]) is XCLIPModel


@pytest.mark.parametrize("shown", [True, False])
def test_loading_shows_no_bar_and_leaves_those_of_others_as_they_are(checkpoint, shown, capsys):
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    try:
        capsys.readouterr()
        load_checkpoint(checkpoint)
        assert "%" not in capsys.readouterr().err
        assert (logging.is_progress_bar_enabled(), are_progress_bars_disabled()) == (shown, not shown)
    finally:
        logging.enable_progress_bar()


@pytest.mark.parametrize("saved", [torch.bfloat16, torch.float16])
def test_the_hardware_decides_the_precision_and_not_the_file(checkpoint, saved, monkeypatch, capsys):
    GLCCLModel.from_pretrained(checkpoint).to(saved).save_pretrained(checkpoint)
    assert load_file(checkpoint / "model.safetensors")["clip.logit_scale"].dtype == saved
    model, _ = load_checkpoint(checkpoint)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    for products, dtype, name in ((False, torch.float32, "fp32"), (True, torch.bfloat16, "bf16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=products: {"avx512_bf16": has}, raising=False)
        place(model, "cpu")
        assert {weight.dtype for weight in model.parameters()} == {dtype}
        assert capsys.readouterr().err.endswith(f"computing on cpu in {name}\n")
    place(model, "cpu", "fp16")
    assert model.dtype == torch.float16
    for name in ("gpu", "meta"):
        with pytest.raises(ValueError, match=f"device='{name}' cannot be used"):
            place(model, name)


def test_values_of_the_configuration_can_be_given(checkpoint, clip):
    for folder in (checkpoint, clip):
        model, processor = load_checkpoint(folder, max_frames=7, glim_temperature=9.0)
        assert model.config.glim_temperature == 9.0
        assert model.config.max_frames == processor.video_processor.max_frames == 7
    model, processor = load_checkpoint(clip, max_words=8)
    assert model.config.max_words == processor.max_words == 8


def test_a_plain_clip_says_in_one_line_what_it_becomes(clip, caplog, capsys):
    load_checkpoint(clip)
    (message,) = caplog.messages
    assert message.startswith(f"{clip} is a plain clip model: used as zero-shot GLCCL")
    assert main(["info", str(clip)]) == 0
    assert "zero-shot (nothing but CLIP was trained)" in capsys.readouterr().out


def test_a_plain_clip_without_image_settings_takes_the_familys(siglip):
    settings = siglip / "preprocessor_config.json"
    settings.write_text(settings.read_text()[:-5])
    with pytest.raises(ValueError, match=r"preprocessor_config\.json cannot be read"):
        load_checkpoint(siglip)  # damaged ones are no missing ones
    settings.unlink()
    videos = load_checkpoint(siglip)[1].video_processor
    assert (videos.crop_size, videos.keep_aspect_ratio, videos.image_mean) == (16, False, [0.5] * 3)


# Damaged or incomplete


@pytest.mark.parametrize("kind", ["glccl", "clip"])
def test_a_missing_misshapen_or_infinite_tensor_is_named(kind, checkpoint, clip, capfd):
    folder, prefix = (checkpoint, "clip.") if kind == "glccl" else (clip, "")
    good = load_file(folder / "model.safetensors")
    scale, text, image = (
        f"{prefix}{name}" for name in ("logit_scale", *map("{}_projection.weight".format, ("text", "visual")))
    )
    cases = {
        f"config.json describes: {scale} is missing. Is": {scale: None},
        rf"describes: {text} has shape \(3, 3\), not \(32, 32\). Is": {text: torch.zeros(3, 3)},
        f"NaN or infinity in {image}": {image: torch.full_like(good[image], torch.nan)},
    }
    if kind == "glccl":
        matrices = [name for name in good if name.startswith("interaction")]
        cases["describes: interaction.global_mat_weight is missing; .*; and 3 more. Is"] = dict.fromkeys(matrices)
    for message, changed in cases.items():
        weights = {name: value for name, value in (good | changed).items() if value is not None}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=message) as error:
            load_checkpoint(folder)
        assert str(folder) in str(error.value)
    printed = "".join(capfd.readouterr())
    assert "MISSING" not in printed
    assert "MISMATCH" not in printed


def test_cut_weights_are_an_error_that_names_the_checkpoint(checkpoint):
    content = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{checkpoint}: a file of weights is damaged or cut"):
        load_checkpoint(checkpoint)


def test_a_missing_or_foreign_tokenizer_is_an_error(clip, checkpoint, tmp_path):
    plain_model("siglip")[1].save_pretrained(clip)
    train_clip_tokenizer(["zebras graze where quick foxes jump"], vocab_size=540).save_pretrained(tmp_path)
    shutil.copy(tmp_path / "tokenizer.json", checkpoint)
    for folder in (clip, checkpoint):
        with pytest.raises(ValueError, match=f"{folder}: .*they do not belong together"):
            load_checkpoint(folder)
    for file in [*clip.glob("*token*"), *checkpoint.glob("*token*"), checkpoint / "processor_config.json"]:
        file.unlink()
    for folder, message in ((clip, "has no files of a tokenizer"), (checkpoint, "its processor cannot be loaded")):
        with pytest.raises(ValueError, match=message):
            load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_size": 8}, "frames would have 8 pixels, but the model takes 16"),
        ({"do_normalize": False}, "has do_normalize=False, which frames are not prepared by"),
        ({"rescale_factor": 1 / 127.5}, r"has rescale_factor=0\.0078"),
        ({"size": {"longest_edge": 16}}, "has size=.*longest_edge"),
        ({"image_std": [0, 0, 0]}, r"image_std=\[0, 0, 0\]: three numbers each"),
        ({"crop_size": [16, 16]}, r"crop_size=\[16, 16\] must be one positive number"),
    ],
)
def test_image_settings_that_are_not_followed_are_refused(change, message, clip):
    change_json(clip / "preprocessor_config.json", **change)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(clip)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"glim_temperature": {"a": 5.0}}),
        ("config.json", {"clip_config": [1]}),
        ("config.json", {"model_type": []}),
        ("config.json", {"aosm_temperature": 0.0}),
        ("config.json", {"csc_weight": float("nan")}),
        ("processor_config.json", {"video_processor": {"image_mean": ["a", 0.5, 0.5]}}),
        ("processor_config.json", {"video_processor": {"image_std": [1e400, 0.5, 0.5]}}),
        ("processor_config.json", {"video_processor": {"num_threads": ""}}),
        ("processor_config.json", {"max_words": 1e9}),
        ("processor_config.json", {"mask_padding": "no"}),
        ("tokenizer.json", {"model": None}),
        ("tokenizer_config.json", {"eos_token": None}),
        ("tokenizer_config.json", {"bos_token": "<|endoftext|>"}),
    ],
)
def test_a_value_that_cannot_be_is_one_error_that_names_the_checkpoint(file, change, checkpoint):
    change_json(checkpoint / file, **change)
    with pytest.raises(ValueError, match=str(checkpoint)):
        load_checkpoint(checkpoint)


def test_no_checkpoint_asks_to_run_its_code(checkpoint, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda question="": pytest.fail(question))
    video_processor = json.loads((checkpoint / "processor_config.json").read_text())["video_processor"]
    change_json(
        checkpoint / "processor_config.json", video_processor=video_processor | {"video_processor_type": "Other"}
    )
    with pytest.raises(ValueError, match=f"{checkpoint}: its processor cannot be loaded .*custom code"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("content", ["{", "0.5", "[]", "null", "[" * 100_000, '{"a": %s}' % ("9" * 5000)])
def test_a_configuration_that_is_no_mapping_is_named(content, checkpoint):
    (checkpoint / "config.json").write_text(content)
    message = "/config.json" if content == "{" else ": its config.json "
    with pytest.raises(ValueError, match=f"{checkpoint}{message}"):
        load_checkpoint(checkpoint)


def test_a_tokenizer_that_cannot_encode_is_one_error(siglip):
    model = json.loads((siglip / "tokenizer.json").read_text())["model"]
    del model["vocab"]["<unk>"]
    change_json(siglip / "tokenizer.json", model=model, added_tokens=[])
    with pytest.raises(ValueError, match="the tokenizer is damaged"):
        load_checkpoint(siglip)[1](text=["\u20ac"])


class Harmful:
    """Would run code where it is unpickled."""

    def __reduce__(self):
        return print, ("harm",)


def test_a_pickle_that_holds_more_than_tensors_is_not_read(clip, capfd):
    torch.save(load_file(clip / "model.safetensors"), clip / "pytorch_model.bin")
    (clip / "model.safetensors").unlink()
    assert load_checkpoint(clip)[0].config.zero_shot  # as many are on the Hub
    torch.save({"x": Harmful()}, clip / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"its pytorch_model\.bin holds more than tensors"):
        load_checkpoint(clip)
    assert "harm" not in capfd.readouterr().out


def test_what_finds_nothing_untrained_is_no_zero_shot_model(clip):
    for model_class, config in ((GLCCLModel, {"temporal_num_hidden_layers": 2}), (GLSCLModel, {})):
        with pytest.raises(ValueError, match="from_clip_pretrained starts its training"):
            model_class.from_pretrained(clip, **config)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_model_on_every_family_has_a_card(name, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_glccl.model_card._example", lambda *arguments: ("code", "output"))
    model, processor = load_checkpoint(save_plain(name, tmp_path / "plain"))
    for part in (model, processor):
        part.save_pretrained(tmp_path / "saved")
    assert "joint width 32" in make_card(tmp_path / "saved", "someone/model")


# Something else


def test_every_other_thing_says_what_it_is(tmp_path, checkpoint):
    def folder(name: str, *files: str):
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text("{}")
        (tmp_path / name).mkdir(exist_ok=True)
        return tmp_path / name

    BertModel(
        BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20)
    ).save_pretrained(tmp_path / "bert")
    cases = {
        tmp_path / "bert": r"is of the type 'bert', and GLCCL takes .* SigLIP",
        folder("index", "clips.lance/x", "about.lance/x"): "is an index of videos",
        folder("data", "metadata.csv"): "is a folder of data",
        folder("arrow", "dataset_info.json"): "is a folder of data",
        folder("run", "best/config.json"): "folder of a training run, whose checkpoints are .*best",
        folder("nothing"): "is empty",
        folder("videos", "a.mp4", "b.mp4"): "is a folder of videos",
        folder("other", "a.txt", "b.txt"): r"has no config\.json but a\.txt, b\.txt",
        folder("openclip", "open_clip_config.json"): "in OpenCLIP's format",
        checkpoint / "model.safetensors": "is a file.*glccl convert",
        folder("typeless", "config.json"): "is of the type None",
    }
    for path, message in cases.items():
        with pytest.raises(ValueError, match=message) as error:
            load_checkpoint(path)
        assert str(path) in str(error.value)
        assert len(str(error.value)) < 600
    with pytest.raises(ValueError, match="is of the type 'bert'"):
        GLCCLModel.from_clip_pretrained(tmp_path / "bert")
    for missing in (tmp_path / "absent", "./absent", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="no such folder"):
            load_checkpoint(missing)


def test_an_unreachable_repository_is_one_error(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # else it tries for half a minute
    with pytest.raises(FileNotFoundError, match="owner/name: no such folder, and no repository of this name"):
        load_checkpoint("owner/name")


@pytest.mark.parametrize(
    "arguments", [["info"], ["evaluate", "--benchmark", "shapes"], ["index", "--index", "my.index"]]
)
def test_every_command_gives_the_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    command, *options = arguments
    positional = ["videos", "--model", "empty"] if command == "index" else ["empty"]
    assert main([command, *positional, *options]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1] == f"glccl {command}: error: empty is no checkpoint: it is empty"
