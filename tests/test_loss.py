"""The losses against their naive twins and the authors' numbers."""

import pytest
import torch
from paths import TESTS
from reference import SCORES, reference_contrastive_loss, reference_csc_loss
from safetensors.torch import load_file

from modeling_glccl.configuration_glccl import CSC_VARIANTS
from modeling_glccl.loss_glccl import contrastive_loss, csc_loss, csc_sums

GOLDEN = load_file(TESTS / "golden" / "glccl_forward_s0.safetensors")


def random_scores(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, size, size, generator=generator, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("losses", [(contrastive_loss, csc_loss), (reference_contrastive_loss, reference_csc_loss)])
def test_losses_equal_the_authors(losses):
    scores = torch.stack([GOLDEN[f"train.out.score_{name}"] for name in SCORES])
    retrieval, csc = losses[0](scores.mean(dim=0)), losses[1](scores)
    torch.testing.assert_close(retrieval, GOLDEN["train.out.loss_retrieval"], rtol=1e-6, atol=0)
    torch.testing.assert_close(csc, GOLDEN["train.out.loss_csc"], rtol=5e-6, atol=0)
    torch.testing.assert_close(retrieval + 0.5 * csc, GOLDEN["train.out.loss_total"], rtol=2e-6, atol=0)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_losses_and_gradients_equal_the_twins(size):
    scores = random_scores(size)
    for ours, twin in [
        (contrastive_loss(scores.mean(dim=0)), reference_contrastive_loss(scores.mean(dim=0))),
        *((csc_loss(scores, variant), reference_csc_loss(scores, variant)) for variant in CSC_VARIANTS),
    ]:
        torch.testing.assert_close(ours, twin)
        torch.testing.assert_close(*(torch.autograd.grad(loss, scores)[0] for loss in (ours, twin)))


@pytest.mark.parametrize("variant", CSC_VARIANTS)
def test_the_sums_of_csc_add_up_over_processes_that_hold_some_rows(variant):
    scores = random_scores(5).detach()
    rows = torch.arange(5)
    parts = [csc_sums(scores[:, part], part, variant) for part in rows.split(2)]
    torch.testing.assert_close(sum(parts), csc_sums(scores, rows, variant))


@pytest.mark.parametrize(
    ("loss", "shape", "message"),
    [
        (csc_loss, (4, 1, 1), r"batch of at least 2; got 1.*csc_weight=0"),
        (contrastive_loss, (2, 3), r"one video per text.*\(2, 3\)"),
        (csc_loss, (4, 2, 3), r"one video per text.*\(2, 3\)"),
    ],
)
def test_scores_without_matching_and_other_pairs_are_refused(loss, shape, message):
    with pytest.raises(ValueError, match=message):
        loss(torch.zeros(shape))
