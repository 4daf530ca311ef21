"""Benchmark items as token sequences: examples, the item, and what counts of it.

The rules are those of CORE's reference (nanochat, core_eval.py): examples are drawn with the seed 1234 + the item's
index, never the item itself; examples and item are joined by an empty line. What counts is, of a multiple-choice item,
all after the place where the choices' tokens first differ; of a schema item, what its options have in common at the
end; of a language-modelling item, the continuation. The index is the item's place in the file (nanochat's base_eval.py
shuffles the file first, so there an item has other examples).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..tokenizer import Tokenizer
from .benchmarks import Benchmark
from .likelihood import fitted
from .trees import Continuation

FIRST_SEED = 1234


@dataclass(frozen=True)
class Prompted:
    """An item in tokens: for each of its choices, what to score, and how many of its last tokens count.

    `n_answer` are those of the whole choice, as lm-eval counts; `n_distinct` those after what all choices begin with.
    Without choices there is one continuation, and both are the same.
    """

    continuations: list[Continuation]
    n_answer: list[int]
    n_distinct: list[int]


def shot_indices(index: int, n_items: int, n_shots: int) -> list[int]:
    """Which items are the examples of item `index`, in order."""
    drawn = random.Random(FIRST_SEED + index).sample(range(n_items - 1), n_shots)
    return [other if other < index else other + 1 for other in drawn]  # the item itself is not among those drawn from


def texts(benchmark: Benchmark, index: int) -> list[str]:
    """The texts of an item with its examples: the prompt alone, then the prompt with each choice in turn.

    Of a schema item the first is the common end (a delimiter and the continuation), for its prompts differ.
    """
    rows, delimiter = benchmark.rows, benchmark.rules.delimiter
    shots = shot_indices(index, len(rows), benchmark.rules.n_shots)
    before = "".join("".join(_solved(rows[shot].values, delimiter)) + "\n\n" for shot in shots)
    values = rows[index].values
    if benchmark.form == "schema":
        end = delimiter + values["continuation"]
        return [end, *(before + option + end for option in values["context_options"])]
    question, answer = _solved(values, delimiter)
    answers = values["choices"] if benchmark.form == "multiple choice" else [answer]
    return [(before + question).rstrip(), *(before + question + choice for choice in answers)]


def _solved(values: dict[str, Any], delimiter: str) -> tuple[str, str]:
    """An item with its right answer: the question, up to where the answer begins, and the answer."""
    if "choices" in values:
        return values["query"] + delimiter, values["choices"][values["gold"]]
    if "context_options" in values:
        return values["context_options"][values["gold"]] + delimiter, values["continuation"]
    return values["context"].strip() + delimiter, values["continuation"]


def prompted(benchmark: Benchmark, indices: Sequence[int], tokenizer: Tokenizer, context_length: int) -> list[Prompted]:
    """Items in tokens, each sequence after `<|document|>`; one that is too long for the context loses its beginning."""
    grouped = [texts(benchmark, index) for index in indices]
    encoded = iter(tokenizer.encode_batch([text for group in grouped for text in group]))
    items = []
    for group in grouped:
        prompt, *sequences = ([tokenizer.document_token, *next(encoded)] for _ in group)
        items.append(_prompted(benchmark.form == "schema", prompt, sequences, context_length))
    return items


def _prompted(is_schema: bool, prompt: list[int], sequences: list[list[int]], context_length: int) -> Prompted:
    shortest = min(map(len, sequences))
    if is_schema:
        n_common = _n_common([tokens[::-1] for tokens in sequences])
        n_distinct = n_answer = [max(1, min(n_common, shortest - 1))] * len(sequences)
    else:
        # At least one token of each choice counts, also where one is the beginning of another.
        n_same = min(_n_common(sequences) if len(sequences) > 1 else shortest, shortest - 1)
        start = min(_n_common([prompt, *sequences]), shortest - 1)
        n_answer = [len(tokens) - start for tokens in sequences]
        n_distinct = [len(tokens) - n_same for tokens in sequences] if len(sequences) > 1 else n_answer
    whole = [
        Continuation(tokens, len(tokens) - max(counts))
        for tokens, *counts in zip(sequences, n_answer, n_distinct, strict=True)
    ]
    return Prompted([fitted(continuation, context_length) for continuation in whole], n_answer, n_distinct)


def _n_common(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with."""
    first = sequences[0]
    for place in range(min(map(len, sequences))):
        if any(tokens[place] != first[place] for tokens in sequences):
            return place
    return min(map(len, sequences))
