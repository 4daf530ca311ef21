"""Chats that end in an answer, and their log-likelihood: what preference and reinforcement are made of.

Letters in shapes: B sequences, N tokens of answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...model.head import token_log_p
from ...tokenizer.tokenizer import Tokenizer
from ..loader import Batch, Sequences, batch_of
from ..loss import Objective
from ..order import one_group

REFERENCE_FILE = "reference.json"
"""Which model the reference log-probabilities are of."""
PairTokens = tuple[list[int], list[int], list[int]]
"""The ids of a prompt, of its chosen and of its rejected answer."""


def chats_batch(prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> Batch:
    """Returns prompts with an answer each, padded to the longest; the answers' tokens are learned."""
    chats = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    tokens = np.zeros((len(chats), max(map(len, chats))), np.int64)
    loss_mask = np.zeros_like(tokens, np.bool_)
    for i, (chat, prompt) in enumerate(zip(chats, prompts, strict=True)):
        tokens[i, : len(chat)], loss_mask[i, len(prompt) : len(chat)] = chat, True
    return batch_of(tokens, loss_mask)


class AnswerObjective(Objective):
    """An objective made of the log-probabilities of answers' tokens."""

    def log_p(self, batch: Batch) -> Tensor:
        """Returns ln p of each answer's tokens given what stands before them, (N,) float32."""
        softcap = self.model.config.logit_softcap
        return token_log_p(self.features(batch), self.model.head_weight, batch.learned(), self.dtype, softcap)

    def answer_log_p(self, batch: Batch) -> Tensor:
        """Returns ln p of each sequence's answer, (B,)."""
        log_p = self.log_p(batch)  # (N,)
        return log_p.new_zeros(len(batch.inputs)).index_add(0, batch.learned_rows(), log_p)


@dataclass(frozen=True, kw_only=True)
class PairBatch(Batch):
    """B pairs as 2B sequences: the chosen answers, then, in the same order, the rejected ones."""

    reference: Tensor
    """(2B,) float32: ln ref(y|x) of each sequence."""

    @property
    def n_learned(self) -> int:
        """Pairs: the loss is their mean."""
        return len(self.inputs) // 2


class Pairs(Sequences):
    """Preference pairs in memory; a row is a pair."""

    def __init__(self, pairs: Sequence[PairTokens], log_p: np.ndarray) -> None:
        """The ids of each pair, and ln ref(y|x) of its answers, (pairs, 2)."""
        self._pairs, self._log_p = pairs, log_p.astype(np.float32)
        lengths = [len(prompt) + max(len(chosen), len(rejected)) for prompt, chosen, rejected in pairs]
        self._lengths = np.array(lengths, np.int64)
        self.order = one_group(len(pairs))

    def __len__(self) -> int:
        return len(self._pairs)

    def prompt(self, row: int) -> list[int]:
        """Returns the ids of a pair's prompt, which ask for an answer."""
        return self._pairs[row][0]

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Returns the tokens in the longer chat of each of the rows."""
        return self._lengths[rows]

    def batch(self, rows: np.ndarray) -> PairBatch:
        """Returns the rows, padded to the longest of them."""
        prompts, chosen, rejected = zip(*(self._pairs[row] for row in rows), strict=True)
        batch = chats_batch(prompts * 2, chosen + rejected)
        log_p = torch.from_numpy(self._log_p[rows].T.flatten())  # (2B,)
        return PairBatch(batch.inputs, batch.targets, batch.positions, reference=log_p)


def rendered(prompt: list[dict[str, str]], chosen: str, rejected: str, tokenizer: Tokenizer) -> PairTokens:
    """Returns the ids of a prompt and of either answer to it, each with the end of its turn."""
    answers = [[*tokenizer.encode(answer), tokenizer.end_token] for answer in (chosen, rejected)]
    return tokenizer.render_chat(prompt, add_generation_prompt=True)[0], answers[0], answers[1]
