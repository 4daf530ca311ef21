"""Benchmark items as token sequences: what is before the choices, the choices, and what counts of them.

A benchmark of a file is asked by the rules of CORE's reference (nanochat, core_eval.py): examples are drawn with the
seed 1234 + the item's index, never the item itself; examples and item are joined by an empty line. What counts is, of a
multiple-choice item, all after the token where the choices first differ; of a schema item, what its options have in
common at the end; of a language-modelling item, the continuation. The index is the item's position in the file
(nanochat's base_eval.py shuffles the file first, so there an item has other examples).

The definitions are asked closed book, without examples: a chat model in its chat form, a base model in plain text.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..tokenizer.tokenizer import Tokenizer
from .benchmarks import Benchmark
from .likelihood import fitted
from .trees import Continuation

FIRST_SEED = 1234


@dataclass(frozen=True)
class Prompt:
    """An item in tokens: for each of its choices, what to score, and how many of its last tokens count.

    `n_answer` are those of the whole choice, as lm-eval counts; `n_distinct` those after what all choices begin with.
    Without choices there is one continuation, and both are the same.
    """

    choices: Sequence[str]
    continuations: list[Continuation]
    n_answer: list[int]
    n_distinct: list[int]
    neutral: list[Continuation] = field(default_factory=list)
    """The choices after a question that says nothing: all tokens of these count; empty without such a question."""


def shot_indices(index: int, n_items: int, n_shots: int) -> list[int]:
    """Returns which items are the examples of item `index`, in order."""
    drawn = random.Random(FIRST_SEED + index).sample(range(n_items - 1), n_shots)
    return [other if other < index else other + 1 for other in drawn]  # the item itself is not among those drawn from


def few_shot_texts(benchmark: Benchmark, index: int) -> list[str]:
    """Returns the texts of an item with its examples: the prompt alone, then the prompt with each choice in turn.

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
    """Returns an item with its right answer: the question, up to where the answer begins, and the answer."""
    if "choices" in values:
        return values["query"] + delimiter, values["choices"][values["gold"]]
    if "context_options" in values:
        return values["context_options"][values["gold"]] + delimiter, values["continuation"]
    return values["context"].strip() + delimiter, values["continuation"]


def few_shot_prompts(
    benchmark: Benchmark, indices: Sequence[int], tokenizer: Tokenizer, context_length: int
) -> list[Prompt]:
    """Returns items in tokens, each sequence after `<|document|>`; one too long for the context loses its beginning."""
    grouped = [few_shot_texts(benchmark, index) for index in indices]
    encoded = iter(tokenizer.encode_batch([text for group in grouped for text in group]))
    prompts = []
    for index, group in zip(indices, grouped, strict=True):
        prompt, *sequences = ([tokenizer.document_token, *next(encoded)] for _ in group)
        if benchmark.form == "schema":
            n_common = _n_common([tokens[::-1] for tokens in sequences])
            n_answer = n_distinct = [max(1, min(n_common, min(map(len, sequences)) - 1))] * len(sequences)
        else:
            n_answer, n_distinct = _counted_after(prompt, sequences)
        starts = [len(tokens) - max(n) for tokens, *n in zip(sequences, n_answer, n_distinct, strict=True)]
        continuations = [
            fitted(Continuation(tokens, start), context_length) for tokens, start in zip(sequences, starts, strict=True)
        ]
        prompts.append(Prompt(benchmark.choices(index), continuations, n_answer, n_distinct))
    return prompts


def _counted_after(prompt: list[int], sequences: Sequence[list[int]]) -> tuple[list[int], list[int]]:
    """Returns the tokens of each choice, and those after what all begin with: at least one, also where one choice is
    the beginning of another."""
    shortest = min(map(len, sequences))
    n_prompt = min(_n_common([prompt, *sequences]), shortest - 1)
    n_answer = [len(tokens) - n_prompt for tokens in sequences]
    if len(sequences) == 1:
        return n_answer, n_answer
    n_same = min(_n_common(sequences), shortest - 1)
    return n_answer, [len(tokens) - n_same for tokens in sequences]


def _n_common(sequences: Sequence[Sequence[int]]) -> int:
    """Returns how many tokens all sequences begin with."""
    first = sequences[0]
    for index in range(min(map(len, sequences))):
        if any(tokens[index] != first[index] for tokens in sequences):
            return index
    return min(map(len, sequences))


def closed_book_prompts(
    benchmark: Benchmark,
    indices: Sequence[int],
    tokenizer: Tokenizer,
    context_length: int,
    *,
    as_chat: bool,
    neutral_question: str,
) -> list[Prompt]:
    """Returns items in tokens, each choice after its question and after the neutral one.

    A chat model is asked in its chat form, of which the answer with its end of turn counts, as in fine-tuning; a base
    model in plain text: question, newline, choice.
    """

    def continuation(question: str, choice: str) -> Continuation:
        if as_chat:
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": choice}]
            tokens, loss_mask = tokenizer.render_chat(messages)
            start = loss_mask.index(True)
        else:
            prompt = [tokenizer.document_token, *tokenizer.encode(question + "\n")]
            tokens, start = [*prompt, *tokenizer.encode(choice)], len(prompt)
        return fitted(Continuation(tokens, start), context_length)

    prompts = []
    for index in indices:
        query, choices = benchmark.rows[index].values["query"], benchmark.choices(index)
        continuations = [continuation(query, choice) for choice in choices]
        n_answer = [each.n_targets for each in continuations]
        neutral = [continuation(neutral_question, choice) for choice in choices]
        prompts.append(Prompt(choices, continuations, n_answer, n_answer, neutral))
    return prompts
