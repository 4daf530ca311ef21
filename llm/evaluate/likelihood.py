"""Log-likelihoods of token sequences, in batches: the one measurement under every score here.

Shapes: B windows in a batch, T tokens in the longest of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from ..model.gpt import GPT

Advance = Callable[[int], None]
_IGNORED = -100  # target of a padded position: cross_entropy gives it loss 0


@dataclass(frozen=True)
class _Window:
    sequence: int
    start: int
    tokens: Sequence[int]


def token_log_likelihoods(
    model: GPT, sequences: Sequence[Sequence[int]], *, batch_tokens: int, advance: Advance
) -> list[npt.NDArray[np.float64]]:
    """For each sequence, ln p of every token after its first, given those before it: len(sequence) - 1 numbers.

    Every token is predicted exactly once. A sequence longer than context_length + 1 tokens is read in windows that
    overlap by one token, so what follows a window's edge has less context. Batches hold windows of like length, at
    most `batch_tokens` tokens with their padding (on the right, where a causal model does not see it). Arithmetic
    is the model's own float32, without autocast. `advance` is called after each batch with its number of tokens.
    """
    results = [np.zeros(max(len(tokens) - 1, 0)) for tokens in sequences]
    windows = _windows(sequences, model.config.context_length)
    with _evaluating(model):
        for batch in _batches(windows, batch_tokens):
            for window, scores in zip(batch, _score(model, batch), strict=True):
                n_targets = len(window.tokens) - 1
                results[window.sequence][window.start : window.start + n_targets] = scores[:n_targets]
            advance(sum(len(window.tokens) - 1 for window in batch))
    return results


def n_targets(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens `token_log_likelihoods` will predict, the unit of its progress."""
    return sum(max(len(tokens) - 1, 0) for tokens in sequences)


def _windows(sequences: Sequence[Sequence[int]], context_length: int) -> list[_Window]:
    return [
        _Window(index, start, tokens[start : start + context_length + 1])
        for index, tokens in enumerate(sequences)
        for start in range(0, len(tokens) - 1, context_length)
    ]


def _batches(windows: list[_Window], batch_tokens: int) -> Iterator[list[_Window]]:
    batch: list[_Window] = []
    for window in sorted(windows, key=lambda window: -len(window.tokens)):  # longest first: it sets the width
        if batch and (len(batch) + 1) * (len(batch[0].tokens) - 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


@contextlib.contextmanager
def _evaluating(model: GPT) -> Iterator[None]:
    """Dropout off, no gradients, no autocast; leaves the model in the mode it was in."""
    was_training = model.training
    model.eval()
    device_type = next(model.parameters()).device.type
    try:
        with torch.inference_mode(), torch.autocast(device_type, enabled=False):
            yield
    finally:
        model.train(was_training)


def _score(model: GPT, batch: list[_Window]) -> npt.NDArray[np.float32]:
    """ln p of the tokens after each window's first, (B, T - 1), zero where padded."""
    width = len(batch[0].tokens) - 1
    inputs = np.zeros((len(batch), width), dtype=np.int64)  # (B, T - 1)
    targets = np.full((len(batch), width), _IGNORED, dtype=np.int64)  # (B, T - 1)
    for row, window in enumerate(batch):
        inputs[row, : len(window.tokens) - 1] = window.tokens[:-1]
        targets[row, : len(window.tokens) - 1] = window.tokens[1:]
    device = next(model.parameters()).device
    logits = model(torch.from_numpy(inputs).to(device))  # (B, T - 1, V)
    flat_targets = torch.from_numpy(targets).to(device).flatten()
    losses = F.cross_entropy(logits.flatten(0, 1), flat_targets, ignore_index=_IGNORED, reduction="none")
    return -losses.view(len(batch), width).cpu().numpy()
