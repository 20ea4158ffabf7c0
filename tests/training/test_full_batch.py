"""The loss over several processes and over chunks equals that of one process with the whole batch."""

import full_batch_worker
import pytest
import torch
from launched import launch
from models import full_batch, tiny_model
from safetensors.torch import load_file

from modeling_glccl.training.full_batch import FullBatchLoss

HEADS = ("glscl", "xclip")  # the one has a loss of its own, the other features of its own


def assert_same_step(head: str, results: dict[str, torch.Tensor]) -> None:
    """As a plain step of the model, which `results` may say more of."""
    model = full_batch_worker.make_model(head)
    expected = full_batch_worker.step(model, model(**full_batch(), return_loss=True))
    assert results.keys() >= expected.keys()
    for name, value in expected.items():
        error = (results[name] - value).abs().max()
        assert error <= 2e-5 * value.abs().max().clamp_min(1), f"{name}: {error}"


@pytest.mark.parametrize(
    ("processes", "chunk", "head"),
    [(1, 0, "glccl"), (2, 3, "glccl"), (4, 0, "glccl"), *((2, 0, head) for head in HEADS)],
)
def test_gradients_of_every_parameter_equal_the_single_process_ones(tmp_path, processes, chunk, head):
    launch(full_batch_worker.main, processes, tmp_path / "step.safetensors", chunk, head)
    results = load_file(tmp_path / "step.safetensors")
    assert results["world_size"] == processes
    assert_same_step(head, results)


@pytest.mark.parametrize(
    ("chunk", "head"),
    [*((chunk, "glccl") for chunk in (1, 3, 8, 20)), *((chunk, head) for head in HEADS for chunk in (None, 3))],
)
def test_gradient_cache_equals_the_plain_step(chunk, head):
    model = full_batch_worker.make_model(head)
    assert_same_step(head, full_batch_worker.step(model, FullBatchLoss(model, chunk)(**full_batch())))


def test_gradient_cache_without_masks_and_without_csc():
    batch = {name: values for name, values in full_batch().items() if "mask" not in name}
    model = tiny_model(csc_weight=0.0)
    losses = FullBatchLoss(model, 3)(**batch)
    assert losses.csc_loss is None
    torch.testing.assert_close(losses.loss, model(**batch, return_loss=True).loss)
