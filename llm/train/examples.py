"""Chats as sequences: only what the assistant says is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_table
from ..tokenizer import Tokenizer
from .loader import Batch, Sequences, batch_of, evenly_spaced
from .order import one_group


class Chats(Sequences):
    """Sequences of different lengths, in memory."""

    def __init__(self, tokens: Sequence[np.ndarray], supervised: Sequence[np.ndarray]) -> None:
        """The ids of each chat, and booleans, as many: which of them are learned."""
        self._tokens, self._supervised = tokens, supervised
        self._lengths = np.array([len(row) for row in tokens], np.int64)
        self.order = one_group(len(tokens))

    def __len__(self) -> int:
        return len(self._tokens)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """The tokens in each of the rows."""
        return self._lengths[rows]

    def batch(self, rows: np.ndarray) -> Batch:
        """The rows, filled up to the longest of them."""
        shape = len(rows), int(self._lengths[rows].max())
        tokens, is_learned = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
        for i, row in enumerate(rows):
            tokens[i, : self._lengths[row]] = self._tokens[row]
            is_learned[i, : self._lengths[row]] = self._supervised[row]
        return batch_of(tokens, is_learned)


@dataclass(frozen=True)
class Examples:
    """Chats of an instruction set, and what had to be left out."""

    sequences: Chats
    dropped: dict[str, int]
    chats: list[list[dict[str, str]]]
    """The messages of each sequence."""


def read_examples(path: Path, tokenizer: Tokenizer, context_length: int) -> Examples:
    """The chats of a Parquet file (column `messages`) as sequences of at most `context_length + 1` tokens.

    A chat that is longer is left out, not cut: a cut one would teach not to end the turn. So is one in which the
    assistant says nothing. Raises ValueError when nothing is left.
    """
    chats, rows, masks = [], [], []
    dropped = {"too long": 0, "no answer": 0}
    for messages in read_table(path, ["messages"])["messages"].to_pylist():
        tokens, mask = tokenizer.render_chat(messages)
        if len(tokens) > context_length + 1:
            dropped["too long"] += 1
        elif not any(mask[1:]):
            dropped["no answer"] += 1
        else:
            chats.append(messages)
            rows.append(np.array(tokens, np.uint32))
            masks.append(np.array(mask, np.bool_))
    if not rows:
        raise ValueError(
            f"{path.name} holds no example to learn from ({dropped['too long']} longer than context_length, "
            f"{context_length} tokens; {dropped['no answer']} without an answer); add shorter examples"
        )
    return Examples(Chats(rows, masks), {reason: n for reason, n in dropped.items() if n}, chats)


def prompts(chats: Sequence[Any], tokenizer: Tokenizer, n_prompts: int) -> list[list[int]]:
    """Tokens that ask for an answer: some chats, evenly spaced, up to where the assistant's last turn begins."""
    chosen = evenly_spaced(len(chats), n_prompts)
    return [tokenizer.render_chat(chats[i][:-1], add_generation_prompt=True)[0] for i in chosen]
