"""GLCCL's switches: which scores the CSC loss compares, and how many temporal layers there are."""

import pytest
import torch
from models import full_batch, tiny_batch, tiny_config, tiny_model, tiny_video
from reference import SCORES, reference_csc_loss

from modeling_glccl import GLCCLModel
from modeling_glccl.configuration_glccl import CSC_VARIANTS
from modeling_glccl.training.full_batch import FullBatchLoss


@pytest.mark.parametrize("names", [SCORES, ("video_sentence", "frame_word"), (*SCORES[:2], "frame_word")])
def test_csc_compares_the_named_scores_alone(names):
    model = tiny_model(csc_weight=0.5, csc_scores=list(names))
    output = model(**full_batch(), return_loss=True)
    expected = reference_csc_loss(torch.stack([output.scores[name] for name in names]))
    assert output.csc_loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert output.loss.item() == pytest.approx((output.contrastive_loss + 0.5 * expected).item(), rel=1e-4)
    assert FullBatchLoss(model)(**full_batch()).csc_loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert torch.equal(output.logits_per_text, torch.stack(output.scores.to_tuple()).mean(dim=0))


@pytest.mark.parametrize("variant", CSC_VARIANTS)
def test_training_takes_the_variant_of_csc(variant):
    model = tiny_model(csc_weight=0.5, csc_variant=variant)
    output = model(**full_batch(), return_loss=True)
    expected = reference_csc_loss(torch.stack([*output.scores.values()]), variant).item()
    assert output.csc_loss.item() == pytest.approx(expected, rel=1e-4)
    assert FullBatchLoss(model)(**full_batch()).csc_loss.item() == pytest.approx(expected, rel=1e-4)


def test_switches_are_saved_with_the_model(tmp_path):
    model = tiny_model(csc_scores=("video_word", "frame_word"), temporal_num_hidden_layers=0)
    model.save_pretrained(tmp_path)
    loaded = GLCCLModel.from_pretrained(tmp_path)
    assert loaded.config.csc_scores == ["video_word", "frame_word"]
    assert loaded.temporal is None
    batch = tiny_batch(3)
    assert torch.equal(loaded(**batch).logits_per_text, model(**batch).logits_per_text)


def test_without_temporal_layers_frames_are_those_of_clip():
    model = tiny_model(temporal_num_hidden_layers=0)
    videos = tiny_video([4, 2])
    expected = model.clip.get_image_features(videos["pixel_values_videos"].flatten(0, 1)).pooler_output
    frames = model.get_video_features(**videos).frames
    torch.testing.assert_close(frames[0], expected[:4])
    assert not frames[1, 2:].any()
    assert "temporal" not in {name.partition(".")[0] for name, _ in model.named_parameters()}
    assert len(GLCCLModel(tiny_config(temporal_num_hidden_layers=3)).temporal.encoder.layers) == 3
