"""GLCCLModel: invariants, loading and saving, and one clear error for every wrong input."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from accelerate import cpu_offload, disk_offload
from models import EOS, tiny_batch, tiny_config, tiny_model, tiny_text, tiny_video
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, CLIPModel

from modeling_glccl import GLCCLConfig, GLCCLModel


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def batch():
    return tiny_batch()


def assert_close(ours, expected):
    """Equal up to the rounding of float32, relative to the largest value."""
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


def state(model):
    return dict(model.state_dict())


def settings(config):
    """Every value of a configuration but those that loading writes into it."""
    return {
        name: settings(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in ("dtype", "_name_or_path", "architectures", "transformers_version")
    }


# Padding, batches and blocks


@pytest.mark.parametrize("token", [0, 7, EOS])
@pytest.mark.parametrize("give_mask", [True, False])
def test_a_score_does_not_depend_on_word_padding(model, token, give_mask):
    text, video = tiny_text([2, 5, 4]), tiny_video([3, 1])
    ids = torch.where(text["attention_mask"].bool(), text["input_ids"], token)
    further = {"input_ids": F.pad(ids, (0, 3), value=token)}
    if give_mask:
        further["attention_mask"] = F.pad(text["attention_mask"], (0, 3))
    assert_close(model(**further, **video).logits_per_text, model(**text, **video).logits_per_text)


def test_frames_cost_nothing_where_they_are_padding_and_are_not_copied_where_none_is(model, monkeypatch):
    encoded, encode = [], model._encode_frames
    monkeypatch.setattr(model, "_encode_frames", lambda pixels, **how: encoded.append(pixels) or encode(pixels, **how))
    padded, whole = tiny_video([3, 1]), tiny_video([3, 3])
    model.get_video_features(**padded)
    model.get_video_features(**whole)
    assert [len(pixels) for pixels in encoded] == [4, 6]
    assert encoded[1].data_ptr() == whole["pixel_values_videos"].data_ptr()


@pytest.mark.parametrize("pixel", [0.0, 3.0, torch.nan])
def test_a_score_does_not_depend_on_frame_padding(model, pixel):
    text, video = tiny_text([2, 5, 4]), tiny_video([3, 1])
    pixels, mask = video["pixel_values_videos"].clone(), video["padding_mask_videos"]
    pixels[mask == 0] = pixel
    further = {
        "pixel_values_videos": F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, 4), value=pixel),
        "padding_mask_videos": F.pad(mask, (0, 4)),
    }
    assert_close(model(**text, **further).logits_per_text, model(**text, **video).logits_per_text)


def test_a_score_does_not_depend_on_the_batch(model, batch):
    together = model(**batch).logits_per_text
    for i in range(len(together)):
        for j in range(len(together)):
            words, frames = batch["attention_mask"][i].sum(), batch["padding_mask_videos"][j].sum()
            alone = model(batch["input_ids"][i : i + 1, :words], batch["pixel_values_videos"][j : j + 1, :frames])
            torch.testing.assert_close(alone.logits_per_text[0, 0], together[i, j], rtol=0, atol=1e-4)


def test_padding_counts_in_the_mode_of_the_release(batch):
    model = tiny_model(mask_padding=False)
    logits = model(**batch).logits_per_text
    token = batch["input_ids"].clone()
    token[batch["attention_mask"] == 0] = 7
    assert not torch.allclose(model(**{**batch, "input_ids": token}).logits_per_text, logits)
    frame = batch["pixel_values_videos"].clone()
    frame[batch["padding_mask_videos"] == 0] = 3.0
    assert not torch.allclose(model(**{**batch, "pixel_values_videos": frame}).logits_per_text, logits)
    with pytest.raises(ValueError, match="exactly max_words=8"):
        model(**TEXT, **VIDEO)
    # ... though a padded frame is no key of the temporal encoder: real frames do not see it.
    real = batch["padding_mask_videos"].bool()
    frames = [
        model.get_video_features(pixels, batch["padding_mask_videos"]).frames[real]
        for pixels in (frame, batch["pixel_values_videos"])
    ]
    torch.testing.assert_close(*frames)


@pytest.mark.parametrize("mask_padding", [True, False])
def test_similarity_equals_the_forward_pass(batch, mask_padding):
    model = tiny_model(mask_padding=mask_padding)
    text = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    video = model.get_video_features(batch["pixel_values_videos"], batch["padding_mask_videos"])
    output = model(**batch)
    assert output.loss is None
    assert torch.equal(model.similarity(text, video), output.logits_per_text)
    assert torch.equal(output.logits_per_video, output.logits_per_text.T)
    assert_close(torch.stack(output.scores.to_tuple()).mean(dim=0), output.logits_per_text)


def test_evaluation_is_deterministic(batch):
    clip = tiny_config().clip_config.to_dict()
    clip["text_config"]["attention_dropout"] = clip["vision_config"]["attention_dropout"] = 0.5
    model = tiny_model(clip_config=clip)
    logits = [model(**batch).logits_per_text for _ in range(2)]
    assert torch.equal(*logits)
    assert not torch.equal(model.train()(**batch).logits_per_text, logits[0])


# Features


def test_frame_order_matters(model):
    pixels = tiny_video([4])["pixel_values_videos"]
    forward, backward = (model.get_video_features(frames).frames for frames in (pixels, pixels.flip(1)))
    assert not torch.allclose(forward, backward.flip(1), atol=1e-3)


# Losses and gradients


def test_the_loss_is_the_weighted_sum_and_gives_every_parameter_a_gradient(batch):
    model = tiny_model(csc_weight=0.5).train()
    output = model(**batch, return_loss=True)
    torch.testing.assert_close(output.loss, output.contrastive_loss + 0.5 * output.csc_loss)
    output.loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    # A constant added to every key changes no attention weight.
    assert [name for name in without if not name.endswith("k_proj.bias")] == []


def test_without_csc_a_batch_of_one_has_a_loss():
    output = tiny_model(csc_weight=0)(**tiny_batch(1), return_loss=True)
    assert output.csc_loss is None
    assert output.loss == output.contrastive_loss == 0


def test_gradient_checkpointing_gives_the_same_gradients(batch):
    gradients, calls = [], []
    for checkpointing in (False, True):
        model, layers = tiny_model().train(), []
        if checkpointing:
            model.activation_checkpointing_enable()
        for encoder in (model.clip.text_model.encoder, model.clip.vision_model.encoder, model.temporal.encoder):
            for layer in encoder.layers:
                layer.self_attn.register_forward_hook(lambda layer, *_, layers=layers: layers.append(layer))
        model(**batch, return_loss=True).loss.backward()
        gradients.append([weight.grad for weight in model.parameters()])
        calls.append(len(layers))
    assert calls == [6, 12]
    torch.testing.assert_close(*gradients)


def test_return_dict_false_gives_a_tuple(model, batch):
    output = model(**batch, return_loss=True)
    values = model(**batch, return_loss=True, return_dict=False)
    assert isinstance(values, tuple)
    assert len(values) == len(output)
    assert torch.equal(values[0], output.loss)
    assert all(torch.equal(a, b) for a, b in zip(values[5], output.scores.to_tuple(), strict=True))


# What transformers expects of a model


def test_states_of_all_layers_come_with_the_features(batch):
    model = GLCCLModel._from_config(tiny_config(), attn_implementation="eager").eval()
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    text, video = output.text_features, output.video_features
    clip = model.clip.text_model(batch["input_ids"], output_hidden_states=True)
    assert all(map(torch.equal, text.hidden_states, clip.hidden_states))
    encoded = int(batch["padding_mask_videos"].sum())
    assert [tuple(states.shape) for states in video.hidden_states] == 3 * [(encoded, 5, 32)] + 3 * [(4, 4, 32)]
    assert [tuple(weights.shape) for weights in text.attentions] == 2 * [(4, 2, 8, 8)]
    assert [tuple(weights.shape) for weights in video.attentions] == 2 * [(encoded, 2, 5, 5)] + 2 * [(4, 2, 4, 4)]
    text.hidden_states[0].retain_grad()
    video.attentions[0].retain_grad()
    output.logits_per_text.sum().backward()
    assert text.hidden_states[0].grad.any()
    assert video.attentions[0].grad.any()
    assert video.select([0]).hidden_states is None
    model.config.output_hidden_states = True
    assert len(model.get_text_features(batch["input_ids"]).hidden_states) == 3
    plain = model(**batch, output_hidden_states=False)
    assert plain.text_features.hidden_states is plain.video_features.attentions is None
    assert torch.equal(plain.logits_per_text, output.logits_per_text)


def test_features_have_the_names_of_transformers_and_can_be_a_tuple(model, batch):
    text = model.get_text_features(batch["input_ids"])
    video = model.get_video_features(batch["pixel_values_videos"], batch["padding_mask_videos"])
    assert text.pooler_output is text.sentence
    assert text.last_hidden_state is text.words
    assert video.last_hidden_state is video.frames
    for row, frames, mask in zip(video.pooler_output, video.frames, video.frame_mask, strict=True):
        torch.testing.assert_close(row, frames[mask].mean(dim=0))
    assert torch.equal(model.get_text_features(batch["input_ids"], return_dict=False)[0], text.sentence)


@pytest.mark.parametrize("kind", ["cpu", "disk"])
@torch.no_grad()
def test_offloaded_weights_are_there_where_they_are_read(model, batch, tmp_path, kind):
    offloaded = tiny_model()
    if kind == "cpu":
        cpu_offload(offloaded, torch.device("cpu"))
    else:
        disk_offload(offloaded, tmp_path, torch.device("cpu"))
    assert all(weight.is_meta for weight in offloaded.parameters())
    output = offloaded(**batch)
    assert torch.equal(output.logits_per_text, model(**batch).logits_per_text)
    prepared = offloaded.prepare_videos(output.video_features)
    assert torch.equal(offloaded.similarity(output.text_features, prepared), output.logits_per_text)
    assert all(weight.is_meta for weight in offloaded.parameters())


def test_tokens_can_be_added(batch):
    config = tiny_config()
    config.eos_token_id = 2  # as early CLIP configurations say: the last of the vocabulary
    model = GLCCLModel(config).eval()
    before = model.get_text_features(batch["input_ids"])
    assert model.resize_token_embeddings(110) is model.get_input_embeddings()
    assert model.config.get_text_config().vocab_size == 110
    assert model.config.eos_token_id == EOS
    assert torch.equal(model.get_text_features(batch["input_ids"]).words, before.words)


# Precision and attention


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations_agree(model, batch, tmp_path, attention):
    model.save_pretrained(tmp_path)
    other = GLCCLModel.from_pretrained(tmp_path, attn_implementation=attention)
    for part in (other.clip.text_model, other.clip.vision_model, other.temporal):
        assert part.encoder.layers[0].self_attn.config._attn_implementation == attention
    assert_close(other(**batch).logits_per_text, model(**batch).logits_per_text)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays_near_float32(batch, dtype):
    torch.manual_seed(0)
    model = GLCCLModel(tiny_config(csc_weight=0.5)).eval()
    expected = model(**batch, return_loss=True)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model(**batch, return_loss=True)
    low = model.to(dtype)(**batch, return_loss=True)
    for output in (autocast, low):
        assert output.logits_per_text.dtype == torch.float32
        scale = model.clip.logit_scale.float().exp()
        assert (output.logits_per_text - expected.logits_per_text).abs().max() / scale < 0.03
        assert output.loss.isfinite()
    low.loss.backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


# Saving and loading


@pytest.mark.parametrize("max_shard_size", ["50GB", "60KB"])
def test_a_round_trip_is_bit_equal(model, batch, tmp_path, max_shard_size):
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 2) == (max_shard_size == "60KB")
    for cls in (GLCCLModel, AutoModel):
        loaded, info = cls.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        assert isinstance(loaded, GLCCLModel)
        assert not loaded.training
        assert settings(loaded.config.to_dict()) == settings(model.config.to_dict())
        assert all(torch.equal(weight, state(model)[name]) for name, weight in loaded.state_dict().items())
        assert torch.equal(loaded(**batch).logits_per_text, model(**batch).logits_per_text)


def test_saving_takes_positional_arguments_as_transformers_does(model, tmp_path):
    weights = {name: weight + 1 for name, weight in state(model).items()}
    model.save_pretrained(tmp_path, True, dict(weights))
    assert torch.equal(load_file(tmp_path / "model.safetensors")["clip.logit_scale"], weights["clip.logit_scale"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_load_and_save_in_any_precision(model, tmp_path, dtype):
    model.save_pretrained(tmp_path / "float32")
    loaded = GLCCLModel.from_pretrained(tmp_path / "float32", dtype=dtype)
    assert all(torch.equal(weight, state(model)[name].to(dtype)) for name, weight in loaded.state_dict().items())
    loaded.save_pretrained(tmp_path / "low")
    again = GLCCLModel.from_pretrained(tmp_path / "low")
    assert {weight.dtype for weight in again.parameters()} == {dtype}


@pytest.fixture
def poisoned_memory():
    """Fills memory that nobody has written to with NaN, so that an uninitialised weight shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def assert_initialised(name, weight):
    if name.startswith("interaction."):
        assert torch.equal(weight, torch.eye(len(weight))), name
    elif name == "clip.logit_scale":
        assert weight.item() == pytest.approx(2.6592)
    elif name.endswith("bias"):
        assert (weight == 0).all(), name
    elif re.search("layer_?norm|layrnorm", name):
        assert (weight == 1).all(), name
    else:
        assert 1e-3 < weight.std() < 0.5, name


def save_without(model, folder, missing):
    model.config.save_pretrained(folder)
    kept = {name: weight for name, weight in model.state_dict().items() if not missing(name)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return kept


@pytest.mark.parametrize("group", range(8))
def test_each_kind_of_weight_is_initialised_when_missing(model, tmp_path, poisoned_memory, group):
    """Neighbours, such as the bias of the same layer, are there: loading takes long, so others are missing, too."""
    kinds = sorted({re.sub(r"\d+", "0", name) for name in model.state_dict()})[group::8]
    kept = save_without(model, tmp_path, lambda name: re.sub(r"\d+", "0", name) in kinds)
    loaded, info = GLCCLModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == set(model.state_dict()) - set(kept)
    for name, weight in loaded.state_dict().items():
        if name in kept:
            assert torch.equal(weight, kept[name]), f"{name} was overwritten because {kinds} were missing"
        else:
            assert_initialised(name, weight)


def test_all_weights_are_initialised_when_missing_and_in_a_new_model(model, tmp_path, poisoned_memory):
    save_without(model, tmp_path, lambda name: name != "clip.text_projection.weight")
    loaded = GLCCLModel.from_pretrained(tmp_path).state_dict()
    del loaded["clip.text_projection.weight"]
    for name, weight in [*loaded.items(), *GLCCLModel(tiny_config()).named_parameters()]:
        assert_initialised(name, weight)


# Starting from CLIP


@pytest.fixture
def clip_folder(tmp_path):
    tiny_model(seed=3).clip.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def test_a_plain_clip_checkpoint_loads_with_only_the_new_layers_missing(clip_folder, poisoned_memory):
    model, info = GLCCLModel.from_pretrained(clip_folder, config=tiny_config(), output_loading_info=True)
    new = {name for name in model.state_dict() if not name.startswith("clip.")}
    assert set(info["missing_keys"]) == new
    assert not info["unexpected_keys"]
    clip = CLIPModel.from_pretrained(clip_folder)
    assert all(torch.equal(weight, state(model.clip)[name]) for name, weight in clip.state_dict().items())
    for name in new:
        assert_initialised(name, state(model)[name])


def test_what_transformers_takes_is_taken_of_a_plain_clip_too(clip_folder):
    options = {"ignore_mismatched_sizes": True, "output_loading_info": True, "dtype": torch.bfloat16}
    model, info = GLCCLModel.from_pretrained(clip_folder, **options)
    assert model.dtype == torch.bfloat16
    assert all(not name.startswith("clip.") for name in info["missing_keys"])


def from_clip(folder, **config):
    defaults = {"max_words": 8, "temporal_num_hidden_layers": 2, "temporal_num_attention_heads": 2}
    return GLCCLModel.from_clip_pretrained(str(folder), **{**defaults, **config})


def test_a_model_starts_from_clip(clip_folder, batch):
    model = from_clip(clip_folder, csc_weight=0.5, max_frames=3)
    clip = CLIPModel.from_pretrained(clip_folder)
    assert all(torch.equal(weight, state(model.clip)[name]) for name, weight in clip.state_dict().items())
    text = clip.text_model
    assert torch.equal(model.temporal.position_embedding.weight, text.embeddings.position_embedding.weight)
    for block, source in zip(model.temporal.encoder.layers, text.encoder.layers, strict=True):
        assert all(torch.equal(weight, state(source)[name]) for name, weight in block.state_dict().items())
    for weight in model.interaction.parameters():
        assert torch.equal(weight, torch.eye(len(weight)))
    assert (model.config.csc_weight, model.config.max_frames, model.training) == (0.5, 3, False)
    assert model(**batch, return_loss=True).loss.isfinite()
    low = from_clip(clip_folder, clip_kwargs={"dtype": torch.bfloat16})
    assert {weight.dtype for weight in low.parameters()} == {torch.bfloat16}


@torch.no_grad()
def test_temporal_blocks_without_a_text_block_of_their_shape_keep_the_directions_of_frames(clip_folder, tmp_path):
    config = tiny_config().clip_config
    config.projection_dim = 16
    CLIPModel(config).save_pretrained(tmp_path / "narrow")
    narrow = GLCCLModel.from_clip_pretrained(tmp_path / "narrow", max_words=8, temporal_num_hidden_layers=2)
    other_heads = from_clip(clip_folder, temporal_num_attention_heads=1)
    with torch.no_grad():
        other_heads.temporal.position_embedding.weight.zero_()
    for model in (narrow, other_heads):
        video = model.get_video_features(**tiny_video([4, 2]))
        pixels = tiny_video([4, 2])["pixel_values_videos"].flatten(0, 1)
        clip_frames = model._encode_frames(pixels).pooler_output.view_as(video.frames)
        real = video.frame_mask
        torch.testing.assert_close(video.frames[real], 2 * clip_frames[real])
    deeper = from_clip(clip_folder, temporal_num_hidden_layers=3)
    source = state(deeper.clip.text_model.encoder.layers[1])
    assert all(torch.equal(weight, source[name]) for name, weight in state(deeper.temporal.encoder.layers[1]).items())
    assert not deeper.temporal.encoder.layers[2].mlp.fc2.weight.any()


@pytest.mark.parametrize("kind", ["zero-shot", "clip", "glccl"])
def test_an_unknown_setting_is_named_with_the_known_ones(kind, clip_folder, model, tmp_path):
    model.save_pretrained(tmp_path / "glccl")
    load = from_clip if kind == "clip" else GLCCLModel.from_pretrained
    folder = tmp_path / "glccl" if kind == "glccl" else clip_folder
    with pytest.raises(ValueError, match=r"max_word: no value of GLCCLConfig; it has aosm_.*, max_words, "):
        load(folder, max_word=5)


# Configuration


def test_the_configuration_round_trips(tmp_path):
    config = tiny_config(csc_weight=0.5, glim_local=False, mask_padding=False)
    config.save_pretrained(tmp_path)
    for cls in (GLCCLConfig, AutoConfig):
        loaded = cls.from_pretrained(tmp_path)
        assert isinstance(loaded, GLCCLConfig)
        assert settings(loaded.to_dict()) == settings(config.to_dict())
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "glccl"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_words": 78}, "max_words=78"),
        ({"max_frames": 0}, "max_frames=0"),
        ({"glim_temperature": 0}, "glim_temperature=0"),
        ({"aosm_temperature": float("nan")}, "aosm_temperature=nan must be positive and finite"),
        ({"csc_weight": float("inf")}, "csc_weight=inf must be finite"),
        ({"temporal_num_attention_heads": -2}, "temporal_num_attention_heads=-2"),
        ({"temporal_num_attention_heads": 5}, "temporal_num_attention_heads=5"),
        ({"max_words": "32"}, "max_words"),
        ({"temporal_num_hidden_layers": -1}, "temporal_num_hidden_layers=-1"),
        ({"temporal_layer_norm_eps": float("nan")}, "temporal_layer_norm_eps=nan must be positive"),
        ({"csc_scores": ["video_sentence"]}, r"csc_scores=\['video_sentence'\] must be two or more of"),
        ({"temporal_num_hidden_layers": 10**6}, "temporal_num_hidden_layers=1000000 must be at most 256"),
        ({"csc_scores": ["video_word", "video_word"]}, "csc_scores"),
        ({"csc_scores": ["video_word", "word_video"]}, "word_video"),
        ({"csc_variant": "soft"}, "csc_variant='soft' must be one of paper, detached, hard, centred"),
    ],
)
def test_wrong_configuration_values_are_named(values, message):
    with pytest.raises(Exception, match=message):
        tiny_config(**values)


# Wrong inputs

TEXT, VIDEO = tiny_text([3, 5]), tiny_video([4, 2])


def pixels(*shape):
    return {"pixel_values_videos": torch.zeros(*shape)}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": torch.tensor([[98, 5, 99], [98, 5, 6]])}, r"row 1 of input_ids has no EOS token \(id 99\)"),
        ({"input_ids": torch.full((2, 9), EOS)}, "9 slots but max_words=8"),
        ({"input_ids": torch.tensor([98, 5, 99])}, r"\[texts, words\]; got shape \(3,\)"),
        ({**TEXT, "attention_mask": torch.ones(2, 4)}, r"attention_mask \(2, 4\)"),
        ({**TEXT, "attention_mask": torch.ones(2, 5)}, "counts 5 tokens in row 0, but its first EOS is token 3"),
        (pixels(2, 3, 4, 16, 16), r"\[videos, frames, 3, height, width\]; got \(2, 3, 4, 16, 16\)"),
        (pixels(2, 3, 16, 16), r"got \(2, 3, 16, 16\)"),
        (pixels(2, 78, 3, 16, 16), "78 frames per video, but the frame position table has 77"),
        (pixels(2, 0, 3, 16, 16), "have no frame"),
        ({**VIDEO, "padding_mask_videos": torch.ones(2, 3)}, r"padding_mask_videos \(2, 3\)"),
        ({**VIDEO, "padding_mask_videos": torch.tensor([[1] * 4, [0] * 4])}, "video 1 of the batch has no real frame"),
    ],
)
def test_wrong_inputs_are_named(model, inputs, message):
    valid = {"input_ids": TEXT["input_ids"], "pixel_values_videos": VIDEO["pixel_values_videos"]}
    with pytest.raises(ValueError, match=message):
        model(**{**valid, **inputs})


def test_features_that_are_not_finite_are_named():
    model, video = tiny_model(), tiny_video([4, 2])
    video["pixel_values_videos"][1, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"frame features are not finite .* rows \[1\]"):
        model.get_video_features(**video)
    with torch.no_grad():
        model.clip.text_model.embeddings.token_embedding.weight[TEXT["input_ids"][1, 1]] = torch.inf
    with pytest.raises(ValueError, match=r"word features are not finite .* rows \[1\]"):
        model.get_text_features(**TEXT)
