"""What a model gets right of benchmarks: choices are scored by log-likelihood, so no letter has to be generated.

How a choice is picked decides what is measured:

- `pmi`, the headline of the definitions: the largest ln p(choice | question) - ln p(choice | neutral question), the
  domain-conditional PMI of Holtzman et al. (2021). The wrong choices of an item are right answers of other
  items. Were they drawn from p(choice), "choice i is the right one" would have the likelihood
  p(c_i | question) * prod over j != i of p(c_j), proportional to p(c_i | question) / p(c_i): PMI is the Bayes-optimal
  pick, and no property of the choice alone (length, common words) can win. (They are drawn among those that look
  like the question, llm/data/instruct/four_choice.py, so this holds among them.) It was chosen before any score was
  seen.
- `sum`: the largest ln p(choice | question), lm-eval's acc; prefers short and common texts.
- `per byte`, `per character` (lm-eval's acc_norm): the same divided by the choice's length; prefers long and
  predictable texts.
- `mean`, CORE's: the largest mean ln p of the tokens after what all choices begin with.
- `greedy`, where there is one continuation and no choice: whether greedy decoding writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..data.instruct.four_choice import n_shared_words
from ..model.gpt import GPT
from ..statistics import Estimate, mean_of_means
from ..tokenizer.tokenizer import Tokenizer
from .benchmarks import Benchmark, Pick
from .core_set import CORE_TASKS, centred
from .likelihood import Advance, Scored, score
from .metrics import ACCURACY, CENTRED, CORE, CORE_SCORE, Metric
from .prompts import Prompt, closed_book_prompts, few_shot_prompts
from .scores import Measured, Score, Units
from .trees import Continuation

ITEMS_AT_ONCE = 1000
"""Items in memory as tokens; with ten examples before each they are some hundred megabytes."""

Chosen = Mapping[Metric, npt.NDArray[np.int64]]
"""For each metric of a benchmark the index of the choice taken of each item; of one continuation, 0 if it is greedy."""


def choose(
    model: GPT,
    tokenizer: Tokenizer,
    benchmark: Benchmark,
    indices: Sequence[int],
    *,
    as_chat: bool,
    neutral_question: str,
    batch_tokens: int,
    advance: Advance = lambda _: None,
) -> Chosen:
    """Returns which choices the model takes of the items at `indices`; `advance` is called with the items done.

    `as_chat` and `neutral_question` are for the definitions; other benchmarks are asked in plain text.
    """
    chosen: dict[Metric, list[int]] = {metric: [] for metric in benchmark.picks}
    context_length = model.config.context_length
    for start in range(0, len(indices), ITEMS_AT_ONCE):
        part = indices[start : start + ITEMS_AT_ONCE]
        if benchmark.is_definitions:
            prompts = closed_book_prompts(
                benchmark, part, tokenizer, context_length, as_chat=as_chat, neutral_question=neutral_question
            )
        else:
            prompts = few_shot_prompts(benchmark, part, tokenizer, context_length)
        for prompt, scored in zip(prompts, score_prompts(model, prompts, batch_tokens=batch_tokens), strict=True):
            for metric, rule in benchmark.picks.items():
                chosen[metric].append(pick(prompt, scored, rule))
        advance(len(part))
    return {metric: np.array(found, dtype=np.int64) for metric, found in chosen.items()}


def score_prompts(model: GPT, prompts: Sequence[Prompt], *, batch_tokens: int) -> Iterator[list[Scored]]:
    """Yields the scores of each prompt's continuations, then of its neutral ones; what several share is read once."""
    distinct: dict[tuple[tuple[int, ...], int], Continuation] = {}
    keys = []
    for prompt in prompts:
        continuations = [*prompt.continuations, *prompt.neutral]
        keys.append([(tuple(each.tokens), each.start) for each in continuations])
        distinct.update(zip(keys[-1], continuations, strict=True))
    scores = dict(zip(distinct, score(model, list(distinct.values()), batch_tokens=batch_tokens), strict=True))
    for of_prompt in keys:
        yield [scores[key] for key in of_prompt]


def pick(prompt: Prompt, scored: Sequence[Scored], rule: Pick) -> int:
    """Returns the index of the choice that a rule takes, the first of equals; of `greedy` 1 if it is not greedy.

    `scored` are the scores of the prompt's continuations and neutral ones.
    """
    n = len(prompt.continuations)
    if rule == "greedy":
        return 0 if scored[0].is_greedy.all() else 1
    if rule == "mean":
        counted = zip(scored[:n], prompt.n_distinct, strict=True)
        return int(np.argmax([each.log_p[-n_last:].mean() for each, n_last in counted]))
    sums = np.array([each.log_p[-n_last:].sum() for each, n_last in zip(scored[:n], prompt.n_answer, strict=True)])
    if rule == "pmi":
        return int(np.argmax(sums - np.array([each.log_p.sum() for each in scored[n:]])))
    if rule == "per character":
        return int(np.argmax(sums / [len(choice) for choice in prompt.choices]))
    if rule == "per byte":
        return int(np.argmax(sums / [max(1, len(choice.encode())) for choice in prompt.choices]))
    return int(np.argmax(sums))


def choice_units(
    benchmark: Benchmark, indices: Sequence[int], chosen: Chosen, contaminated: set[int] | None = None
) -> Iterator[Units]:
    """Yields what was right by each metric; `contaminated` holds numbers of lines, None when nobody has looked."""
    rows = [benchmark.rows[index] for index in indices]
    has_choices = benchmark.form != "language modelling"
    gold = np.array([row.values["gold"] if has_choices else 0 for row in rows])
    for metric, taken in chosen.items():
        yield Units(
            benchmark=benchmark.name,
            metric=metric,
            ids=[benchmark.id_of(row) for row in rows],
            values=(taken == gold).astype(np.float64),
            is_share=True,
            chance=benchmark.chance,
            gold=gold if has_choices else None,
            chosen=taken if has_choices else None,
            contaminated=None if contaminated is None else np.array([row.number in contaminated for row in rows]),
        )


def word_overlap(benchmark: Benchmark, indices: Sequence[int]) -> npt.NDArray[np.int64]:
    """Returns the choice of each item that shares most words with its question, (n_items,); the first of equals.

    What can be had without knowing anything: names often say what they do.
    """
    items = ((benchmark.rows[index].values["query"], benchmark.choices(index)) for index in indices)
    return np.array([np.argmax([n_shared_words(query, choice) for choice in choices]) for query, choices in items])


def centred_rows(measured: Measured, benchmarks: Sequence[Benchmark], first: str, second: str) -> list[Score]:
    """Returns the centred accuracy of each benchmark and model, then CORE: their mean over the tasks that are there.

    CORE's metric says how many of the 22 tasks these are; the scores of other numbers of tasks are other metrics.
    """
    rows: list[Score] = []
    for benchmark in benchmarks:
        for model, of_model in measured.items():
            if units := of_model.get((benchmark.name, ACCURACY.name)):
                found, zero = units.estimate(), benchmark.zero
                score, low, high = (centred(value, zero) for value in (found.score, found.low, found.high))
                rows.append(Score(model, benchmark.name, CENTRED, Estimate(score, low, high, found.n)))
    tasks = [benchmark for benchmark in benchmarks if benchmark.core]
    if tasks:
        rows += _core_rows(measured, tasks, first, second)
    return rows


def _core_rows(measured: Measured, tasks: Sequence[Benchmark], first: str, second: str) -> Iterator[Score]:
    metric = replace(CORE_SCORE, name=f"{CORE_SCORE.name}, {len(tasks)} of {len(CORE_TASKS)} tasks")
    values = {
        model: [centred(of_model[task.name, ACCURACY.name].values, task.zero) for task in tasks]
        for model, of_model in measured.items()
        if (tasks[0].name, ACCURACY.name) in of_model
    }
    for model, groups in values.items():
        yield Score(model, CORE, metric, mean_of_means(groups))
    if first in values and second in values:
        differences = [one - other for one, other in zip(values[first], values[second], strict=True)]
        yield Score(first, CORE, metric, mean_of_means(differences), is_difference=True)
