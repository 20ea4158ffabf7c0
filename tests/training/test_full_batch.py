"""The loss over several processes and over chunks equals that of one process with the whole batch."""

import full_batch_worker
import pytest
import torch
from launched import launch
from models import full_batch, tiny_model
from safetensors.torch import load_file

from modeling_glccl.training.full_batch import FullBatchLoss


def plain_step() -> dict[str, torch.Tensor]:
    model = tiny_model(csc_weight=0.5)
    output = model(**full_batch(), return_loss=True)
    output.loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters()} | {
        "loss": output.loss.detach(),
        "csc_loss": output.csc_loss.detach(),
    }


def assert_same_step(results: dict[str, torch.Tensor]) -> None:
    expected = plain_step()
    assert results.keys() == expected.keys()
    for name, value in expected.items():
        error = (results[name] - value).abs().max()
        assert error <= 2e-5 * value.abs().max().clamp_min(1), f"{name}: {error}"


@pytest.mark.parametrize(("processes", "chunk"), [(1, 0), (2, 0), (2, 3), (4, 0)])
def test_gradients_of_every_parameter_equal_the_single_process_ones(tmp_path, processes, chunk):
    launch(full_batch_worker.main, processes, tmp_path / "step.safetensors", chunk)
    results = load_file(tmp_path / "step.safetensors")
    assert results.pop("world_size") == processes
    assert_same_step(results)


@pytest.mark.parametrize("chunk", [1, 3, 8, 20])
def test_gradient_cache_equals_the_plain_step(chunk):
    model = tiny_model(csc_weight=0.5)
    losses = FullBatchLoss(model, chunk)(**full_batch())
    losses.loss.backward()
    assert_same_step(
        {name: weight.grad for name, weight in model.named_parameters()}
        | {"loss": losses.loss.detach(), "csc_loss": losses.csc_loss.detach()}
    )


def test_gradient_cache_without_masks_and_without_csc():
    batch = {name: values for name, values in full_batch().items() if "mask" not in name}
    model = tiny_model(csc_weight=0.0)
    losses = FullBatchLoss(model, 3)(**batch)
    assert losses.csc_loss is None
    torch.testing.assert_close(losses.loss, model(**batch, return_loss=True).loss)
