"""How likely a model finds the tokens of an answer, one by one: what preference and reinforcement are made of.

`summed_nll` (loss.py) gives their sum, and its gradient, at once. Here each token's log p is wanted by itself.

Letters in shapes: B sequences, T tokens, N tokens of answers, C d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..model.gpt import soft_capped
from .loader import Batch, batch_of
from .loss import rows_at_once
from .noting import NotingObjective


def chats_batch(prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> Batch:
    """Prompts with an answer each, filled up to the longest; the answers' tokens are learned."""
    chats = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    tokens = np.zeros((len(chats), max(map(len, chats))), np.int64)
    is_answer = np.zeros_like(tokens, np.bool_)
    for i, (chat, prompt) in enumerate(zip(chats, prompts, strict=True)):
        tokens[i, : len(chat)], is_answer[i, len(prompt) : len(chat)] = chat, True
    return batch_of(tokens, is_answer)


class AnswerObjective(NotingObjective):
    """An objective made of the log p of answers' tokens."""

    def log_p(self, inputs: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """ln p of each target given what stands before it, (N,) float32; arguments as of `Objective.forward`."""
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            features = self.model.features(inputs).flatten(0, 1)  # (B * T, C)
        features = features.index_select(0, positions)  # (N, C)
        return token_log_p(features, self.model.head_weight, targets, self.dtype, self.model.config.logit_softcap)


def token_log_p(
    features: Tensor, head: Tensor, targets: Tensor, dtype: torch.dtype, softcap: float | None = None
) -> Tensor:
    """ln p of each target, (N,), for features (N, C) and head (V, C); matrix products in `dtype`, the rest in float32.

    A few rows at a time, whose logits are computed again for the gradient: all of them at once would be the largest
    thing in memory.
    """
    parts = []
    for start in range(0, len(features), rows_at_once(features.device, len(head))):
        rows = slice(start, start + rows_at_once(features.device, len(head)))
        some = features[rows], head, targets[rows], dtype, softcap
        parts.append(checkpoint(_log_p, *some, use_reentrant=False) if torch.is_grad_enabled() else _log_p(*some))
    return torch.cat(parts)  # (N,)


def _log_p(features: Tensor, head: Tensor, targets: Tensor, dtype: torch.dtype, softcap: float | None) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        logits = F.linear(features.to(dtype), head.to(dtype))  # (N, V)
    wide = torch.promote_types(logits.dtype, torch.float32)  # float64 stays what it is
    return -F.cross_entropy(soft_capped(logits.to(wide), softcap), targets, reduction="none")  # (N,)
