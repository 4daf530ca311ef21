import pytest
import torch
from torch.nn import functional as F

from llm.train import loss
from llm.train.loss import summed_nll

N, C, V = 23, 8, 40


def inputs():
    draw = torch.Generator().manual_seed(0)
    features, head = torch.randn(N, C, generator=draw), torch.randn(V, C, generator=draw)
    return features.requires_grad_(), head.requires_grad_(), torch.randint(V, (N,), generator=draw)


@pytest.mark.parametrize("rows", [1, 5, 23, 100])
def test_value_and_gradients_equal_those_of_cross_entropy(rows, monkeypatch):
    monkeypatch.setattr(loss, "HEAD_ROWS", rows)
    features, head, targets = inputs()
    expected = F.cross_entropy(features @ head.T, targets, reduction="sum")
    expected_gradients = torch.autograd.grad(3 * expected, (features, head))
    found = summed_nll(features, head, targets, torch.float32)
    gradients = torch.autograd.grad(3 * found, (features, head))
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_bfloat16_products_are_near():
    features, head, targets = inputs()
    exact = summed_nll(features, head, targets, torch.float32)
    rounded = summed_nll(features, head, targets, torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.01)  # 8 bits of mantissa
    gradients = torch.autograd.grad(rounded, (features, head))
    for ours, theirs in zip(gradients, torch.autograd.grad(exact, (features, head)), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_works_where_no_gradient_is_asked_for():
    features, head, targets = inputs()
    with torch.no_grad():
        assert not summed_nll(features, head, targets, torch.float32).requires_grad


def test_improbable_targets_have_a_finite_loss():
    features, head = torch.tensor([[1.0]]), torch.tensor([[0.0], [500.0]])
    assert summed_nll(features, head, torch.tensor([0]), torch.float32).item() == pytest.approx(500.0)
