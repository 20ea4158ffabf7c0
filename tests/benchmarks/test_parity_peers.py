"""benchmarks/parity_peers.py on cases of other sizes whose numbers come from the naive twins of the tests."""

import shutil

import pytest
import torch
from benchmark_modules import import_benchmark, originals
from models import tiny_config, tiny_text, tiny_video
from peer_models import peer_model
from reference import reference_contrastive_loss
from reference_peers import reference_clip4clip, reference_pairs, reference_xclip
from safetensors.torch import load_file, save_file

VARIANTS = {
    "xclip": ("xclip", "", "xclip_grads"),
    "clip4clip_seqtransf": ("clip4clip", "seqTransf.", "clip4clip_seqTransf_grads"),
    "clip4clip_meanp": ("clip4clip", "meanP.", "clip4clip_meanP_grads"),
}
parity = import_benchmark("parity")
GLCCL_ALONE = ("word_frame_logit_weight", "word_frame_mat_weight", "word_frame_mat_weight2")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Of models that share their encoders as the authors' do."""
    folder = tmp_path_factory.mktemp("peers")
    texts, videos = tiny_text([8, 3, 5], 8), tiny_video([4, 1, 3], 4)
    inputs = {
        "train.in.input_ids": texts["input_ids"],
        "train.in.video": videos["pixel_values_videos"],
        "train.in.video_mask": videos["padding_mask_videos"],
    }
    clip = tiny_config().clip_config.to_dict()
    for part in ("text_config", "vision_config"):
        clip[part]["num_attention_heads"] = 1  # the release has a head for every 64 channels
    sizes = {"clip_config": clip, "mask_padding": False, "temporal_num_attention_heads": 1}
    base = peer_model("xclip", **sizes)
    weights, forwards = originals(base), {"xclip": {}, "clip4clip": {}}
    for head, (kind, prefix, gradients) in VARIANTS.items():
        model = peer_model(head, **sizes).train()
        model.load_state_dict({**base.state_dict()}, strict=False)
        text, video = model.get_text_features(**texts), model.get_video_features(**videos)
        matrices = dict(model.interaction.named_parameters())
        score = reference_xclip(matrices) if head == "xclip" else reference_clip4clip
        scores = model.clip.logit_scale.exp() * reference_pairs(score, text, video, mask_padding=False)
        logits = scores.mean(dim=0) if head == "xclip" else scores
        loss = reference_contrastive_loss(logits)
        loss.backward()
        outputs = {"logits": logits, "loss_retrieval": loss, "sentence_features": text.sentence}
        forwards[kind] |= {f"{prefix}train.out.{name}": value.detach() for name, value in outputs.items()}
        grads = {name: weight.grad for name, weight in model.named_parameters()}
        save_file(originals(model, grads), folder / f"{gradients}_other.safetensors")
    for name in [name for name in weights if name.startswith("frame_") and name.endswith(("weight", "weight2"))]:
        if name != "frame_position_embeddings.weight":
            forwards["xclip"][f"weights_extra.{name}"] = weights.pop(name)
    weights |= {name: torch.eye(8) for name in GLCCL_ALONE}
    save_file(weights, folder / "glccl_weights_other.safetensors")
    save_file(inputs, folder / "glccl_forward_other.safetensors")
    for kind, outputs in forwards.items():
        save_file(outputs, folder / f"{kind}_forward_other.safetensors")
    return folder


@pytest.fixture
def golden(cases, tmp_path):
    return shutil.copytree(cases, tmp_path / "golden")


def table(folder, capsys):
    code = parity.main(["--golden", str(folder)])
    return code, [line for line in capsys.readouterr().out.splitlines() if line.startswith(("xclip", "clip4clip"))]


def test_every_quantity_and_gradient_is_compared(golden, capsys):
    code, lines = table(golden, capsys)
    assert [line for line in lines if not line.endswith(" ok")] == []
    assert code == 0
    gradients = sum(len(load_file(golden / f"{file}_other.safetensors")) for _, _, file in VARIANTS.values())
    assert len(lines) == gradients + 3 * len(VARIANTS)
    assert any(line.split()[1:4] == ["meanP", "train", "logits"] for line in lines)


@pytest.mark.parametrize(
    ("file", "name", "damage", "failing"),
    [
        ("xclip_forward", "weights_extra.frame_mat_weight2", lambda t: t.T, "xclip_other"),
        ("xclip_forward", "train.out.logits", lambda t: t + 1e-2, "train logits"),
        ("xclip_grads", "frame_logit_weight", lambda t: t.T, "grad frame_logit_weight"),
        ("clip4clip_forward", "meanP.train.out.loss_retrieval", lambda t: t + 1e-2, "meanP train loss_retrieval"),
        ("clip4clip_seqTransf_grads", "clip.logit_scale", lambda t: -t, "seqTransf  grad clip.logit_scale"),
        ("glccl_weights", "transformerClip.resblocks.1.ln_2.bias", lambda t: t + 0.1, "seqTransf  train logits"),
    ],
)
def test_a_difference_fails(golden, capsys, file, name, damage, failing):
    path = golden / f"{file}_other.safetensors"
    tensors = load_file(path)
    save_file({**tensors, name: damage(tensors[name]).contiguous()}, path)
    code, lines = table(golden, capsys)
    assert code == 1
    failed = [" ".join(line.split()) for line in lines if line.endswith("FAIL")]
    assert any(" ".join(failing.split()) in line for line in failed)


def test_absent_files_are_named(golden, capsys):
    (golden / "xclip_grads_other.safetensors").unlink()
    (golden / "clip4clip_forward_other.safetensors").unlink()
    (golden / "manifest.json").write_text('{"clip4clip_other": {}}')
    code, lines = table(golden, capsys)
    assert code == 0
    absent = [line.split()[:2] for line in lines if line.endswith("absent")]
    assert absent == [
        ["clip4clip_other", "clip4clip_forward_other.safetensors"],
        ["xclip_other", "xclip_grads_other.safetensors"],
    ]
    assert any("xclip_other" in line and "train logits" in line and line.endswith("ok") for line in lines)
