"""What training makes smaller: the loss of a model's predictions, without ever holding all logits.

Letters in shapes: B batch, T time, N tokens learned from, C d_model, V vocabulary, W the same filled up.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.gpt import GPT, Layout, causal_mask, soft_capped
from ..model.size import HEAD_ROWS

HEAD_BYTES_ON_GPU = 1 << 30
"""A GPU takes as many tokens at a time as have float32 logits of this size: larger matrices keep it busy."""
HEAD_MULTIPLE_ON_GPU = 64
"""Its matrix units are several times slower where a row does not start at a multiple of their width, as with GPT-2's
50,257 tokens; so the head gets rows of zeros, as long as it is multiplied."""


class Objective(nn.Module):
    """A model with its loss: what is differentiated, compiled and distributed."""

    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        """Matrix products are in `dtype`, float32 or bfloat16; weights and gradients stay float32."""
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(
        self, inputs: Tensor, positions: Tensor | None, targets: Tensor, segments: Tensor | None = None
    ) -> Tensor:
        """Sum of -log p over the targets, in nats; float32 scalar.

        `inputs` is (B, T). `targets` (N,) are the tokens to learn and `positions` (N,) their places among the B * T
        positions; None: all of them, in order. A target below 0 is not learned. `segments` (B, T), see `layout_of`,
        keep apart the texts of a row; None: each row is one text.
        """
        layout = None if segments is None else layout_of(segments)
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            features = self.model.features(inputs, layout=layout).flatten(0, 1)  # (B * T, C)
        if positions is not None:
            features = features.index_select(0, positions)  # (N, C)
        return summed_nll(features, self.model.head_weight, targets, self.dtype, self.model.config.logit_softcap)

    def figures(self) -> dict[str, float]:
        """What a step has shown besides its loss, for its line of metrics."""
        return {}


def layout_of(segments: Tensor) -> Layout:
    """The layout of rows that hold several texts one after the other: each sees itself only, and begins at position 0.

    `segments` (B, T) are numbers that are the same within a text and differ between neighbours.
    """
    places = torch.arange(segments.shape[1], device=segments.device)  # (T,)
    is_first = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)  # (B, T)
    starts = torch.where(is_first, places, 0).cummax(dim=1).values  # (B, T)
    same = segments[:, None, :, None] == segments[:, None, None, :]  # (B, 1, T, T)
    return Layout(places - starts, same & causal_mask(len(places), len(places), segments.device))


def summed_nll(
    features: Tensor, head: Tensor, targets: Tensor, dtype: torch.dtype, softcap: float | None = None
) -> Tensor:
    """Sum over tokens of -log p(target), in nats, float32 scalar; a target below 0 counts nothing.

    Equals `cross_entropy(soft_capped(features @ head.T, softcap), targets, reduction="sum")` for features (N, C), head
    (V, C) and targets (N,) int64, with matrix products in `dtype` and the rest in float32. A few rows at a time it
    goes through the logits, and while it has them takes their gradient too: for a small model the logits, V / C times
    the size of the features, are most of the memory, and moving them is most of the time that the head takes.
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
    """The sum, with the gradients for `backward` saved in `ctx` where they are asked for."""
    vocab_size, n_rows = len(head), rows_at_once(features.device, len(head))
    is_learned = targets[:, None] >= 0  # (N, 1)
    targets = targets[:, None].clamp(min=0)  # (N, 1)
    learned = features * is_learned  # (N, C)
    head = filled_up(head, 0)  # (W, C)
    total = torch.zeros((), device=features.device)
    features_gradient = torch.empty_like(features, dtype=torch.float32)  # (N, C)
    head_gradient = torch.zeros_like(head, dtype=torch.float32)  # (W, C)
    needs_gradient = any(ctx.needs_input_grad)
    for start in range(0, len(features), n_rows):
        rows = slice(start, start + n_rows)
        log_p, steepness = _log_p((features[rows] @ head.T)[:, :vocab_size], softcap)  # (n_rows, V)
        total -= (log_p.gather(1, targets[rows]) * is_learned[rows]).sum()
        if needs_gradient:  # of a logit: p, less 1 at the target
            minus_one = torch.full_like(targets[rows], -1.0, dtype=torch.float32)
            slope = log_p.exp_().scatter_add_(1, targets[rows], minus_one)
            slope = slope if steepness is None else slope.mul_(steepness)
            slope = filled_up(slope.to(head.dtype), 1)  # (n_rows, W)
            features_gradient[rows] = slope @ head
            head_gradient += slope.T @ learned[rows]
    if needs_gradient:
        ctx.save_for_backward(features_gradient * is_learned, head_gradient[:vocab_size])
    return total


def rows_at_once(device: torch.device, vocab_size: int) -> int:
    """Tokens whose logits exist at one time."""
    if device.type != "cuda":
        return HEAD_ROWS
    return max(HEAD_ROWS, 1 << (HEAD_BYTES_ON_GPU // (4 * vocab_size)).bit_length() - 1)  # a power of two


def filled_up(x: Tensor, axis: int) -> Tensor:
    """A matrix as a GPU multiplies it fast: with zeros at the end of an axis. Elsewhere x itself."""
    return with_zeros(x, axis, HEAD_MULTIPLE_ON_GPU) if x.is_cuda else x


def with_zeros(x: Tensor, axis: int, multiple: int) -> Tensor:
    """A matrix with zeros at the end of an axis, as many as make it a multiple."""
    n_missing = -x.shape[axis] % multiple
    return F.pad(x, (0, 0, 0, n_missing) if axis == 0 else (0, n_missing)) if n_missing else x


def _log_p(logits: Tensor, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """ln p of each token, float32, and the derivative of the soft cap at each logit (None: there is no cap)."""
    logits = soft_capped(logits.float(), softcap)
    steepness = None if softcap is None else 1 - (logits / softcap).square()  # of tanh: 1 - tanh^2
    return torch.log_softmax(logits, dim=-1), steepness
