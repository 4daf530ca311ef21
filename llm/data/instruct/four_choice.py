"""The closed-book benchmark: a held-out question, its answer, and three answers of other questions.

What a name says is no knowledge: `os.path.join` and "Join path segments" have a word in common. So a wrong choice must
look like the question at least as much as the right one does. On the demo the choice that shares most words with the
question was right in 82 % of 772 items whose choices were alike in kind and length only; of the 238 that are left with
such wrong choices it is in 29 %.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

N_CHOICES = 4
"""Choices of a benchmark item."""

MIN_LETTERS = 3
"""A shorter word is not compared."""

RUN = 4
"""Letters in a row that two words have in common if they are alike; a word of three letters must be the same."""

MIN_ANSWERS = 100
"""With fewer held-out answers there is little to choose from: any of like length is a wrong choice."""


def words(text: str) -> set[str]:
    """Returns the words of three letters or more in lower case; names are cut at dots, underscores and capitals."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)
    return {part.lower() for part in parts if len(part) >= MIN_LETTERS}


def n_shared_words(question: str, answer: str) -> int:
    """Returns how many words of the question the answer has; one may be the beginning of the other (join, joining)."""
    found = words(answer)
    return sum(any(word.startswith(name) or name.startswith(word) for word in found) for name in words(question))


def letter_runs(text: str) -> set[str]:
    """Returns the runs of four letters inside the words of a text, and its words of three: what related words share."""
    return {word[i : i + RUN] for word in words(text) for i in range(max(1, len(word) - RUN + 1))}


class SharedRuns:
    """How many letter runs of a question each of many answers has."""

    def __init__(self, answers: Sequence[str]) -> None:
        """Indexes the answers by their letter runs."""
        positions: dict[str, list[int]] = defaultdict(list)
        for position, answer in enumerate(answers):
            for run in letter_runs(answer):
                positions[run].append(position)
        self._n_answers = len(answers)
        self._positions = {run: np.array(found) for run, found in positions.items()}

    def count(self, question: str) -> npt.NDArray[np.int64]:
        """Returns the runs shared with each answer, (n_answers,)."""
        counts = np.zeros(self._n_answers, dtype=np.int64)
        for run in letter_runs(question) & self._positions.keys():
            counts[self._positions[run]] += 1
        return counts


def benchmark_items(rows: Sequence[Mapping[str, str]], seed: int) -> list[dict[str, Any]]:
    """Returns an item for each definition (`id`, `kind`, `question`, `answer`, `document_id`) that allows one.

    Candidates for wrong choices share at least as many letter runs with the question as the right one does; if those
    of its kind are enough, only they count. Candidates are sorted by length, and an item takes four neighbours, among
    which the right one stands at a drawn position: no rank by length is right more often than by chance. A definition
    without three shorter and three longer candidates is left out.
    """
    kinds: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        kinds[row["answer"]].add(row["kind"])
    answers = sorted(kinds, key=lambda answer: (len(answer), answer))
    shared = SharedRuns(answers)
    items = []
    for row in rows:
        pool = _pool(row, answers, kinds, shared)
        if pool:
            items.append(_item(row, pool, seed))
    return items


def _pool(
    row: Mapping[str, str], answers: Sequence[str], kinds: Mapping[str, set[str]], shared: SharedRuns
) -> list[str]:
    """The right answer among the candidates, in order of length; empty when there are too few."""
    counts = shared.count(row["question"])
    is_small = len(answers) < MIN_ANSWERS
    least = 0 if is_small else counts[answers.index(row["answer"])]
    candidates = [answers[position] for position in np.flatnonzero(counts >= least).tolist()]
    of_kind = [answer for answer in candidates if row["kind"] in kinds[answer]]
    n_beside = 0 if is_small else N_CHOICES - 1  # shorter ones, and longer ones
    for pool in (of_kind, candidates):
        position = pool.index(row["answer"])
        if len(pool) >= N_CHOICES and n_beside <= position < len(pool) - n_beside:
            return pool
    return []


def _item(row: Mapping[str, str], pool: Sequence[str], seed: int) -> dict[str, Any]:
    """An item whose choices are `N_CHOICES` neighbours in `pool`."""
    answer = row["answer"]
    first = pool.index(answer) - int(_hash(str(seed), row["id"]), 16) % N_CHOICES
    first = max(0, min(first, len(pool) - N_CHOICES))
    choices = sorted(pool[first : first + N_CHOICES], key=lambda choice: _hash(str(seed), row["id"], choice))
    return {
        "id": row["id"],
        "query": row["question"],
        "choices": choices,
        "gold": choices.index(answer),
        "document_id": row["document_id"],
    }


def _hash(*parts: str) -> str:
    """32 hexadecimal digits that depend on nothing but the parts."""
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
