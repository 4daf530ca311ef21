"""Token sequences that begin alike, as trees: a model reads what they share once, in one pass.

The choices of a question share the question, questions share their examples. A tree's tokens stand in one row, a branch
after the other; a token sees those on the way from the root to itself, and its position is how far it is from the root.
Nothing is approximated: each token sees what it would see in a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..model.gpt import Layout

MIN_SHARED = 0.25
"""Sequences stand in one tree if they share so much of the longer one: tokens of other branches cost something too."""


@dataclass(frozen=True)
class Continuation:
    """Tokens, and the first of them that counts (1 or more): what is before it is only read."""

    tokens: Sequence[int]
    start: int

    @property
    def n_targets(self) -> int:
        """How many tokens count."""
        return len(self.tokens) - self.start


@dataclass
class Tree:
    """The inputs of some continuations (all tokens but the last), in one row."""

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    """How many tokens are before each token on its way from the root."""
    ends: list[int] = field(default_factory=list)
    """For each token, the index after the last one that sees it."""
    asked: list[tuple[int, list[int]]] = field(default_factory=list)
    """Number of each continuation, and the indices whose logits predict its tokens that count."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        """Whether it is one sequence, or sequences that each go on where the last one ends."""
        return not self.depths or self.depths[-1] == len(self.tokens) - 1


def build_trees(continuations: Sequence[Continuation], max_tokens: int) -> list[Tree]:
    """Returns trees that together hold each continuation once; only a single sequence may exceed `max_tokens`."""
    trees: list[Tree] = []
    path: list[int] = []  # indices of the last sequence's tokens in the last tree
    last: list[int] = []
    for index in sorted(range(len(continuations)), key=lambda index: list(continuations[index].tokens)):
        tokens = list(continuations[index].tokens[:-1])
        n_shared = _n_shared(last, tokens)
        is_alike = n_shared >= max(1, MIN_SHARED * max(len(tokens), len(last)))
        if not trees or not is_alike or len(trees[-1]) + len(tokens) - n_shared > max_tokens:
            _close(trees, path)
            trees.append(Tree())
            path, n_shared = [], 0
        path = _grow(trees[-1], path, tokens, n_shared)
        trees[-1].asked.append((index, path[continuations[index].start - 1 :]))
        last = tokens
    _close(trees, path)
    return trees


def _grow(tree: Tree, path: list[int], tokens: list[int], n_shared: int) -> list[int]:
    """Adds the tokens after the first `n_shared` as a branch; returns the indices of all of them."""
    start = len(tree)
    for left in path[n_shared:]:  # no later token sees these
        tree.ends[left] = start
    new = tokens[n_shared:]
    tree.tokens += new
    tree.depths += range(n_shared, len(tokens))
    tree.ends += [0] * len(new)
    return [*path[:n_shared], *range(start, start + len(new))]


def _close(trees: Sequence[Tree], path: Sequence[int]) -> None:
    for index in path:
        trees[-1].ends[index] = len(trees[-1])


def _n_shared(first: Sequence[int], second: Sequence[int]) -> int:
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))


def token_rows(trees: Sequence[Tree], device: torch.device) -> torch.Tensor:
    """Returns the trees' tokens, (B, T) int64, padded with 0 at the right."""
    return _rows([tree.tokens for tree in trees]).to(device)


def layout(trees: Sequence[Tree], device: torch.device) -> Layout | None:
    """Returns positions and what each token sees; None where all trees are chains, whose rows are read as they are."""
    if all(tree.is_chain for tree in trees):
        return None
    ends = _rows([tree.ends for tree in trees]).to(device)  # (B, T)
    index = torch.arange(ends.shape[1], device=device)
    ends = torch.maximum(ends, index + 1)  # padding sees itself: a token that sees nothing has no attention weights
    is_before = index <= index[:, None]  # (T, T)
    visible = is_before & (index[:, None] < ends[:, None, :])  # (B, T, T)
    return Layout(_rows([tree.depths for tree in trees]).to(device), visible[:, None])


def _rows(lists: Sequence[Sequence[int]]) -> torch.Tensor:
    rows = np.zeros((len(lists), max(map(len, lists))), dtype=np.int64)
    for row, values in zip(rows, lists, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(rows)
