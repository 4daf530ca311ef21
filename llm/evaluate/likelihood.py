"""Log-likelihoods of token sequences, in batches: the one measurement under every score here.

Shapes: B rows in a batch, T tokens in the longest of them, N tokens that count, C d_model, V vocabulary.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..model.gpt import GPT
from ..model.head import score_targets
from .trees import Continuation, Tree, build_trees, layout, token_rows

logger = logging.getLogger(__name__)

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Scored:
    """Of a continuation's tokens that count, in order: ln p given all before, and whether each was the argmax."""

    log_p: npt.NDArray[np.float64]
    is_greedy: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Window:
    sequence: int
    start: int
    """Index of its first score among those of the sequence."""
    tokens: Sequence[int]
    n_known: int
    """Scores at its beginning that an earlier window has given."""


def token_log_likelihoods(
    model: GPT, sequences: Sequence[Sequence[int]], *, batch_tokens: int, advance: Advance
) -> list[npt.NDArray[np.float64]]:
    """Returns ln p of every token of each sequence after its first, given those before it: len(sequence) - 1 numbers.

    Every token is predicted exactly once. A sequence longer than context_length + 1 tokens is read in windows, so what
    follows a window's edge has less context. Each window begins with the sequence's first token, `<|document|>`, as
    every row of training does, then repeats the last token before its edge. See `score` for the rest.
    """
    results = [np.zeros(max(len(tokens) - 1, 0)) for tokens in sequences]
    windows = _windows(sequences, model.config.context_length)
    continuations = [Continuation(window.tokens, 1 + window.n_known) for window in windows]
    scored = score(model, continuations, batch_tokens=batch_tokens, advance=advance)
    for window, scores in zip(windows, scored, strict=True):
        results[window.sequence][window.start : window.start + len(scores.log_p)] = scores.log_p
    return results


def n_targets(sequences: Sequence[Sequence[int]]) -> int:
    """Returns how many tokens `token_log_likelihoods` will predict, the unit of its progress."""
    return sum(max(len(tokens) - 1, 0) for tokens in sequences)


def _windows(sequences: Sequence[Sequence[int]], context_length: int) -> list[_Window]:
    windows = []
    for index, tokens in enumerate(sequences):
        if len(tokens) > 1:
            windows.append(_Window(index, 0, tokens[: context_length + 1], n_known=0))
        for start in range(context_length, len(tokens) - 1, context_length - 1):
            windows.append(_Window(index, start, [tokens[0], *tokens[start : start + context_length]], n_known=1))
    return windows


def fitted(continuation: Continuation, context_length: int) -> Continuation:
    """Cuts the first tokens of a continuation that has more than context_length + 1; the last ones count still."""
    n_cut = max(0, len(continuation.tokens) - context_length - 1)
    return Continuation(continuation.tokens[n_cut:], max(1, continuation.start - n_cut)) if n_cut else continuation


def score(
    model: GPT, continuations: Sequence[Continuation], *, batch_tokens: int, advance: Advance = lambda _: None
) -> list[Scored]:
    """Returns the scores of continuations of up to context_length + 1 tokens, in their order.

    What several begin with is read once (trees.py). Batches hold trees of like size, at most `batch_tokens` tokens with
    their padding; one that the device has no memory for is halved. Arithmetic is the model's own float32, without
    autocast. `advance` is called after each batch with the number of its tokens that count.
    """
    results: list[Scored | None] = [None] * len(continuations)
    trees = build_trees(continuations, batch_tokens)
    with _evaluating(model):
        for batch in _batches(trees, batch_tokens):
            asked = [index for tree in batch for index, _ in tree.asked]
            targets = [continuations[index] for index in asked]
            for index, scores in zip(asked, _score_in_memory(model, batch, targets), strict=True):
                results[index] = scores
            advance(sum(continuation.n_targets for continuation in targets))
    return [scores for scores in results if scores is not None]


def _batches(trees: Sequence[Tree], batch_tokens: int) -> Iterator[list[Tree]]:
    batch: list[Tree] = []
    for tree in sorted(trees, key=lambda tree: (tree.is_chain, -len(tree))):  # the longest first: it sets the width
        is_other = batch and tree.is_chain != batch[0].is_chain
        if is_other or (batch and (len(batch) + 1) * len(batch[0]) > batch_tokens):
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


@contextlib.contextmanager
def _evaluating(model: GPT) -> Iterator[None]:
    """Turns dropout, gradients and autocast off; leaves the model in the mode it was in."""
    was_training = model.training
    model.eval()
    device_type = next(model.parameters()).device.type
    try:
        with torch.inference_mode(), torch.autocast(device_type, enabled=False):
            yield
    finally:
        model.train(was_training)


def _score_in_memory(model: GPT, batch: list[Tree], continuations: Sequence[Continuation]) -> list[Scored]:
    """Calls `_score`, in halves if there is no memory for the whole; raises torch.OutOfMemoryError for one tree."""
    try:
        return _score(model, batch, continuations)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    logger.warning("no memory for %d tokens at once: in halves; set a smaller batch_tokens", sum(map(len, batch)))
    torch.cuda.empty_cache()
    half = len(batch) // 2
    n_first = sum(len(tree.asked) for tree in batch[:half])
    first = _score_in_memory(model, batch[:half], continuations[:n_first])
    return first + _score_in_memory(model, batch[half:], continuations[n_first:])


def _score(model: GPT, batch: Sequence[Tree], continuations: Sequence[Continuation]) -> list[Scored]:
    """Returns the scores of a batch of trees; `continuations` are those that they hold, in order."""
    device = next(model.parameters()).device
    tokens = token_rows(batch, device)  # (B, T)
    features = model.features(tokens, layout=layout(batch, device)).flatten(0, 1)  # (B T, C)
    width = tokens.shape[1]
    rows = [row * width + i for row, tree in enumerate(batch) for _, indices in tree.asked for i in indices]
    targets = [token for continuation in continuations for token in continuation.tokens[continuation.start :]]
    at_targets = features[torch.tensor(rows, device=device)]  # (N, C)
    wanted = torch.tensor(targets, device=device)  # (N,)
    scores = score_targets(at_targets, model.head_weight, wanted, model.config.logit_softcap)
    log_p, is_greedy = scores[0].double().cpu().numpy(), scores[1].cpu().numpy()
    ends = np.cumsum([continuation.n_targets for continuation in continuations])[:-1]
    return [Scored(*pair) for pair in zip(np.split(log_p, ends), np.split(is_greedy, ends), strict=True)]
