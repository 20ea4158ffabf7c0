"""What is told of the machine."""

import pytest
import torch

from modeling_glccl.environment import resolve_precision


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx512_bf16": False}, "fp32"), ({}, "fp32")],
)
def test_automatic_precision_is_bf16_where_the_processor_has_its_products(monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert resolve_precision("auto") == precision


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_stated_precision_is_kept(precision):
    assert resolve_precision(precision) == precision
