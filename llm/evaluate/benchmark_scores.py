"""What a model gets right of benchmarks, and the score of CORE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..model.gpt import GPT
from ..tokenizer import Tokenizer
from .benchmarks import Benchmark, Pick
from .core_set import CORE_TASKS, centred
from .few_shot import Prompted, prompted
from .likelihood import Advance, Scored, score
from .scores import OVER_BASE, Measured, Score, Units
from .statistics import Estimate, mean_of_means

ACCURACY, CENTRED, CORE = "accuracy", "centred accuracy", "CORE"
METRIC_VERSION = 1

ITEMS_AT_ONCE = 1000
"""Items in memory as tokens; with ten examples before each they are some hundred megabytes."""


@dataclass(frozen=True)
class Outcome:
    """What came of the items of a benchmark, in order."""

    is_right: npt.NDArray[np.bool_]
    chosen: npt.NDArray[np.int64] | None
    """The index of the choice taken; None where there are no choices."""


def choose(prompts: Prompted, scored: Sequence[Scored], lengths: Sequence[int], pick: Pick) -> int:
    """The index of the choice taken, the first of equals; `lengths` are the choices' characters."""
    if pick == "mean":
        counted = zip(scored, prompts.n_distinct, strict=True)
        return int(np.argmax([scores.log_p[-n:].mean() for scores, n in counted]))
    sums = np.array([scores.log_p[-n:].sum() for scores, n in zip(scored, prompts.n_answer, strict=True)])
    return int(np.argmax(sums if pick == "sum" else sums / lengths))


def outcome(
    model: GPT,
    tokenizer: Tokenizer,
    benchmark: Benchmark,
    indices: Sequence[int],
    *,
    batch_tokens: int,
    advance: Advance = lambda _: None,
) -> Outcome:
    """What the model makes of the items at `indices`; `advance` is called with the number of items done."""
    chosen, is_right = [], []
    for start in range(0, len(indices), ITEMS_AT_ONCE):
        part = indices[start : start + ITEMS_AT_ONCE]
        prompts = prompted(benchmark, part, tokenizer, model.config.context_length)
        for index, item, scores in zip(part, prompts, _scored(model, prompts, batch_tokens), strict=True):
            values = benchmark.rows[index].values
            if benchmark.form == "language modelling":
                is_right.append(bool(scores[0].is_greedy.all()))
            else:
                options = values["choices" if benchmark.form == "multiple choice" else "context_options"]
                chosen.append(choose(item, scores, [len(text) for text in options], benchmark.rules.pick))
                is_right.append(chosen[-1] == values["gold"])
        advance(len(part))
    return Outcome(np.array(is_right, dtype=bool), np.array(chosen) if chosen else None)


def _scored(model: GPT, prompts: Sequence[Prompted], batch_tokens: int) -> Iterator[list[Scored]]:
    """The scores of each item's continuations."""
    flat = [continuation for item in prompts for continuation in item.continuations]
    scores = iter(score(model, flat, batch_tokens=batch_tokens))
    for item in prompts:
        yield [next(scores) for _ in item.continuations]


def benchmark_units(
    benchmark: Benchmark, indices: Sequence[int], found: Outcome, contaminated: Mapping[str, set[int]]
) -> Units:
    """The outcome as a score; `contaminated` holds lines of files, see contamination.py."""
    rows = [benchmark.rows[index] for index in indices]
    marked = contaminated.get(benchmark.path.stem)
    return Units(
        benchmark=benchmark.name,
        metric=ACCURACY,
        version=METRIC_VERSION,
        ids=[str(row.number) for row in rows],
        values=found.is_right.astype(np.float64),
        is_share=True,
        chance=benchmark.chance,
        gold=None if found.chosen is None else np.array([row.values["gold"] for row in rows]),
        chosen=found.chosen,
        contaminated=None if marked is None else np.array([row.number in marked for row in rows]),
    )


def centred_rows(measured: Measured, benchmarks: Sequence[Benchmark], first: str, second: str) -> list[Score]:
    """The centred accuracy of each benchmark and model, then CORE: their mean over the tasks of the set that are there.

    CORE's metric says how many of the 22 tasks these are; the scores of other numbers of tasks are other metrics.
    """
    rows: list[Score] = []
    for benchmark in benchmarks:
        for model, of_model in measured.items():
            if units := of_model.get((benchmark.name, ACCURACY)):
                found, zero = units.estimate(), benchmark.zero
                score, low, high = (centred(value, zero) for value in (found.score, found.low, found.high))
                rows.append(Score(model, benchmark.name, CENTRED, METRIC_VERSION, Estimate(score, low, high, found.n)))
    tasks = [benchmark for benchmark in benchmarks if benchmark.core]
    if tasks:
        rows += _core_rows(measured, tasks, first, second)
    return rows


def _core_rows(measured: Measured, tasks: Sequence[Benchmark], first: str, second: str) -> Iterator[Score]:
    metric = f"{CENTRED}, {len(tasks)} of {len(CORE_TASKS)} tasks"
    values = {
        model: [centred(of_model[task.name, ACCURACY].values, task.zero) for task in tasks]
        for model, of_model in measured.items()
        if (tasks[0].name, ACCURACY) in of_model
    }
    for model, groups in values.items():
        yield Score(model, CORE, metric, METRIC_VERSION, mean_of_means(groups))
    if first in values and second in values:
        differences = [one - other for one, other in zip(values[first], values[second], strict=True)]
        yield Score(first, CORE, metric + OVER_BASE, METRIC_VERSION, mean_of_means(differences))
