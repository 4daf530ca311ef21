"""Chats as sequences: the loss mask leaves only what the assistant says."""

from __future__ import annotations

import html
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...files import read_table, write_text
from ...tokenizer.tokenizer import Tokenizer
from ..loader import IGNORED, Batch, Sequences, evenly_spaced
from ..order import one_group

log = logging.getLogger(__name__)

SHOWN_FILE = "example"


class Chats(Sequences):
    """Sequences of different lengths, in memory; several of them are packed into one row of a batch.

    A chat goes whole into a row, and sees nothing of the others there.
    """

    def __init__(self, tokens: Sequence[np.ndarray], supervised: Sequence[np.ndarray], width: int) -> None:
        """Takes the ids of each chat and its loss mask, booleans, as many. A row has up to `width` inputs."""
        self._tokens, self._supervised, self._width = tokens, supervised, width
        self._lengths = np.array([len(row) for row in tokens], np.int64)
        self.order = one_group(len(tokens))

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of a chat, and its loss mask."""
        return self._tokens[row], self._supervised[row]

    def with_rows(self, others: Sequences, n_rows: int) -> Chats:
        """Returns these and some sequences of another kind, evenly spaced, no longer than a row."""
        rows = evenly_spaced(len(others), n_rows)
        batch, ends = others.batch(rows), others.lengths(rows).tolist()
        loss_mask = (batch.targets != IGNORED).numpy()
        tokens = np.concatenate((batch.inputs[:, :1].numpy(), batch.targets.numpy()), axis=1)
        masks = np.pad(loss_mask, ((0, 0), (1, 0)))
        cut = [(row[:end], mask[:end]) for row, mask, end in zip(tokens, masks, ends, strict=True)]
        return Chats(
            [*self._tokens, *(row for row, _ in cut)], [*self._supervised, *(mask for _, mask in cut)], self._width
        )

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Returns the tokens in each of the chats."""
        return self._lengths[rows]

    def batch(self, rows: np.ndarray) -> Batch:
        """Returns the chats in as few rows as they fit into, padded to the longest of these."""
        return self._batch(self._packed(rows))

    def batches(self, rows: np.ndarray, micro_batch_size: int) -> Iterator[Batch]:
        """Yields the chats in batches of up to `micro_batch_size` rows that hold several of them."""
        packed = self._packed(rows)
        for start in range(0, len(packed), micro_batch_size):
            yield self._batch(packed[start : start + micro_batch_size])

    def _packed(self, chats: np.ndarray) -> list[list[int]]:
        """Returns the chats of each row: the longest first, each into the first row that has room (Johnson 1973)."""
        packed, room = list[list[int]](), list[int]()
        for chat in chats[np.argsort(-self._lengths[chats], kind="stable")].tolist():
            n_inputs = int(self._lengths[chat]) - 1
            row = next((row for row, n_free in enumerate(room) if n_free >= n_inputs), len(packed))
            if row == len(packed):
                packed.append([])
                room.append(self._width)
            packed[row].append(chat)
            room[row] -= n_inputs
        return packed

    def _batch(self, packed: list[list[int]]) -> Batch:
        shape = len(packed), max(sum(int(self._lengths[chat]) - 1 for chat in row) for row in packed)
        inputs, segments = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
        targets = np.full(shape, IGNORED, np.int64)
        for row, chats in enumerate(packed):
            start = 0
            for segment, chat in enumerate(chats):
                tokens, loss_mask = self._tokens[chat].astype(np.int64), self._supervised[chat]
                columns = slice(start, start + len(tokens) - 1)
                inputs[row, columns], segments[row, columns] = tokens[:-1], segment
                targets[row, columns] = np.where(loss_mask[1:], tokens[1:], IGNORED)
                start = columns.stop
        positions = torch.from_numpy(np.flatnonzero(targets != IGNORED))
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), positions, torch.from_numpy(segments))


@dataclass(frozen=True)
class Examples:
    """Chats of an instruction set, and what had to be left out."""

    sequences: Chats
    dropped: dict[str, int]
    chats: list[list[dict[str, str]]]
    """The messages of each sequence."""
    n_shortened: int = 0
    """Chats without their last turns."""


def read_examples(path: Path, tokenizer: Tokenizer, context_length: int, *, shorten: bool = False) -> Examples:
    """Returns the chats of a Parquet file (column `messages`) as sequences of at most `context_length + 1` tokens.

    A chat that is longer is left out, or with `shorten` its last exchanges are, until it fits. It is never cut inside a
    turn: that would teach not to end it. A chat in which the assistant says nothing is left out. Raises ValueError when
    nothing is left.
    """
    chats, rows, masks, n_shortened = [], [], [], 0
    dropped = {"too long": 0, "no answer": 0}
    for messages in read_table(path, ["messages"])["messages"].to_pylist():
        kept = messages
        tokens, mask = tokenizer.render_chat(kept)
        while shorten and len(tokens) > context_length + 1 and len(kept) > 3:
            kept = kept[:-2]
            tokens, mask = tokenizer.render_chat(kept)
        if len(tokens) > context_length + 1:
            dropped["too long"] += 1
        elif not any(mask[1:]):
            dropped["no answer"] += 1
        else:
            n_shortened += len(kept) < len(messages)
            chats.append(kept)
            rows.append(np.array(tokens, np.uint32))
            masks.append(np.array(mask, np.bool_))
    if not rows:
        raise ValueError(
            f"{path.name} holds no example to train on ({dropped['too long']} longer than context_length, "
            f"{context_length} tokens; {dropped['no answer']} without an answer); add shorter examples"
        )
    sequences = Chats(rows, masks, context_length)
    return Examples(sequences, {reason: n for reason, n in dropped.items() if n}, chats, n_shortened)


ASKED_LATER = "held out for the evaluation"
"""Why records of other data are dropped."""


@dataclass(frozen=True)
class HeldOutQuestions:
    """What users say in the examples that the evaluation asks; no method may train on the same questions."""

    begun: frozenset[str] = frozenset()
    """Questions that begin a chat."""
    asked: frozenset[str] = frozenset()
    """Those and all later ones."""

    @classmethod
    def of(cls, examples_dir: Path | None) -> HeldOutQuestions:
        """Reads those that an instruct stage holds out; there are none without it."""
        if examples_dir is None:
            return cls()
        chats = read_table(examples_dir / "val.parquet", ["messages"])["messages"].to_pylist()
        questions = [questions_of(messages) for messages in chats]
        return cls(frozenset(said[0] for said in questions), frozenset(text for said in questions for text in said))

    def are_in(self, prompt: Sequence[dict[str, str]]) -> bool:
        """Returns whether a prompt asks one of them.

        A later question ("continue") means little without what came before: one that begins neither chat is not the
        same because its words are.
        """
        said = questions_of(prompt)
        return said[0] in self.asked or not self.begun.isdisjoint(said)


def questions_of(messages: Sequence[dict[str, str]]) -> list[str]:
    """Returns what the user says in a chat."""
    return [message["content"].strip() for message in messages if message["role"] == "user"]


def prompts(chats: Sequence[Any], tokenizer: Tokenizer, n_prompts: int) -> list[list[int]]:
    """Returns prompts as tokens: some chats, evenly spaced, up to where the assistant's last turn begins."""
    chosen = evenly_spaced(len(chats), n_prompts)
    return [tokenizer.render_chat(chats[i][:-1], add_generation_prompt=True)[0] for i in chosen]


def write_shown(directory: Path, tokenizer: Tokenizer, chats: Chats) -> None:
    """Writes the first chat as the model will see it, before it trains on it: `example.html`, tokens coloured by
    whether they are learned, and `example.txt`, which goes to the log as well."""
    tokens, loss_mask = chats[0]
    lines = [f"{'learned' if learned else 'given':8}{text!r}" for learned, text in spans(tokenizer, tokens, loss_mask)]
    log.info("\n".join(["an example, and what is learned of it:", *lines]))
    write_text(directory / f"{SHOWN_FILE}.txt", "\n".join(lines) + "\n")
    write_text(directory / f"{SHOWN_FILE}.html", shown_html(tokenizer, tokens, loss_mask))


def spans(tokenizer: Tokenizer, tokens: np.ndarray, loss_mask: np.ndarray) -> list[tuple[bool, str]]:
    """Returns the text of neighbouring tokens that are all learned or all not, with which of the two."""
    pairs = zip(loss_mask.tolist(), tokens.tolist(), strict=True)
    groups = itertools.groupby(pairs, key=lambda pair: pair[0])
    return [(learned, tokenizer.decode([token for _, token in group])) for learned, group in groups]


def shown_html(tokenizer: Tokenizer, tokens: np.ndarray, loss_mask: np.ndarray) -> str:
    """Returns a page with each token in a box: green if trained, grey if context; its id shows under the pointer."""
    boxes = []
    for token, learned in zip(tokens.tolist(), loss_mask.tolist(), strict=True):
        text = html.escape(tokenizer.decode([token])).replace("\n", "⏎<br>")
        boxes.append(f'<span class="{"learned" if learned else "given"}" title="{token}">{text}</span>')
    return PAGE.replace("TOKENS", "".join(boxes))


PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A training example</title><style>
body { font: 16px/1.9 monospace; max-width: 80ch; margin: 2em auto; color: #111; background: #fff; }
div { white-space: pre-wrap; }
span { border: 1px solid #fff; border-radius: 3px; padding: 1px; }
.learned { background: #b7e4b0; }
.given { background: #e4e4e4; }
</style></head><body>
<p>An example as the model sees it, token by token: it learns to write the <span class="learned">green</span> ones;
the <span class="given">grey</span> ones it is given.</p>
<div>TOKENS</div>
</body></html>
"""
