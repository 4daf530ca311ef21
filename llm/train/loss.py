"""What training makes smaller: the loss of a model's predictions, without ever holding all logits.

Letters in shapes: B batch, T time, N tokens learned from, C d_model, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..model.gpt import GPT
from ..model.size import HEAD_ROWS


class Objective(nn.Module):
    """A model with its loss: what is differentiated, compiled and distributed."""

    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        """Matrix products are in `dtype`, float32 or bfloat16; weights and gradients stay float32."""
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, inputs: Tensor, positions: Tensor | None, targets: Tensor) -> Tensor:
        """Sum of -log p over the targets, in nats; float32 scalar.

        `inputs` is (B, T). `targets` (N,) are the tokens to learn and `positions` (N,) their places among the B * T
        positions; None: all of them, in order.
        """
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            features = self.model.features(inputs).flatten(0, 1)  # (B * T, C)
        if positions is not None:
            features = features.index_select(0, positions)  # (N, C)
        return summed_nll(features, self.model.head_weight, targets, self.dtype)


def summed_nll(features: Tensor, head: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum over tokens of -log p(target), in nats, float32 scalar.

    Equals `cross_entropy(features @ head.T, targets, reduction="sum")` for features (N, C), head (V, C) and targets
    (N,) int64, with matrix products in `dtype` and the rest in float32. A few rows at a time it goes through the
    logits, and while it has them takes their gradient too: for a small model the logits, V / C times the size of the
    features, are most of the memory, and moving them is most of the time that the head takes.
    """
    return _SummedNLL.apply(features, head, targets, dtype)  # type: ignore[no-untyped-call]


class _SummedNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, head: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return _forward(ctx, features.to(dtype), head.to(dtype), targets)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        features_gradient, head_gradient = ctx.saved_tensors
        return gradient * features_gradient, gradient * head_gradient, None, None


def _forward(ctx: Any, features: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """The sum, with the gradients for `backward` saved in `ctx` where they are asked for."""
    total = torch.zeros((), device=features.device)
    features_gradient = torch.empty_like(features, dtype=torch.float32)  # (N, C)
    head_gradient = torch.zeros_like(head, dtype=torch.float32)  # (V, C)
    needs_gradient = any(ctx.needs_input_grad)
    for start in range(0, len(features), HEAD_ROWS):
        rows = slice(start, start + HEAD_ROWS)
        log_p = torch.log_softmax((features[rows] @ head.T).float(), dim=-1)  # (HEAD_ROWS, V)
        target = targets[rows, None]
        total -= log_p.gather(1, target).sum()
        if needs_gradient:  # of a logit: p, less 1 at the target
            slope = log_p.exp_().scatter_add_(1, target, torch.full_like(target, -1.0, dtype=torch.float32))
            slope = slope.to(head.dtype)
            features_gradient[rows] = slope @ head
            head_gradient += slope.T @ features[rows]
    if needs_gradient:
        ctx.save_for_backward(features_gradient, head_gradient)
    return total
