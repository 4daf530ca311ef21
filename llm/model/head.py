"""The head a few rows at a time, without ever holding all logits: losses, log-probabilities, scores.

For a small model the logits, V / C times the size of the features, are most of the memory, and moving them is most of
the time that the head takes.

Letters in shapes: N tokens, C d_model, V vocabulary, W the same padded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .gpt import soft_capped
from .size import HEAD_ROWS

SCORE_ROWS = 512
"""Rows at a time where nothing is trained: with 4,096 tokens in the vocabulary 8 MB, which stay in a CPU's cache."""
HEAD_BYTES_ON_GPU = 1 << 30
"""A GPU takes as many tokens at a time as have float32 logits of this size: larger matrices keep it busy."""
HEAD_MULTIPLE_ON_GPU = 64
"""Its matrix units are several times slower where a row does not start at a multiple of their width, as with GPT-2's
50,257 tokens; so the head gets rows of zeros, as long as it is multiplied."""


def rows_at_once(device: torch.device, vocab_size: int) -> int:
    """Returns the number of tokens whose logits exist at one time in training."""
    if device.type != "cuda":
        return HEAD_ROWS
    return max(HEAD_ROWS, 1 << (HEAD_BYTES_ON_GPU // (4 * vocab_size)).bit_length() - 1)  # a power of two


def summed_nll(
    features: Tensor, head: Tensor, targets: Tensor, dtype: torch.dtype, softcap: float | None = None
) -> Tensor:
    """Returns the sum over tokens of -log p(target), in nats, float32 scalar; a target below 0 counts nothing.

    Equals `cross_entropy(soft_capped(features @ head.T, softcap), targets, reduction="sum")` for features (N, C), head
    (V, C) and targets (N,) int64, with matrix products in `dtype` and the rest in float32. While it has the logits of
    some rows it takes their gradient too.
    """
    return _SummedNLL.apply(features, head, targets, dtype, softcap)  # type: ignore[no-untyped-call]


class _SummedNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, head: Tensor, targets: Tensor, dtype: torch.dtype, softcap: float | None
    ) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return _forward(ctx, features.to(dtype), head.to(dtype), targets, softcap)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        features_gradient, head_gradient = ctx.saved_tensors
        return gradient * features_gradient, gradient * head_gradient, None, None, None


def _forward(ctx: Any, features: Tensor, head: Tensor, targets: Tensor, softcap: float | None) -> Tensor:
    """Returns the sum, with the gradients for `backward` saved in `ctx` where they are asked for."""
    vocab_size, n_rows = len(head), rows_at_once(features.device, len(head))
    loss_mask = targets[:, None] >= 0  # (N, 1)
    targets = targets[:, None].clamp(min=0)  # (N, 1)
    masked = features * loss_mask  # (N, C)
    head = padded(head, 0)  # (W, C)
    total = torch.zeros((), device=features.device)
    features_gradient = torch.empty_like(features, dtype=torch.float32)  # (N, C)
    head_gradient = torch.zeros_like(head, dtype=torch.float32)  # (W, C)
    needs_gradient = any(ctx.needs_input_grad)
    for start in range(0, len(features), n_rows):
        rows = slice(start, start + n_rows)
        logits = soft_capped((features[rows] @ head.T)[:, :vocab_size].float(), softcap)  # (n_rows, V)
        steepness = None if softcap is None else 1 - (logits / softcap).square()  # of tanh: 1 - tanh^2
        log_p = torch.log_softmax(logits, dim=-1)
        total -= (log_p.gather(1, targets[rows]) * loss_mask[rows]).sum()
        if needs_gradient:  # of a logit: p, less 1 at the target
            minus_one = torch.full_like(targets[rows], -1.0, dtype=torch.float32)
            slope = log_p.exp_().scatter_add_(1, targets[rows], minus_one)
            slope = slope if steepness is None else slope.mul_(steepness)
            slope = padded(slope.to(head.dtype), 1)  # (n_rows, W)
            features_gradient[rows] = slope @ head
            head_gradient += slope.T @ masked[rows]
    if needs_gradient:
        ctx.save_for_backward(features_gradient * loss_mask, head_gradient[:vocab_size])
    return total


def padded(x: Tensor, axis: int) -> Tensor:
    """Returns a matrix as a GPU multiplies it fast: with zeros at the end of an axis. Elsewhere x itself."""
    return zero_padded(x, axis, HEAD_MULTIPLE_ON_GPU) if x.is_cuda else x


def zero_padded(x: Tensor, axis: int, multiple: int) -> Tensor:
    """Returns a matrix with zeros at the end of an axis, as many as make its length a multiple."""
    n_missing = -x.shape[axis] % multiple
    return F.pad(x, (0, 0, 0, n_missing) if axis == 0 else (0, n_missing)) if n_missing else x


def token_log_p(
    features: Tensor, head: Tensor, targets: Tensor, dtype: torch.dtype, softcap: float | None = None
) -> Tensor:
    """Returns ln p of each target, (N,), for features (N, C) and head (V, C): `summed_nll` token by token.

    Matrix products are in `dtype`, the rest in float32. The logits are computed again for the gradient.
    """
    parts, n_rows = [], rows_at_once(features.device, len(head))
    for start in range(0, len(features), n_rows):
        rows = slice(start, start + n_rows)
        some = features[rows], head, targets[rows], dtype, softcap
        is_trained = torch.is_grad_enabled()
        parts.append(checkpoint(_token_log_p, *some, use_reentrant=False) if is_trained else _token_log_p(*some))
    return torch.cat(parts)  # (N,)


def _token_log_p(features: Tensor, head: Tensor, targets: Tensor, dtype: torch.dtype, softcap: float | None) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        logits = F.linear(features.to(dtype), head.to(dtype))  # (N, V)
    wide = torch.promote_types(logits.dtype, torch.float32)  # float64 stays what it is
    return -F.cross_entropy(soft_capped(logits.to(wide), softcap), targets, reduction="none")  # (N,)


def score_targets(features: Tensor, head: Tensor, targets: Tensor, softcap: float | None) -> tuple[Tensor, Tensor]:
    """Returns ln p of each target, (N,) float32, and whether it is the argmax, (N,) booleans.

    For evaluation: without gradients, and in place, so that no more than one slice of logits is ever held.
    """
    log_p = torch.empty(len(targets), device=features.device)
    is_greedy = torch.empty(len(targets), dtype=torch.bool, device=features.device)
    for start in range(0, len(targets), SCORE_ROWS):
        rows = slice(start, start + SCORE_ROWS)
        logits = soft_capped(F.linear(features[rows], head).float(), softcap)  # (N, V)
        target = logits.gather(1, targets[rows, None])  # (N, 1)
        largest = logits.amax(1, keepdim=True)  # (N, 1)
        log_sum = logits.sub_(largest).exp_().sum(1, keepdim=True).log_().add_(largest)  # (N, 1)
        log_p[rows] = (target - log_sum)[:, 0]
        is_greedy[rows] = (target == largest)[:, 0]
    return log_p, is_greedy
