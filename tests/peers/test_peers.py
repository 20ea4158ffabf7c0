"""The peers against their naive twins; padding, blocks, gradients, checkpoints and recipes of all of them."""

import json
from functools import partial
from typing import Any

import pytest
import torch
from models import random_features, tiny_batch, tiny_config, tiny_model, tiny_text, tiny_video
from peer_models import PEERS, peer_config, peer_model
from reference import reference_contrastive_loss
from reference_peers import (
    reference_clip4clip,
    reference_concepts,
    reference_glscl_global,
    reference_glscl_losses,
    reference_pairs,
    reference_xclip,
    reference_xpool,
)
from torch.nn.functional import normalize
from transformers import AutoModel, CLIPModel

from modeling_glccl import GLCCLModel
from modeling_glccl.checkpoints import MODELS, load_checkpoint
from modeling_glccl.peers import FOUR_SCORES, HEADS, base, glscl, xclip, xpool
from modeling_glccl.training import train

SCALE = torch.tensor(2.0, dtype=torch.float64)


def interaction(head: str, **config):
    """A peer's interaction in float64, and its weights by name."""
    module = peer_model(head, **config).interaction.double()
    return module, dict(module.named_parameters())


def features():
    return random_features([3, 8, 5, 2], [4, 1, 3])


def assert_close(ours, expected):
    torch.testing.assert_close(ours.double(), expected.double(), rtol=0, atol=2e-5)


# Twins


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize(
    ("head", "twin"), [("clip4clip_meanp", lambda weights: reference_clip4clip), ("xpool", reference_xpool)]
)
def test_clip4clip_which_knows_no_padding_and_xpool_are_their_twins(head, twin, mask_padding):
    module, weights = interaction(head, mask_padding=mask_padding)
    text, video = features()
    expected = SCALE.exp() * reference_pairs(twin(weights), text, video, mask_padding)
    assert_close(module(text, video, SCALE).logits, expected)


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("temperature", [0.01, 0.3])
def test_xclip_is_its_twin(mask_padding, temperature):
    module, weights = interaction("xclip", mask_padding=mask_padding, aosm_temperature=temperature)
    text, video = features()
    video = xclip.XCLIPVideoFeatures(**video, clip_frames=torch.rand_like(video.frames) - 0.5)
    scores = module(text, video, SCALE)
    expected = SCALE.exp() * reference_pairs(reference_xclip(weights, temperature), text, video, mask_padding)
    assert_close(torch.stack(scores.to_tuple()), expected)
    assert_close(scores.logits, expected.mean(dim=0))


@pytest.mark.parametrize("mask_padding", [True, False])
def test_glscl_is_its_twin(mask_padding):
    model = peer_model("glscl", mask_padding=mask_padding, glim_temperature=20).double()
    weights = dict(model.interaction.named_parameters())
    text, video = features()
    counted = video.frame_mask if mask_padding else torch.ones_like(video.frame_mask)
    expected, ours = [], []
    for values, mask in ((text.words, text.word_mask), (video.frames, counted)):
        ours.append(model.interaction.concepts(values, mask))
        twins = [reference_concepts(v[m], weights, layers=2, heads=1) for v, m in zip(values, mask, strict=True)]
        expected.append(torch.stack(twins))
        assert_close(ours[-1], expected[-1])

    text = glscl.GLSCLTextFeatures(**text, concepts=ours[0])
    video = glscl.GLSCLVideoFeatures(**video, concepts=ours[1])
    scores = model.interaction(text, video, SCALE)
    assert_close(scores.global_score, SCALE.exp() * reference_pairs(reference_glscl_global(20), text, video))
    local = torch.stack([torch.stack([(t * v).sum() / 3 for v in expected[1]]) for t in expected[0]])
    assert_close(scores.local_score, SCALE.exp() * 0.5 * local)
    assert torch.equal(scores.logits, scores.global_score + scores.local_score)


def test_the_decoder_of_glscl_has_a_head_for_every_64_channels():
    torch.manual_seed(0)
    config = glscl.GLSCLConfig(clip_config={"projection_dim": 128}, num_queries=3, decoder_layers=1)
    module = glscl.GLSCLInteraction(config).eval()
    memory, mask = torch.randn(5, 128), torch.tensor([1, 1, 0, 1, 0]).bool()
    expected = reference_concepts(memory[mask], dict(module.named_parameters()), layers=1, heads=2)
    assert_close(module.concepts(memory[None], mask[None])[0], expected)


def test_glscl_losses_are_their_twins():
    model = peer_model("glscl", consistency_weight=0.3, diversity_weight=0.7)
    torch.manual_seed(0)
    # Alike enough for some to lie within the margin.
    texts, videos = (normalize(1 + 0.8 * torch.rand(4, 3, 32), dim=-1) for _ in range(2))
    loss = model.auxiliary_loss(glscl.GLSCLTextFeatures(concepts=texts), glscl.GLSCLVideoFeatures(concepts=videos))
    expected = reference_glscl_losses(texts, videos, 0.3, 0.7)
    assert expected > reference_glscl_losses(texts, videos, 0.3, 0) > reference_glscl_losses(texts, videos, 0, 0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


# What holds for all of them


@pytest.mark.parametrize("head", PEERS)
def test_a_score_depends_on_its_text_and_video_alone(head):
    model = peer_model(head)
    words, frames = [3, 8, 5], [4, 1, 3]
    texts, videos = tiny_text(words, 8), tiny_video(frames, 4)
    with torch.no_grad():
        together = model.similarity(model.get_text_features(**texts), model.get_video_features(**videos))
        for a, v in [(0, 2), (1, 0), (2, 1)]:
            text = {name: values[a : a + 1, : words[a]] for name, values in texts.items()}
            video = {name: values[v : v + 1, : frames[v]] for name, values in videos.items()}
            alone = model.similarity(model.get_text_features(**text), model.get_video_features(**video))
            assert alone.item() == pytest.approx(together[a, v].item(), abs=1e-4)


@pytest.mark.parametrize("head", PEERS)
def test_what_padding_holds_does_not_matter(head):
    model = peer_model(head).double()
    text, video = features()
    counted, before = model.interaction(text, video, SCALE).logits, model.frame_weights(text, video).sentence
    assert counted.isfinite().all()
    for values, mask in ((text.words, text.word_mask), (video.frames, video.frame_mask)):
        values[~mask] = torch.nan
    assert torch.equal(model.interaction(text, video, SCALE).logits, counted)
    weights = model.frame_weights(text, video).sentence
    assert torch.equal(weights, before)
    assert weights.shape == (4, 3, 4)
    assert_close(weights.sum(dim=-1), torch.ones(4, 3))
    assert (weights[:, ~video.frame_mask] == 0).all()


def test_xpool_weights_are_those_of_its_attention():
    model = peer_model("xpool").double()
    text, video = features()
    weights = model.frame_weights(text, video).sentence
    query, keys, _, _ = model.interaction._project(text, video)
    products = torch.einsum("ad,vmd->avm", query, keys) / 32**0.5
    assert_close(weights[0, 2, :3].log().diff(), products[0, 2, :3].diff())


@pytest.mark.parametrize("head", ["xclip", "xpool"])
def test_blocks_change_nothing(head, monkeypatch):
    module = {"xclip": xclip, "xpool": xpool}[head]
    results = []
    for budget in (2**26, 2**15, 1):
        monkeypatch.setattr(module, "score_in_blocks", partial(base.score_in_blocks, memory_budget=budget))
        model = peer_model(head).train()
        output = model(**tiny_batch(6), return_loss=True)
        output.loss.backward()
        results.append({"logits": output.logits_per_text} | {n: p.grad for n, p in model.named_parameters()})
    for result in results[1:]:
        for name, value in results[0].items():
            torch.testing.assert_close(result[name], value, rtol=1e-4, atol=1e-5)


def test_blocks_stay_within_the_budget():
    pairs = []

    def score(text, video):
        pairs.append(len(text) * len(video))
        return text @ video.T

    text, video = torch.randn(100, 3), torch.randn(70, 3)
    scores = base.score_in_blocks(score, (text,), (video,), floats_per_pair=10, memory_budget=40 * 150)
    assert_close(scores, text @ video.T)
    assert max(pairs) <= 150
    assert len(pairs) <= 2 * 7000 / 150


@pytest.mark.parametrize("head", PEERS)
def test_the_loss_is_the_contrastive_one_and_reaches_every_parameter(head):
    model = peer_model(head).train()
    output = model(**tiny_batch(5), return_loss=True)
    assert output.csc_loss is None
    assert output.contrastive_loss.item() == pytest.approx(
        reference_contrastive_loss(output.logits_per_text).item(), rel=1e-5
    )
    assert (output.auxiliary_loss is not None) == (head == "glscl")
    own = output.auxiliary_loss if head == "glscl" else 0
    assert output.loss.item() == pytest.approx((output.contrastive_loss + own).item(), rel=1e-6)
    output.loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        # A key's bias adds the same to all products of a softmax.
        if name.startswith("interaction.") and not name.endswith("key.bias"):
            assert weight.grad.abs().max() > 0, name


def test_glscl_ranks_with_the_global_score_in_evaluation():
    model = peer_model("glscl", local_in_evaluation=False)
    batch = tiny_batch(4)
    output = model(**batch, return_loss=True)
    assert output.scores.local_score is None
    assert output.auxiliary_loss is None
    trained = model.train()(**batch, return_loss=True)
    torch.testing.assert_close(trained.scores.global_score, output.logits_per_text)
    assert trained.scores.local_score.abs().max() > 0


def test_csc_can_be_added_to_xclip_and_to_nothing_else():
    output = peer_model("xclip", csc_weight=0.5).train()(**tiny_batch(4), return_loss=True)
    assert output.loss.item() == pytest.approx((output.contrastive_loss + 0.5 * output.csc_loss).item())
    for head in set(PEERS) - set(FOUR_SCORES):
        with pytest.raises(ValueError, match=r"csc_weight=0\.5.*set it to 0"):
            HEADS[head](peer_config(head, csc_weight=0.5))


def test_xclip_refuses_more_frames_than_its_matrices_have_rows():
    model = peer_model("xclip")
    text = model.get_text_features(**tiny_text([3]))
    with pytest.raises(ValueError, match=r"5 frames but X-CLIP's.*max_frames=4"):
        model.similarity(text, model.get_video_features(**tiny_video([5])))
    padded = model.get_video_features(**tiny_video([3], slots=6))
    torch.testing.assert_close(
        model.similarity(text, padded), model.similarity(text, model.get_video_features(**tiny_video([3])))
    )


# Checkpoints


@pytest.mark.parametrize("head", PEERS)
def test_a_saved_peer_is_found_and_comes_back_equal(head, tmp_path):
    model = peer_model(head)
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is HEADS[head]
    assert type(loaded.config) is HEADS[head].config_class
    assert loaded.config.model_type not in ("glccl", *(m for m, c in MODELS.items() if c is not HEADS[head]))
    with pytest.raises(ValueError, match=f"is of the type '{loaded.config.model_type}'"):
        GLCCLModel.from_pretrained(tmp_path)  # not with fresh identities
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    batch = tiny_batch(4)
    assert torch.equal(loaded(**batch).logits_per_text, model(**batch).logits_per_text)


def test_weights_that_a_checkpoint_lacks_are_initialised(tmp_path):
    tiny_model(csc_weight=0).save_pretrained(tmp_path)
    settings = tiny_config(csc_weight=0).to_dict()
    settings.pop("model_type")

    def load(head: str) -> Any:
        model_class: Any = HEADS[head]
        model_class.config_class(**settings).save_pretrained(tmp_path)
        return model_class.from_pretrained(tmp_path).interaction

    pool = load("xpool")
    for layer in (pool.query, pool.key, pool.value, pool.output, pool.residual):
        assert torch.equal(layer.weight, torch.eye(32))
    for norm in (pool.input_norm, pool.pooled_norm, pool.output_norm):
        assert (norm.weight == 1).all()
    assert not any(weight.any() for name, weight in pool.named_parameters() if name.endswith("bias"))
    glscl_weights = load("glscl")
    queries = glscl_weights.queries
    assert 0 <= queries.min() < 0.1
    assert 0.9 < queries.max() <= 1
    for name, weight in glscl_weights.decoder.named_parameters():
        assert weight.abs().max() <= 1, name
    assert torch.equal(load("xclip").frame_logit_weight, torch.eye(4))


@pytest.mark.parametrize("head", PEERS)
def test_every_peer_starts_from_clip(head, tmp_path):
    clip = CLIPModel(peer_config(head).clip_config).eval()
    clip.save_pretrained(tmp_path)
    model = HEADS[head].from_clip_pretrained(
        str(tmp_path), max_words=8, temporal_num_attention_heads=2, temporal_num_hidden_layers=2
    )
    ours, theirs = model.state_dict(), clip.state_dict()
    assert torch.equal(ours["clip.text_projection.weight"], theirs["text_projection.weight"])
    name = "encoder.layers.1.mlp.fc1.weight"
    assert torch.equal(ours[f"temporal.{name}"], theirs[f"text_model.{name}"])
    without = HEADS[head].from_clip_pretrained(str(tmp_path), max_words=8, temporal_num_hidden_layers=0)
    assert without.temporal is None


# Training and evaluation


@pytest.mark.parametrize("head", [*PEERS[:1], *(pytest.param(head, marks=pytest.mark.slow) for head in PEERS[1:])])
def test_a_recipe_trains_every_peer_with_the_same_code(tiny, tmp_path, head):
    results = train(tiny(f"model.head={head}", "train.epochs=1"))
    assert results["test"]["t2v"]["R@10"] == 100
    trained, _ = load_checkpoint(tmp_path / "run" / results["model"])
    assert type(trained) is HEADS[head]
    assert (trained.temporal is None) == (head == "clip4clip_meanp")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["recipe"]["model"]["head"] == head


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.head=x_clip"], "head.*x_clip"),
        (["model.head=xpool", "model.config.csc_weight=0.1"], "head=xpool has one score.*config.csc_weight=0"),
        (["model.head=xclip", "model.config.num_queries=4"], r"model\.config\.num_queries is unknown"),
        (["model.head=glscl", "model.config.num_query=4"], "did you mean num_queries"),
    ],
)
def test_a_recipe_knows_the_settings_of_its_head(tiny, overrides, message):
    with pytest.raises(ValueError, match=message):
        tiny(*overrides)
    assert tiny("model.head=glscl", "model.config.num_queries=4").model.config["num_queries"] == 4
    assert tiny("model.head=xclip", "model.config.csc_weight=0.1").model.head == "xclip"
