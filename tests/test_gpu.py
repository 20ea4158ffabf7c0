"""Everything that computes, on a GPU: what it gives there is what it gives on a CPU."""

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from checkpoints import save_tiny_checkpoint
from full_batch_worker import make_model
from models import full_batch, tiny_model
from peer_models import PEERS
from test_compilation import TextTower, VideoTower, assert_same_features, one_layer
from training_runs import logged
from transformers import pipeline

from modeling_glccl.checkpoints import load_checkpoint, place, weights_digest
from modeling_glccl.environment import resolve_precision
from modeling_glccl.evaluation import evaluate
from modeling_glccl.runtime import with_runtime
from modeling_glccl.training import loop, train
from modeling_glccl.training.build import load_splits
from modeling_glccl.training.full_batch import FullBatchLoss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
CAPTIONS = ["a red ball bounces", "a blue square slides to the left", "two green stars spin"]
NO_DROPOUT = tuple(f"model.config.clip_config.{part}_config.attention_dropout=0.0" for part in ("text", "vision"))


@pytest.fixture
def exact(monkeypatch):
    """cuDNN as exact as matrix products: by default it rounds what it convolves, patches of an image, to 10 bits."""
    assert not torch.backends.cuda.matmul.allow_tf32
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def noisy_checkpoint(folder):
    """Model and processor that tell texts and videos apart."""
    save_tiny_checkpoint(folder, CAPTIONS)
    model, processor = load_checkpoint(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model, processor


def on_gpu(batch):
    return {name: values.to("cuda") for name, values in batch.items()}


def assert_close(found, expected, tolerance):
    """Tensors by name, each to the tolerance times its largest value or, where that is smaller, 1."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name].cpu() - value).abs().max()
        assert error <= tolerance * value.abs().max().clamp_min(1), f"{name}: {error}"


def features_and_scores(model, batch):
    with torch.no_grad():
        output = model(**batch)
    tensors = output.text_features.tensors() | output.video_features.tensors()
    return {name: value.float() for name, value in tensors.items()} | {"logits": output.logits_per_text}


def losses_and_gradients(model, batch, chunk=None, dtype=None):
    with torch.autocast(model.device.type, dtype, enabled=dtype is not None):
        losses = FullBatchLoss(model, chunk)(**batch)
    losses.loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return gradients | {"loss": losses.loss.detach(), "contrastive loss": losses.contrastive_loss.detach()}


# The model


@pytest.mark.parametrize("head", ["glccl", *PEERS])
@pytest.mark.usefixtures("exact")
def test_float32_features_and_scores_are_those_of_the_cpu(head):
    model = make_model(head).eval()
    expected = features_and_scores(model, full_batch())
    assert_close(features_and_scores(model.to("cuda"), on_gpu(full_batch())), expected, 1e-4)


def test_a_rounded_convolution_stays_near():
    """float32 as torch leaves it."""
    model = make_model("glccl").eval()
    expected = features_and_scores(model, full_batch())
    assert_close(features_and_scores(model.to("cuda"), on_gpu(full_batch())), expected, 1e-2)


@pytest.mark.parametrize("way", ["plain", "gradient cache", "activation checkpointing"])
@pytest.mark.parametrize("head", ["glccl", *PEERS])
@pytest.mark.usefixtures("exact")
def test_losses_and_gradients_are_those_of_the_cpu(head, way):
    expected = losses_and_gradients(make_model(head), full_batch())
    model = make_model(head).to("cuda")
    if way == "activation checkpointing":
        model.activation_checkpointing_enable()
    chunk = 3 if way == "gradient cache" else None
    assert_close(losses_and_gradients(model, on_gpu(full_batch()), chunk), expected, 2e-4)


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head", ["glccl", *PEERS])
def test_autocast_stays_near_float32_and_its_gradients_are_finite(head, dtype, chunk):
    expected = features_and_scores(make_model(head), full_batch())["logits"]
    model = make_model(head).to("cuda")
    scale = model.clip.logit_scale.exp().item()
    with torch.autocast("cuda", dtype):
        logits = features_and_scores(model, on_gpu(full_batch()))["logits"]
    found = losses_and_gradients(model, on_gpu(full_batch()), chunk, dtype)
    assert logits.dtype == torch.float32
    assert (logits.cpu() - expected).abs().max() / scale < 0.03
    assert all(value.isfinite().all() for value in found.values())
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@torch.no_grad()
def test_the_automatic_precision_is_that_of_the_hardware(tmp_path, capsys):
    """bf16 on GPUs that have its products. Logits of such a model differ by 0.2 at most; it is the same model."""
    model, processor = noisy_checkpoint(tmp_path)
    batch = processor(text=CAPTIONS, videos=arrays())
    expected, digest = model(**batch).logits_per_text, weights_digest(model.state_dict())
    place(model)
    chosen = resolve_precision("auto")
    assert chosen == ("bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16")
    assert f"computing on cuda in {chosen}" in capsys.readouterr().err
    assert (model.device.type, model.dtype) == ("cuda", {"bf16": torch.bfloat16, "fp16": torch.float16}[chosen])
    found = model(**batch.to("cuda", model.dtype)).logits_per_text.cpu()
    torch.testing.assert_close(found, expected, atol=0.2, rtol=0)
    if chosen == "bf16":
        assert weights_digest(model.state_dict()) == digest


@torch.no_grad()
@pytest.mark.usefixtures("exact")
def test_exported_towers_give_the_numbers_of_eager_mode():
    batch = on_gpu(full_batch())
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    video = {name: batch[name] for name in ("pixel_values_videos", "padding_mask_videos")}
    for tower, inputs in ((TextTower(one_layer()), text), (VideoTower(one_layer()), video)):
        program = torch.export.export(tower.to("cuda"), (), inputs).module()
        assert_same_features(program(**inputs), tower(**inputs), 1e-4)


def test_int8_frames_are_of_the_cpu():
    with pytest.raises(ValueError, match="computes on a CPU, not on cuda:0: use device cpu"):
        with_runtime(tiny_model().to("cuda"), "onnx-int8")


# Training and evaluation


@pytest.mark.usefixtures("exact")
def test_a_run_in_float32_has_the_losses_and_results_of_the_cpu(tiny, tmp_path, monkeypatch):
    settings = ("train.precision=fp32", "train.max_steps=3", "data.validation_split=null", *NO_DROPOUT)
    with monkeypatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        expected = train(tiny(*settings, f"output_dir={tmp_path / 'cpu'}"))
    AcceleratorState._reset_state(reset_partial_state=True)
    devices = []
    step = loop.training_step

    def noted_step(accelerator, model, *arguments):
        devices.extend(str(weight.device) for weight in model.parameters())
        return step(accelerator, model, *arguments)

    monkeypatch.setattr(loop, "training_step", noted_step)
    found = train(tiny(*settings, f"output_dir={tmp_path / 'gpu'}"))
    assert set(devices) == {"cuda:0"}
    losses = [logged(tmp_path / device) for device in ("gpu", "cpu")]
    assert losses[0] == pytest.approx(losses[1], abs=5e-3)  # AdamW makes steps of any gradient, however small
    assert losses[0][1] == pytest.approx(losses[1][1], abs=1e-4)
    assert found["test_size"] == expected["test_size"]


@pytest.mark.usefixtures("exact")
def test_an_interrupted_run_goes_on_as_if_it_never_was(tiny, tmp_path, monkeypatch):
    """With dropout: the state of the GPU's random generator comes back, too."""
    settings = ("train.precision=fp32", "train.save_steps=2", "data.validation_split=null")
    train(tiny(*settings, f"output_dir={tmp_path / 'whole'}"))
    AcceleratorState._reset_state(reset_partial_state=True)
    step = loop.training_step

    def die_at_seven(*arguments):
        if arguments[-1].startswith("step 7,"):
            raise InterruptedError
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", die_at_seven)
        with pytest.raises(InterruptedError):
            train(tiny(*settings))
    AcceleratorState._reset_state(reset_partial_state=True)
    train(tiny(*settings))
    assert logged(tmp_path / "run") == pytest.approx(logged(tmp_path / "whole"), abs=2e-3)


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp16"])
@pytest.mark.parametrize("way", ["plain", "grad_cache_chunk=3", "activation_checkpointing=true"])
def test_a_run_in_mixed_precision_ends_with_float32_weights(tiny, tmp_path, precision, way):
    ways = [f"train.{way}"] if way != "plain" else []
    results = train(tiny(f"train.precision={precision}", "train.max_steps=5", "data.validation_split=null", *ways))
    assert results["precision"] == resolve_precision(precision, training=True)
    assert list(logged(tmp_path / "run")) == [1, 2, 3, 4, 5]
    assert results["test"]["t2v"]["R@10"] == 100.0  # of 8 videos
    assert load_checkpoint(tmp_path / "run" / "last")[0].dtype == torch.float32


def test_a_step_that_overflows_in_fp16_is_skipped_and_the_run_goes_on(tiny, tmp_path, monkeypatch):
    scales, step = [], loop.training_step

    def noted_step(accelerator, *arguments):
        if not scales:
            accelerator.scaler._init_scale = 2.0**40  # which no gradient in fp16 survives
        losses = step(accelerator, *arguments)
        scales.append(accelerator.scaler.get_scale())
        return losses

    monkeypatch.setattr(loop, "training_step", noted_step)
    train(tiny("train.precision=fp16", "train.max_steps=6", "train.warmup_ratio=0", "data.validation_split=null"))
    assert scales == [2.0 ** (39 - number) for number in range(6)]
    rates = logged(tmp_path / "run", "train/learning_rate/new").values()
    assert [*rates] == pytest.approx([1e-3] * 6)  # the schedule waits


@pytest.mark.usefixtures("exact")
def test_evaluation_has_the_scores_of_the_cpu(tiny, tmp_path):
    model, processor = noisy_checkpoint(tmp_path / "checkpoint")
    dataset = load_splits(tiny())["test"]
    expected, found = (
        evaluate(model.to(device), processor, dataset, batch_size=3, query_bank=CAPTIONS, progress=False)
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(found.similarity, expected.similarity, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.query_bank.log_sum, expected.query_bank.log_sum, rtol=0, atol=1e-3)
    assert found.metrics == expected.metrics


# The pipeline


def arrays(counts=(5, 2, 9, 4)):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (count, 20, 30, 3), np.uint8) for count in counts]


@pytest.mark.usefixtures("exact")
def test_the_pipeline_ranks_as_on_the_cpu(tmp_path):
    model, processor = noisy_checkpoint(tmp_path)
    ranked = {}
    for device in ("cpu", 0):
        pipe = pipeline("text-video-retrieval", model=model, processor=processor, device=device)
        assert pipe.model.device.type == ("cpu" if device == "cpu" else "cuda")
        pipe.save_index(tmp_path / f"{device}.safetensors", arrays(), batch_size=3)
        ranked[device] = [pipe(CAPTIONS, videos=arrays(), batch_size=2, moments=True)]
        ranked[device] += [pipe(CAPTIONS, videos=tmp_path / f"{name}.safetensors") for name in ("cpu", device)]
    for found, expected in zip(ranked[0], ranked["cpu"], strict=True):
        for one, other in zip(found, expected, strict=True):
            assert [result["index"] for result in one] == [result["index"] for result in other]
            assert [result["score"] for result in one] == pytest.approx([r["score"] for r in other], abs=1e-2)
