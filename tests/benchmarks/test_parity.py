"""benchmarks/parity.py on the small golden case, on damaged copies of it, and on a generated case of other sizes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_modules import import_benchmark, originals
from models import tiny_config, tiny_model, tiny_text, tiny_video
from paths import TESTS
from reference import SCORES, reference_contrastive_loss, reference_csc_loss, reference_scores
from safetensors.torch import load_file, save_file

GOLDEN = TESTS / "golden"
parity = import_benchmark("parity")


@pytest.fixture
def golden(tmp_path):
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden"))


def change(path, name, tensor):
    tensors = load_file(path)
    save_file({**tensors, name: tensor(tensors[name]).contiguous()}, path)


def test_the_small_golden_case_is_green(capsys):
    assert parity.main(["--golden", str(GOLDEN)]) == 0
    table = capsys.readouterr().out
    assert "FAIL" not in table
    gradients = load_file(GOLDEN / "glccl_grads_s0.safetensors")
    quantities = [line.split()[1:3] for line in table.splitlines() if line.endswith(" ok")]
    assert sorted(name for kind, name in quantities if kind == "grad") == sorted(gradients)
    assert sum(kind == "init" for kind, _ in quantities) > 100
    for split in ("train", "eval"):
        names = {name for kind, name in quantities if kind == split}
        assert {"glim_word", "frame_features_pre_temporal", "logits", *(f"score_{name}" for name in SCORES)} <= names
    assert ["train", "loss_total"] in quantities
    assert any("logits__mlp_softmax" in line and "not covered" in line for line in table.splitlines())


def test_all_golden_cases_are_green(reference_dir, capsys):
    assert parity.main(["--golden", str(reference_dir / "golden")]) == 0
    peers = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("xclip", "clip4clip"))]
    assert [line.endswith(" ok") for line in peers] == [True] * 382


@pytest.mark.parametrize(
    ("file", "name", "damage", "failing"),
    [
        ("glccl_weights", "word_frame_mat_weight2", lambda t: t + 1e-4, "train score_frame_word"),
        ("glccl_weights", "word_mat_weight", lambda t: t.T, "eval score_frame_word"),
        ("glccl_weights", "clip.visual.ln_post.bias", lambda t: t + 1e-4, "eval frame_features_pre_temporal"),
        ("glccl_weights", "clip.logit_scale", lambda t: t + 1e-4, "train loss_total"),
        ("glccl_forward", "train.out.glim_word", lambda t: t * torch.nan, "train glim_word"),
        ("glccl_grads", "transformerClip.resblocks.1.attn.in_proj_weight", lambda t: t.roll(1, 0), "grad transformer"),
        ("glccl_init_nonclip", "frame_position_embeddings.weight", lambda t: t + 1e-6, "init frame_position"),
    ],
)
def test_a_difference_fails(golden, capsys, file, name, damage, failing):
    change(golden / f"{file}_s0.safetensors", name, damage)
    assert parity.main(["--golden", str(golden)]) == 1
    assert any(failing in line and line.endswith("FAIL") for line in capsys.readouterr().out.splitlines())


def test_unreadable_weights_fail_and_are_named(golden, capsys):
    weights = load_file(golden / "glccl_weights_s0.safetensors")
    del weights["word_mat_weight"]
    save_file(weights, golden / "glccl_weights_s0.safetensors")
    assert parity.main(["--golden", str(golden)]) == 1
    assert "missing names: word_mat_weight" in capsys.readouterr().out


def test_listed_cases_without_files_are_absent_and_unknown_files_not_covered(golden, capsys):
    (golden / "glccl_grads_s0.safetensors").unlink()
    (golden / "manifest.json").write_text(json.dumps({"glccl_s7": {}, "xclip_s0": {}, "clip4clip_s0": {}}))
    (golden / "manifest_trajectory.json").write_text(json.dumps({"traj_b": {}}))
    save_file({"x": torch.zeros(1)}, golden / "clip4clip_meanP_grads_s0.safetensors")
    (golden / "notes.txt").write_text("unknown")
    parity.main(["--golden", str(golden)])
    lines = {tuple(line.split()[:2]): line for line in capsys.readouterr().out.splitlines()}
    for case in [("glccl_s7", "glccl_weights_s7.safetensors"), ("glccl_s0", "glccl_grads_s0.safetensors")]:
        assert lines[case].endswith("absent")
    for file in ("xclip_forward_s0.safetensors", "xclip_grads_s0.safetensors"):
        assert lines["xclip_s0", file].endswith("absent")
    assert lines["traj_b", "-"].endswith("absent")
    assert ("clip4clip_s0", "clip4clip_meanP_grads_s0.safetensors") not in lines
    assert lines["clip4clip_s0", "clip4clip_seqTransf_grads_s0.safetensors"].endswith("absent")
    assert "not covered" in lines["-", "notes.txt"]


def test_sizes_come_from_the_tensors_and_cases_from_the_names(tmp_path, capsys):
    """A case of other sizes without a manifest; its numbers come from the naive twin."""
    clip = tiny_config().clip_config.to_dict()
    clip["vision_config"] |= {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 1, "image_size": 24}
    clip["text_config"] |= {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 3}
    clip["projection_dim"] = 64
    model = tiny_model(
        clip_config=clip,
        max_words=6,
        temporal_num_attention_heads=1,
        temporal_num_hidden_layers=3,
        mask_padding=False,
        csc_weight=0.5,
    )
    texts = tiny_text([6, 3, 4])
    videos = tiny_video([5, 1, 4])
    videos["pixel_values_videos"] = videos["pixel_values_videos"].repeat(1, 1, 1, 2, 2)[..., :24, :24]
    text, video = model.get_text_features(**texts), model.get_video_features(**videos)
    matrices: dict[str, Any] = dict(model.interaction.named_parameters())
    scores = reference_scores(text, video, matrices, model.clip.logit_scale)
    logits, csc = scores.mean(dim=0), reference_csc_loss(scores)
    loss = reference_contrastive_loss(logits) + 0.5 * csc
    loss.backward()
    forward = {
        "train.in.input_ids": texts["input_ids"],
        "train.in.video": videos["pixel_values_videos"],
        "train.in.video_mask": videos["padding_mask_videos"],
        "train.out.logits": logits,
        "train.out.loss_csc": csc,
        "train.out.loss_total": loss,
        **{f"train.out.score_{name}": score for name, score in zip(SCORES, scores, strict=True)},
    }
    found: dict[str, Any] = {name: weight.grad for name, weight in model.named_parameters()}
    gradients = originals(model, found)
    save_file(originals(model), tmp_path / "glccl_weights_other.safetensors")
    save_file(gradients, tmp_path / "glccl_grads_other.safetensors")
    forward = {name: tensor.detach().contiguous() for name, tensor in forward.items()}
    save_file(forward, tmp_path / "glccl_forward_other.safetensors")

    assert parity.main(["--golden", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert table.count(" ok\n") == len(gradients) + 7


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(SystemExit) as error:
        parity.main(["--golden", str(tmp_path / "nowhere")])
    assert error.value.code != 0
