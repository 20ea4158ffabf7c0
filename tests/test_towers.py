"""Every family of CLIP: zero-shot GLCCL on it equals transformers' own features, trains, saves, reloads."""

import json
import re

import numpy as np
import pytest
import torch
from families import FAMILY_NAMES, plain_model, save_plain
from PIL import Image
from torch import nn
from transformers import AutoConfig
from videos import write_video

from modeling_glccl import GLCCLConfig, GLCCLModel, GLCCLProcessor
from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.cli import main
from modeling_glccl.training.optimization import freeze_clip

CAPTIONS = ["a red ball rolls", "two dogs", "a dog runs after a ball"]


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(3, 4, 3, 16, 16), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """Name -> its plain checkpoint, which tests leave as it is."""
    return {name: save_plain(name, tmp_path_factory.mktemp(name)) for name in FAMILY_NAMES}


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def family(request, families):
    return families[request.param]


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_zero_shot_features_are_those_of_transformers(name, families, batch):
    plain, tokenizer = plain_model(name)
    model, processor = load_checkpoint(families[name])
    assert (type(model.clip), model.config.zero_shot, model.temporal) == (type(plain), True, None)

    # As transformers' documentation of each family encodes texts. This tokenizer of SigLIP 2 adds no EOS itself.
    options = {"padding": "max_length", "max_length": 24} if name == "siglip" else {"padding": True}
    cleaned = [caption + ("<eos>" if name == "siglip" else "") for caption in CAPTIONS]
    inputs = tokenizer(cleaned, return_tensors="pt", **options)
    attended = {} if name == "siglip" else {"attention_mask": inputs["attention_mask"]}
    expected = plain.get_text_features(inputs["input_ids"], **attended).pooler_output
    text = model.get_text_features(**processor(text=CAPTIONS))
    torch.testing.assert_close(text.sentence, expected, atol=1e-6, rtol=0)
    tokens = inputs["attention_mask"].sum(1)
    assert text.word_mask.sum(1).tolist() == tokens.tolist()
    if name != "siglip":  # which has a head of its own for sentences
        torch.testing.assert_close(text.words[range(3), tokens - 1], expected, atol=1e-6, rtol=0)

    pixels, mask = batch
    video = model.get_video_features(pixels, mask)
    for frames, images, count in zip(video.frames, pixels, mask.sum(1), strict=True):
        expected = plain.get_image_features(images[:count]).pooler_output
        torch.testing.assert_close(frames[:count], expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_score_does_not_depend_on_what_else_is_in_the_batch(family, batch):
    model, processor = load_checkpoint(family)
    pixels, mask = batch
    together = model(**processor(text=CAPTIONS), pixel_values_videos=pixels, padding_mask_videos=mask).logits_per_text
    for row, caption in enumerate(CAPTIONS):
        for column, count in enumerate(mask.sum(1).tolist()):
            alone = model(**processor(text=caption), pixel_values_videos=pixels[column : column + 1, :count])
            torch.testing.assert_close(alone.logits_per_text[0, 0], together[row, column], atol=1e-4, rtol=0)


def test_a_training_from_each_family_starts_saves_reloads_and_indexes(family, tmp_path, batch, capsys):
    model = GLCCLModel.from_clip_pretrained(family, max_words=16, max_frames=4, temporal_num_hidden_layers=2).train()
    processor = GLCCLProcessor.from_clip_pretrained(family, model.config)
    text = model.clip.text_model
    assert model.config.temporal_config.hidden_act == text.config.hidden_act
    for block, source in zip(model.temporal.encoder.layers, text.encoder.layers, strict=True):
        assert torch.equal(block.mlp.fc1.weight, source.mlp.fc1.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pixels, mask = batch
    inputs = processor(text=CAPTIONS) | {"pixel_values_videos": pixels, "padding_mask_videos": mask}
    losses = []
    for _ in range(3):
        loss = model(**inputs, return_loss=True).loss
        loss.backward()
        assert [key for key, weight in model.named_parameters() if weight.requires_grad and weight.grad is None] == []
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval()
    model.save_pretrained(tmp_path / "trained")
    processor.save_pretrained(tmp_path / "trained")
    again, again_processor = load_checkpoint(tmp_path / "trained")
    with torch.no_grad():
        for key, value in again_processor(text=CAPTIONS).items():
            assert torch.equal(value, inputs[key])
        expected = model(**inputs).logits_per_text
        torch.testing.assert_close(again(**inputs).logits_per_text, expected, atol=1e-5, rtol=0)

    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", 10, fps=5)
    index = str(tmp_path / "my.index")
    assert main(["index", str(tmp_path / "videos"), "--index", index, "--model", str(tmp_path / "trained")]) == 0
    capsys.readouterr()
    assert main(["search", "a red ball", "--index", index, "--json"]) == 0
    assert '"rank": 1' in capsys.readouterr().out


def test_each_family_cleans_and_pads_texts_as_it_was_trained(families):
    clip, metaclip, siglip = (GLCCLProcessor.from_pretrained(families[name]) for name in ("clip", *FAMILY_NAMES[2:]))
    assert siglip(text="A Dog")["input_ids"].tolist() == siglip(text="a dog")["input_ids"].tolist()
    assert siglip(text=["a"])["input_ids"].shape == (1, 24)
    assert siglip(text=["a"])["attention_mask"].sum() == 2  # the word and EOS
    assert clip(text=["a"])["attention_mask"].sum() == 3  # BOS, the word and EOS
    assert metaclip(text=["a"])["input_ids"][0, [0, -1]].tolist() == [0, 2]
    long = siglip(text=["a b c " * 30])
    assert long["input_ids"].shape == (1, 24)
    assert long["input_ids"][0, -1] == 1


def test_frames_are_prepared_as_the_checkpoint_says(families):
    picture = np.random.default_rng(0).integers(0, 256, (1, 30, 50, 3), np.uint8)
    image = Image.fromarray(picture[0])
    squashed = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)) / 255 * 2 - 1
    siglip = GLCCLProcessor.from_pretrained(families["siglip"])
    pixels = siglip(videos=picture)["pixel_values_videos"][0, 0].permute(1, 2, 0)
    np.testing.assert_allclose(pixels.numpy(), squashed, atol=1e-6)
    cropped = np.asarray(image.resize((26, 16), Image.Resampling.BICUBIC).crop((5, 0, 21, 16))) / 255
    clip = GLCCLProcessor.from_pretrained(families["clip"])
    pixels = clip(videos=picture)["pixel_values_videos"][0, 0].permute(1, 2, 0)
    expected = (cropped - [0.48, 0.46, 0.41]) / [0.27, 0.26, 0.28]
    np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-5)


def tower(width, heads, mlp, **rest):
    """One layer of a published tower."""
    sizes = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": mlp, "num_hidden_layers": 1}
    return sizes | rest


def clip_values(text, vision, width, activation="gelu", eos=49407, positions=77, **rest):
    """The values that differ between published configurations of CLIP and MetaCLIP 2."""
    *vision, patch, image = vision
    text = tower(*text, hidden_act=activation, eos_token_id=eos, max_position_embeddings=positions)
    vision = tower(*vision, hidden_act=activation, patch_size=patch, image_size=image)
    return {"model_type": "clip", "projection_dim": width, "text_config": text, "vision_config": vision} | rest


def siglip_values(width, heads, mlp, patch, image, vocabulary):
    """The same of SigLIP."""
    text = tower(width, heads, mlp, vocab_size=vocabulary)
    vision = tower(width, heads, mlp, patch_size=patch, image_size=image)
    return {"model_type": "siglip", "text_config": text, "vision_config": vision}


B_TEXT, L_TEXT, H_TEXT = (512, 8, 2048), (768, 12, 3072), (1024, 16, 4096)
B32 = (768, 12, 3072, 32, 224)
L14, H14 = (1024, 16, 4096, 14, 224), (1280, 16, 5120, 14, 224)
# Values of published config.json files, with one layer; and the joint width, EOS, slots of a text, temporal heads.
PUBLISHED = {
    "openai/clip-vit-base-patch32": (clip_values(B_TEXT, B32, 512, "quick_gelu", 2), (512, 49407, None, 8)),
    "openai/clip-vit-large-patch14": (clip_values(L_TEXT, L14, 768, "quick_gelu", 2), (768, 49407, None, 12)),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": (clip_values(H_TEXT, H14, 1024, eos=2), (1024, 49407, None, 16)),
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": (
        clip_values((1280, 20, 5120), (1664, 16, 8192, 14, 224), 1280, eos=2),
        (1280, 49407, None, 20),
    ),
    "a long position table": (clip_values(L_TEXT, L14, 768, "quick_gelu", positions=248), (768, 49407, None, 12)),
    "facebook/metaclip-2-worldwide-huge-quickgelu": (
        clip_values(H_TEXT, H14, 1024, "quick_gelu", 2, model_type="metaclip_2"),
        (1024, 2, None, 16),
    ),
    "facebook/metaclip-2-worldwide-s16": (
        clip_values((384, 6, 1536), (384, 6, 1536, 16, 224), 384, eos=2, model_type="metaclip_2"),
        (384, 2, None, 6),
    ),
    "google/siglip-so400m-patch14-384": (siglip_values(1152, 16, 4304, 14, 384, 32_000), (1152, 1, 64, 16)),
    "google/siglip2-base-patch16-224": (siglip_values(768, 12, 3072, 16, 224, 256_000), (768, 1, 64, 12)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_are_understood(name):
    values, (width, eos, slots, heads) = PUBLISHED[name]
    config = GLCCLConfig(clip_config=values, temporal_num_hidden_layers=1)
    assert (config.width, config.eos_token_id, config.text_slots) == (width, eos, slots)
    temporal, text = config.temporal_config, config.clip_config.text_config
    assert (temporal.num_attention_heads, temporal.hidden_act) == (heads, text.hidden_act)
    with torch.device("meta"):
        model = GLCCLModel(config)
    block, source = model.temporal.encoder.layers[0].state_dict(), model.clip.text_model.encoder.layers[0].state_dict()
    assert {key: value.shape for key, value in block.items()} == {key: value.shape for key, value in source.items()}
    assert model.temporal.position_embedding.weight.shape == (text.max_position_embeddings, width)


@pytest.mark.parametrize("model_type", ["bert", "clipseg", "siglip2"])
def test_other_kinds_of_models_are_refused_with_the_families(model_type):
    with pytest.raises(ValueError, match=r"of the type .*CLIP \(OpenAI.*MetaCLIP 2.*SigLIP") as error:
        GLCCLConfig(clip_config={"model_type": model_type})
    assert ("Of SigLIP 2 take one with fixed resolution" in str(error.value)) == (model_type == "siglip2")


@pytest.mark.parametrize(
    ("family", "tower", "change"),
    [
        ("siglip", "text_config", {"projection_size": 8}),
        ("siglip", "vision_config", {"vision_use_head": False}),
        ("metaclip_2", "text_config", {"eos_token_id": None}),
        ("clip", "text_config", {"eos_token_id": [1, 2]}),
        ("clip", "text_config", {"hidden_size": "32"}),
        ("clip", "text_config", {"hidden_act": "none"}),
        ("clip", "vision_config", {"image_size": [16, 16]}),
        ("clip", "vision_config", {"patch_size": None}),
    ],
)
def test_values_that_the_towers_do_not_follow_are_named(family, tower, change, tmp_path):
    ((field, value),) = change.items()
    message = rf"'?{field}(={re.escape(str(value))}|=.none.|'.*TypeError.*'{value}')"
    with pytest.raises(ValueError, match=f"(?s){message}"):
        GLCCLConfig(clip_config={"model_type": family, tower: change})
    folder = save_plain(family, tmp_path)
    values = json.loads((folder / "config.json").read_text())
    values[tower] |= change
    (folder / "config.json").write_text(json.dumps(values))
    for load in (load_checkpoint, GLCCLModel.from_clip_pretrained, GLCCLProcessor.from_pretrained):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            load(folder)


def test_the_bias_of_siglip_is_kept_and_never_trained(families, tmp_path):
    load_checkpoint(families["siglip"])[0].save_pretrained(tmp_path)
    again = GLCCLModel.from_pretrained(tmp_path)
    assert torch.equal(again.clip.logit_bias, plain_model("siglip")[0].logit_bias)
    assert "clip.logit_bias" not in dict(again.named_parameters())


def test_a_saved_zero_shot_model_stays_one(families, tmp_path):
    for part in load_checkpoint(families["clip"], glim_temperature=7.0):
        part.save_pretrained(tmp_path)
    loaded, _ = load_checkpoint(tmp_path)
    assert (loaded.config.zero_shot, loaded.config.glim_temperature) == (True, 7.0)
    assert AutoConfig.from_pretrained(tmp_path).clip_config.model_type == "clip"


def test_the_zero_shot_temperature_makes_glim_a_softmax_over_a_fifth_of_clips_logits(family):
    model, processor = load_checkpoint(family)
    torch.manual_seed(2)
    with torch.no_grad():
        text = model.get_text_features(**processor(text=CAPTIONS))
        video = model.get_video_features(torch.randn(2, 8, 3, 16, 16))
        weights = model.frame_weights(text, video).sentence
        cosines = torch.einsum(
            "ad,vkd->avk", *(nn.functional.normalize(x, dim=-1) for x in (text.sentence, video.frames))
        )
        expected = (model.clip.logit_scale.exp() * cosines / 5).softmax(dim=-1)
    assert (weights - expected).abs().max() < 0.25 * expected.max()  # as far as norms are usual
    assert load_checkpoint(family)[0].config.glim_temperature == model.config.glim_temperature


def test_a_configuration_that_is_changed_later_counts(families):
    model, processor = load_checkpoint(families["clip"])
    torch.manual_seed(2)
    with torch.no_grad():
        text = model.get_text_features(**processor(text=CAPTIONS))
        video = model.get_video_features(torch.randn(2, 8, 3, 16, 16))
        values = {name: getattr(model.config, name) for name in ("glim_temperature", "aosm_temperature", "glim_local")}
        for name, value in zip(values, (0.1, 1.0, False), strict=True):
            before = model.similarity(text, video)
            setattr(model.config, name, value)
            values[name] = value
            changed = load_checkpoint(families["clip"], **values)[0]
            assert not torch.allclose(model.similarity(text, video), before, atol=1e-4)
            expected = changed.similarity(text, video)
            torch.testing.assert_close(model.similarity(text, video), expected, atol=1e-5, rtol=0)


def test_a_fitted_temperature_is_the_usual_spread_of_products_within_a_video(families, batch):
    model, processor = load_checkpoint(families["clip"])
    with torch.no_grad():
        text, video = model.get_text_features(**processor(text=CAPTIONS)), model.get_video_features(*batch)
    expected = []
    for frames, count in zip(video.frames[:2], (4, 2), strict=True):
        expected.append(torch.stack([(frames[:count] @ sentence).std() for sentence in text.sentence]).mean())
    fitted = model.fit_glim_temperature(text, video)
    assert fitted == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)
    with pytest.raises(ValueError, match="no video has two frames that differ"):
        model.fit_glim_temperature(text, video.select([2]))


def test_embeddings_and_first_layers_of_each_family_can_be_frozen(family):
    model = GLCCLModel.from_clip_pretrained(family, max_words=16, max_frames=4)
    freeze_clip(model, 1)
    frozen = {key for key, weight in model.named_parameters() if not weight.requires_grad}
    assert all("embeddings" in key or "pre_layrnorm" in key or ".layers.0." in key for key in frozen)
    assert all(not key.startswith(("temporal.", "interaction.")) for key in frozen)
    assert {f"clip.{part}_model.encoder.layers.0.mlp.fc1.weight" for part in ("text", "vision")} <= frozen
