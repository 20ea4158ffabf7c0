"""benchmarks/parity.py on training runs: a generated one, made with a naive twin of the release's optimiser."""

import json
import math
import shutil

import pytest
import torch
from benchmark_modules import import_benchmark, originals
from models import tiny_config, tiny_model, tiny_text, tiny_video
from safetensors.torch import load_file, save_file

parity = import_benchmark("parity")
STEPS, BATCHES = 8, 3
SETTINGS = {
    "lr": 3e-3,
    "coef_lr": 0.1,
    "warmup": 0.3,
    "t_total": 10,
    "betas": [0.8, 0.95],
    "eps": 1e-5,
    "weight_decay": 0.3,
    "clip": 0.7,
    # The errors seen are 5e-6 and 1.5e-7, factors of 2.5 and 0.2.
    "fp32_vs_fp64_loss_maxabs": 2e-6,
    "fp32_vs_fp64_weight_maxabs": 1e-6,
}
FROZEN = {
    "clip.text_model.embeddings.token_embedding.weight": "clip.token_embedding.weight",
    "clip.text_model.embeddings.position_embedding.weight": "clip.positional_embedding",
    "clip.vision_model.embeddings.class_embedding": "clip.visual.class_embedding",
    "clip.vision_model.embeddings.patch_embedding.weight": "clip.visual.conv1.weight",
    "clip.vision_model.embeddings.position_embedding.weight": "clip.visual.positional_embedding",
    "clip.vision_model.pre_layrnorm.weight": "clip.visual.ln_pre.weight",
    "clip.vision_model.pre_layrnorm.bias": "clip.visual.ln_pre.bias",
}


def small_model():
    """Widths are multiples of 64 and heads are width / 64, as in every checkpoint of the release."""
    clip = tiny_config().clip_config.to_dict()
    clip["vision_config"] |= {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 1}
    clip["text_config"] |= {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 1}
    clip["projection_dim"] = 64
    model = tiny_model(
        clip_config=clip,
        max_words=6,
        temporal_num_attention_heads=1,
        temporal_num_hidden_layers=1,
        mask_padding=False,
        csc_weight=0.5,
    )
    model.clip.logit_scale.data.fill_(math.log(100) - 1e-3)
    return model


def batch(index):
    return {**tiny_text([6, 3, 4, 5], seed=index), **tiny_video([4, 1, 3, 2], seed=10 + index)}


def naive_run(model, frozen, order):
    """The release's recipe in ten lines of arithmetic: (losses, gradient norms, logit scales, rates)."""
    lr, total, (beta1, beta2) = SETTINGS["lr"], SETTINGS["t_total"], SETTINGS["betas"]
    weights = {name: weight for name, weight in model.named_parameters() if name not in frozen}
    mean = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    square = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    logged = {"loss": [], "grad_norm_before_clip": [], "logit_scale_after": [], "lr_group_noclip": []}
    for step, index in enumerate(order):
        loss = model(**batch(index), return_loss=True).loss
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
        done = step / total
        factor = done / SETTINGS["warmup"] if done < SETTINGS["warmup"] else 0.5 * (1 + math.cos(math.pi * done))
        for name, weight in weights.items():
            gradient = gradients[name] * min(1, SETTINGS["clip"] / norm)
            mean[name] = beta1 * mean[name] + (1 - beta1) * gradient
            square[name] = beta2 * square[name] + (1 - beta2) * gradient**2
            change = mean[name] / (torch.sqrt(square[name]) + SETTINGS["eps"])
            if "bias" not in name:
                change = change + SETTINGS["weight_decay"] * weight.detach()
            rate = lr * factor * (SETTINGS["coef_lr"] if name.startswith("clip.") else 1)
            weight.data -= rate * change
        model.clip.logit_scale.data.clamp_(max=math.log(100))
        values = (loss.item(), norm, model.clip.logit_scale.item(), lr * factor)
        for name, value in zip(logged, values, strict=True):
            logged[name].append(value)
    return logged


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    """Two trajectories, one with frozen tensors, in the layout of the authors' numbers."""
    folder, manifest = tmp_path_factory.mktemp("trajectories"), {}
    order = [step % BATCHES for step in range(STEPS)]
    for name, freeze, frozen in (("traj_all", "-1 (nothing frozen)", {}), ("traj_some", "0 (default)", FROZEN)):
        model = small_model()
        save_file(originals(model), folder / f"{name}_start.safetensors")
        logged = naive_run(model, frozen, order)
        save_file(originals(model), folder / f"{name}_run_final.safetensors")
        inputs = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
        inputs |= {"pixel_values_videos": "video", "padding_mask_videos": "video_mask"}
        batches = {f"batch{i}.{inputs[key]}": value for i in range(BATCHES) for key, value in batch(i).items()}
        save_file(batches, folder / f"{name}_batches.safetensors")
        manifest[name] = {
            "steps": STEPS,
            "batch_order": order,
            "config": {"max_frames": 4, "other": "as glccl_other"},
            "freeze_layer_num": freeze,
            "frozen": list(frozen.values()),
            "runs": {"run": {**SETTINGS, **logged}},
        }
    manifest["glccl_other"] = {"config": {"csc_weight": 0.5}}
    (folder / "manifest_trajectory.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def golden(trajectories, tmp_path):
    return shutil.copytree(trajectories, tmp_path / "golden")


def table(folder, capsys):
    """Exit code and lines of the comparison."""
    code = parity.main(["--golden", str(folder)])
    return code, [line for line in capsys.readouterr().out.splitlines() if line.startswith("traj")]


def test_the_projects_training_code_equals_the_naive_twin(trajectories, capsys):
    code, lines = table(trajectories, capsys)
    assert code == 0
    assert all(line.endswith(" ok") for line in lines), lines
    weights = load_file(trajectories / "traj_all_start.safetensors")
    compared = [line.split()[3] for line in lines if " weight " in line and line.startswith("traj_some")]
    assert sorted(compared) == sorted(weights)
    assert sum(" frozen " in line for line in lines) == 7 + 2
    for quantity in ("loss of 8", "grad_norm_before_clip of 2", "logit_scale_after of 8", "lr_group_noclip of 8"):
        assert sum(quantity in line for line in lines) == 2


def change_entry(folder, name, **values):
    path = folder / "manifest_trajectory.json"
    manifest = json.loads(path.read_text())
    entry = manifest[name]
    for key, value in values.items():
        (entry["runs"]["run"] if key in entry["runs"]["run"] else entry)[key] = value
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("values", "failing"),
    [
        ({"betas": [0.8, 0.951]}, "weight global_mat_weight"),
        ({"eps": 1.1e-5}, "weight word_mat_weight"),
        ({"weight_decay": 0.31}, "weight global_mat_weight"),
        ({"warmup": 0.31}, "lr_group_noclip of 8 steps"),
        ({"clip": 0.71}, "weight global_mat_weight"),
        ({"coef_lr": 0.101}, "weight clip.visual.proj"),
        ({"config": {"csc_weight": 0.501}}, "loss of 8 steps"),
        ({"freeze_layer_num": -1}, "names of 0 frozen tensors"),
        ({"freeze_layer_num": "1"}, "names of 31 frozen tensors"),
        ({"frozen": []}, "names of 7 frozen tensors"),
    ],
)
def test_another_setting_fails(golden, capsys, values, failing):
    for path in golden.glob("traj_all_*"):
        path.unlink()
    change_entry(golden, "traj_some", **values)
    code, lines = table(golden, capsys)
    assert code == 1
    assert any(failing in line and "FAIL" in line for line in lines), lines


def test_missing_files_are_absent_and_unlisted_trajectories_not_covered(golden, capsys):
    (golden / "traj_all_batches.safetensors").unlink()
    (golden / "traj_some_run_final.safetensors").unlink()
    save_file({"x": torch.zeros(1)}, golden / "traj_unlisted_start.safetensors")
    parity.main(["--golden", str(golden)])
    lines = capsys.readouterr().out.splitlines()
    absent = {line.split()[1] for line in lines if line.endswith("absent") and line.startswith("traj")}
    assert absent == {"traj_all_batches.safetensors", "traj_some_run_final.safetensors"}
    assert any("traj_unlisted_start.safetensors" in line and "not covered" in line for line in lines)
    assert any(line.startswith("traj_some run") and "loss of 8 steps" in line for line in lines)
    assert not any(line.startswith("traj_all run") for line in lines)


def test_a_start_that_is_no_checkpoint_fails_and_is_named(golden, capsys):
    start = load_file(golden / "traj_all_start.safetensors")
    del start["word_mat_weight"]
    save_file(start, golden / "traj_all_start.safetensors")
    code, lines = table(golden, capsys)
    assert code == 1
    assert any(line.startswith("traj_all ") and "FAIL: not a checkpoint" in line for line in lines)
