import pytest
import torch
from torch.nn import functional as F

from llm.model import head as head_module
from llm.model.head import summed_nll, token_log_p

N, C, V = 23, 8, 40


def inputs():
    draw = torch.Generator().manual_seed(0)
    features, head = torch.randn(N, C, generator=draw), torch.randn(V, C, generator=draw)
    return features.requires_grad_(), head.requires_grad_(), torch.randint(V, (N,), generator=draw)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("rows", [1, 5, 23, 100])
def test_value_and_gradients_equal_those_of_cross_entropy(rows, softcap, monkeypatch):
    monkeypatch.setattr(head_module, "HEAD_ROWS", rows)
    features, head, targets = inputs()
    logits = features @ head.T
    expected = F.cross_entropy(logits if softcap is None else 3 * torch.tanh(logits / 3), targets, reduction="sum")
    expected_gradients = torch.autograd.grad(3 * expected, (features, head))
    found = summed_nll(features, head, targets, torch.float32, softcap)
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


def test_targets_below_zero_are_outside_of_the_loss_mask():
    features, head, targets = inputs()
    targets[::3] = -100
    expected = F.cross_entropy(features @ head.T, targets, reduction="sum")
    expected_gradients = torch.autograd.grad(expected, (features, head))
    found = summed_nll(features, head, targets, torch.float32)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad(found, (features, head)), expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_gpu_takes_more_tokens_at_a_time_where_the_vocabulary_is_small():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert [head_module.rows_at_once(gpu, vocab) for vocab in (50_257, 4096, 10**6)] == [4096, 65_536, 1024]
    assert head_module.rows_at_once(cpu, 4096) == 1024


@pytest.mark.parametrize(("axis", "shape"), [(0, (64, 5)), (1, (3, 64))])
def test_matrices_are_padded_with_zeros(axis, shape, monkeypatch):
    x = torch.randn(40, 5) if axis == 0 else torch.randn(3, 40)
    assert head_module.padded(x, axis) is x  # on a CPU there is nothing to win
    full = head_module.zero_padded(x, axis, 64)
    assert full.shape == shape
    torch.testing.assert_close(full.narrow(axis, 0, 40), x)
    assert not full.narrow(axis, 40, 24).any()


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("rows", [1, 5, 100])
def test_scores_are_log_p_and_argmax(rows, softcap, monkeypatch):
    monkeypatch.setattr(head_module, "SCORE_ROWS", rows)
    features, head, targets = (tensor.detach() for tensor in inputs())
    logits = features @ head.T
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    targets[::2] = logits.argmax(-1)[::2]
    log_p, is_greedy = head_module.score_targets(features, head, targets, softcap)
    torch.testing.assert_close(log_p, torch.log_softmax(logits, -1)[torch.arange(N), targets])
    assert torch.equal(is_greedy, logits.argmax(-1) == targets)
    assert 0 < is_greedy.sum() < N


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_log_p_in_pieces_is_log_p(softcap, monkeypatch):
    monkeypatch.setattr(head_module, "rows_at_once", lambda device, n: 4)
    torch.manual_seed(0)
    features, head = (torch.randn(n, 6, dtype=torch.float64, requires_grad=True) for n in (10, 9))
    targets = torch.randint(0, 9, (10,))
    logits = features @ head.T
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    expected = torch.log_softmax(logits, -1)[torch.arange(10), targets]
    weights = torch.randn(10, dtype=torch.float64)
    wanted = torch.autograd.grad((weights * expected).sum(), (features, head))
    found = token_log_p(features, head, targets, torch.float64, softcap)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad((weights * found).sum(), (features, head)), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
