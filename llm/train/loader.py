"""Sequences of tokens as batches, the next step's made ready while the model works on this one.

Packed shards (`shards.py`) and chats (`examples.py`) are the same thing here: sequences of tokens, each token
supervised (the model learns to predict it) or not. In pretraining every token is; in fine-tuning what the assistant
says. Which sequences a step sees is a function of seed and step alone (`order.py`), so there is no state to save.

Letters in shapes: B sequences in a micro-batch, T tokens of the longest of them less one, N targets to learn.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ..files import sha256_file
from .order import Order

IGNORED = -100
"""Target of a position outside of the loss mask; `cross_entropy` skips it."""


@dataclass(frozen=True)
class Batch:
    """Inputs and the tokens that should follow each of them."""

    inputs: Tensor
    """(B, T) int64."""
    targets: Tensor
    """(B, T) int64; `IGNORED` where nothing is learned."""
    positions: Tensor | None = None
    """(N,) int64, the positions in the loss mask among the B * T; None: all of them."""
    segments: Tensor | None = None
    """(B, T) int64, which of the texts in its row a token belongs to, -1 after the last one; no text sees anything of
    the others. None: each row is one text."""

    @property
    def n_tokens(self) -> int:
        """Number of targets to learn; known without asking the device."""
        return self.targets.numel() if self.positions is None else len(self.positions)

    @property
    def n_learned(self) -> int:
        """What the sum of losses is divided by: the tokens, or the examples of a method that counts these."""
        return self.n_tokens

    def learned(self) -> Tensor:
        """Returns the targets to learn, (N,); for CUDA without waiting for the device."""
        targets = self.targets.flatten()
        return targets if self.positions is None else targets[self.positions]

    def learned_rows(self) -> Tensor:
        """Returns the row of each target to learn, (N,)."""
        assert self.positions is not None, "every token of the batch is learned"
        return self.positions // self.inputs.shape[1]

    def emptied(self) -> Self:
        """Returns the same with nothing to learn: what a process works on while others still have batches of a step."""
        nothing = torch.empty(0, dtype=torch.int64, device=self.inputs.device)
        return replace(self, targets=torch.full_like(self.targets, IGNORED), positions=nothing)

    def to(self, device: torch.device) -> Self:
        """Returns the same on a device; a copy out of pinned memory does not wait."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Self:
        """Returns the same in memory that a GPU can copy from by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in tensors.items() if value is not None})


def batch_of(tokens: np.ndarray, loss_mask: np.ndarray | None = None) -> Batch:
    """Returns a batch of sequences of one width: `tokens` (B, T + 1).

    `loss_mask` (B, T + 1) booleans: which of them are targets; None: all but the first of each sequence.
    """
    ids = torch.from_numpy(tokens.astype(np.int64))
    inputs, targets = ids[:, :-1], ids[:, 1:]  # two views of one array
    if loss_mask is None:
        return Batch(inputs, targets)
    mask = torch.from_numpy(loss_mask[:, 1:])
    return Batch(inputs, targets.masked_fill(~mask, IGNORED), mask.flatten().nonzero().flatten())


class Sequences(abc.ABC):
    """Sequences of tokens, numbered from 0: the rows."""

    order: Order
    """The stream of rows that training reads."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Returns the tokens in each of the rows."""

    @abc.abstractmethod
    def batch(self, rows: np.ndarray) -> Batch:
        """Returns the rows, padded to the longest of them."""

    def batches(self, rows: np.ndarray, micro_batch_size: int) -> Iterator[Batch]:
        """Yields the rows in batches of `micro_batch_size`, shortest first, so that there is little padding."""
        rows = rows[np.argsort(self.lengths(rows), kind="stable")]
        for start in range(0, len(rows), micro_batch_size):
            yield self.batch(rows[start : start + micro_batch_size])


def step_rows(order: Order, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Returns which rows step `step` trains on, (batch_size,) int64: the next ones of the stream."""
    return order.rows(step * batch_size, (step + 1) * batch_size, seed)


class StepLoader:
    """The batches of each step of training. While the model works on one, a thread makes the next one ready."""

    def __init__(
        self,
        sequences: Sequences,
        batch_size: int,
        micro_batch_size: int,
        seed: int,
        device: torch.device,
        share: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
    ) -> None:
        """Takes as `share` this process's part of a step's rows. Raises ValueError for less than one batch."""
        if len(sequences) < batch_size:
            raise ValueError(
                f"a step trains on {batch_size} sequences, but there are only {len(sequences)}: add documents or "
                "examples, or set a smaller batch_size (in pretraining: pretrain.batch_tokens)"
            )
        self.sequences, self.batch_size, self.micro_batch_size = sequences, batch_size, micro_batch_size
        self.seed, self.device, self.share = seed, device, share
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._ahead: tuple[int, Future[list[Batch]]] = -1, Future()

    def batches(self, step: int) -> list[Batch]:
        """Returns the batches that this process trains on in step `step`, on the device; any step can be asked for.

        Raises OSError when a shard cannot be read.
        """
        step_ahead, ahead = self._ahead
        batches = (ahead if step_ahead == step else self._submit(step)).result()
        self._ahead = step + 1, self._submit(step + 1)
        return [batch.to(self.device) for batch in batches]

    def _submit(self, step: int) -> Future[list[Batch]]:
        return self._thread.submit(self._made_ready, step)

    def _made_ready(self, step: int) -> list[Batch]:
        rows = self.share(step_rows(self.sequences.order, self.batch_size, step, self.seed))
        batches = self.sequences.batches(rows, self.micro_batch_size)
        return [batch.pinned() if self.device.type == "cuda" else batch for batch in batches]


def evenly_spaced(n_sequences: int, n_chosen: int) -> np.ndarray:
    """Returns at most `n_chosen` rows out of `n_sequences`, evenly spaced, the same each time."""
    n_chosen = min(n_chosen, n_sequences)
    return np.arange(n_chosen) * n_sequences // max(1, n_chosen)


def files_digest(paths: Iterable[Path]) -> str:
    """Returns one hash of the content of several files, in their order."""
    return hashlib.sha256("".join(sha256_file(path) for path in paths).encode()).hexdigest()
