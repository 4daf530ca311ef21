"""Two models side by side: their scores, what they cost, and what they say to the same prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from llm.config import from_dict
from llm.evaluate.multiple_choice import HEADLINE
from llm.evaluate.scores import OVER_BASE
from llm.evaluate.statistics import Estimate, paired_difference
from llm.evaluate.units import DEFINITIONS
from llm.files import read_json, read_table
from llm.model.files import CONFIG_FILE
from llm.model.generate import Sampling
from llm.model.gpt import GPTConfig
from llm.model.size import n_params
from llm.serve.answer import Answer, LoadedModel
from tasks.store import Artifact

from .chat import printable
from .models import FoundModel, find_model, load_found, store, stored_models

N_PROMPTS = 3
SAMPLE_TOKENS = 100

ScoreKey = tuple[str, str]
"""Benchmark and metric."""
Row = dict[str, Any]
Items = dict[str, tuple[float, float]]
"""By the id of an item, what it counts in a score, and of how much: bits and bytes, or right (1, 0) and 1."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation says of one model."""

    scores: dict[ScoreKey, Row]
    """Rows of scores.parquet."""
    items: dict[ScoreKey, Items]


@dataclass(frozen=True)
class ScorePair:
    """One score of both models; None where it was not measured."""

    benchmark: str
    metric: str
    chance: float | None
    first: Estimate | None
    second: Estimate | None
    difference: Estimate | None
    """Second minus first over the items that both were asked, each with its partner."""


@dataclass(frozen=True)
class Sample:
    """What both models make of a prompt."""

    prompt: str
    first: str
    second: str


@dataclass(frozen=True)
class Comparison:
    """All that is shown."""

    names: tuple[str, str]
    scores: list[ScorePair]
    costs: tuple[dict[str, float], dict[str, float]]
    samples: list[Sample]

    def as_json(self) -> str:
        """The comparison as a JSON object."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


def compare(first: str, second: str, prompts: Sequence[str], sampling: Sampling) -> Comparison:
    """Reads what the store knows of two models, and lets both answer the same prompts with the same seed.

    Without prompts, the first questions of an evaluation are taken. Raises ValueError for a model that does not exist.
    """
    models = find_model(first), find_model(second)
    evaluations = nearest_evaluations(*models)
    scored = [evaluated(model, one) for model, one in zip(models, evaluations, strict=True)]
    texts = list(prompts) or questions(evaluations)
    answers = [sampled(load_found(model), texts, sampling) for model in models]
    return Comparison(
        names=(models[0].name, models[1].name),
        scores=[score_pair(key, *scored) for key in score_keys(*scored)],
        costs=(cost(models[0]), cost(models[1])),
        samples=[Sample(*texts) for texts in zip(texts, *answers, strict=True)],
    )


def nearest_evaluations(first: FoundModel, second: FoundModel) -> tuple[Artifact | None, Artifact | None]:
    """An evaluation of each: the pair that shares most inputs, such as the held-out documents; then the newest."""
    options = [(a, b) for a in evaluations(first) or [None] for b in evaluations(second) or [None]]
    return max(options, key=lambda pair: len(input_digests(pair[0]) & input_digests(pair[1])))


def evaluations(model: FoundModel) -> list[Artifact | None]:
    """The evaluations that scored a model, the newest first."""
    digest = model.artifact.digest if model.artifact else ""
    return [made for made in store().artifacts("evaluate") if digest in input_digests(made)]


def input_digests(artifact: Artifact | None) -> set[str]:
    """Digests of what an artifact was made from."""
    return {item["digest"] for item in artifact.manifest["inputs"]} if artifact else set()


def evaluated(model: FoundModel, evaluation: Artifact | None) -> Evaluated:
    """What an evaluation's files say of a model."""
    if evaluation is None or model.artifact is None:
        return Evaluated({}, {})
    label = str(model.artifact.makes)
    items: dict[ScoreKey, Items] = {}
    for row in rows_of(evaluation, "items.parquet", label):
        items.setdefault(key_of(row), {})[row["id"]] = counted(row)
    return Evaluated({key_of(row): row for row in rows_of(evaluation, "scores.parquet", label)}, items)


def rows_of(evaluation: Artifact, name: str, label: str) -> Iterator[Row]:
    """The rows of a Parquet file that are about one model."""
    return (row for row in read_table(evaluation.path / name).to_pylist() if row["model"] == label)


def key_of(row: Row) -> ScoreKey:
    """Benchmark and metric; the items of old evaluations do not say: they are those of the four-choice benchmark."""
    return row.get("benchmark", DEFINITIONS), row.get("metric", HEADLINE)


def counted(row: Row) -> tuple[float, float]:
    """What an item adds to a score, and how much it weighs in it."""
    value = row["value"] if "value" in row else row["gold"] == row["chosen"]
    weight = row.get("weight")
    return float(value), 1.0 if weight is None else float(weight)


def score_keys(first: Evaluated, second: Evaluated) -> list[ScoreKey]:
    """What was measured of either, without comparisons with a base model: these are about another pair."""
    return [key for key in dict.fromkeys([*first.scores, *second.scores]) if not key[1].endswith(OVER_BASE)]


def score_pair(key: ScoreKey, first: Evaluated, second: Evaluated) -> ScorePair:
    """One score of both models; versions of a metric cannot be compared, so then there is no difference."""
    rows = first.scores.get(key), second.scores.get(key)
    known = [row for row in rows if row]
    is_same = len({row["metric_version"] for row in known}) == 1
    return ScorePair(
        *key,
        chance=known[0]["chance"],
        first=estimate(rows[0]),
        second=estimate(rows[1]),
        difference=paired(first.items.get(key, {}), second.items.get(key, {})) if is_same else None,
    )


def estimate(row: Row | None) -> Estimate | None:
    """The score of a row with its interval."""
    return Estimate(row["score"], row["low"], row["high"], row["n"]) if row else None


def paired(first: Items, second: Items) -> Estimate | None:
    """Second minus first over the items that both have; None when there are none."""
    both = [item for item in first if item in second]
    if not both:
        return None
    values, sizes = np.array([(second[item][0], first[item][0]) for item in both]), [first[item][1] for item in both]
    return paired_difference(values[:, 0], values[:, 1], sizes)


def cost(model: FoundModel) -> dict[str, float]:
    """Parameters; tokens and seconds of its training together with that of the models it was made from."""
    config = from_dict(GPTConfig, read_json(model.path / CONFIG_FILE)["model"])
    trainings = lineage(model.artifact) if model.artifact else []
    spent = {
        "training tokens": sum(map(training_tokens, trainings)),
        "training seconds": sum(float(made.provenance.get("seconds", 0)) for made in trainings),
    }
    return {"parameters": n_params(config)} | (spent if trainings else {})


def lineage(artifact: Artifact) -> list[Artifact]:
    """A model, the model it was made from, and so on."""
    digests = input_digests(artifact)
    parents = {model.digest: model for model in stored_models() if model.digest in digests}
    return [artifact, *(older for parent in parents.values() for older in lineage(parent))]


def training_tokens(artifact: Artifact) -> float:
    """Tokens that a training read; repeated ones count each time."""
    counts = artifact.counts
    return counts.figures.get("n_tokens", counts.n_out if counts.unit == "tokens" else 0)


def questions(evaluations: Sequence[Artifact | None]) -> list[str]:
    """The first held-out questions of an evaluation; without one, the beginning of many texts."""
    for path in (made.path / "answers.jsonl" for made in evaluations if made):
        found = [json.loads(line)["question"] for line in path.read_text().splitlines()] if path.is_file() else []
        if found:
            return found[:N_PROMPTS]
    return ["The"]


def sampled(loaded: LoadedModel, prompts: Sequence[str], sampling: Sampling) -> list[str]:
    """The answer to each prompt, or how a base model continues it."""
    tokens = [
        loaded.chat_prompt([{"role": "user", "content": prompt}]) if loaded.is_chat else loaded.text_prompt(prompt)
        for prompt in prompts
    ]
    return [Answer(loaded, prompt, sampling=sampling, max_tokens=SAMPLE_TOKENS).text() for prompt in tokens]


def show(console: Console, comparison: Comparison) -> None:
    """Prints the comparison as tables."""
    names = [escape(name) for name in comparison.names]
    console.print(Group(costs_table(names, comparison), "", scores_table(names, comparison)))
    if not comparison.scores:
        console.print("no evaluation in the store has scored either; `python -m flows run` evaluates a recipe's models")
    for sample in comparison.samples:
        console.print(f"\n[bold]{escape(sample.prompt)}[/]", emoji=False)
        for name, text in zip(names, (sample.first, sample.second), strict=True):
            console.print(f"  [cyan]{name}[/]  {escape(printable(text.strip()))}", emoji=False)


def costs_table(names: list[str], comparison: Comparison) -> Table:
    """What the models cost."""
    table = Table("cost", *names, box=None, pad_edge=False)
    first, second = comparison.costs
    for what in dict.fromkeys([*first, *second]):
        table.add_row(what, *("" if what not in side else f"{side[what]:,.0f}" for side in (first, second)))
    return table


def scores_table(names: list[str], comparison: Comparison) -> Table:
    """Every score of both models, and the paired difference where both were asked the same."""
    columns = "benchmark", "metric", "chance", *names, "second minus first"
    table = Table(*columns, box=None, pad_edge=False, title="scores with 95 % intervals", title_justify="left")
    for pair in comparison.scores:
        chance = "" if pair.chance is None else f"{pair.chance:.2f}"
        shown = [in_words(one) for one in (pair.first, pair.second, pair.difference)]
        table.add_row(pair.benchmark, pair.metric, chance, *shown)
    return table


def in_words(estimate: Estimate | None) -> str:
    """The score and the items it rests on, and below them its interval; empty for a score that is not there."""
    if estimate is None:
        return ""
    interval = "" if estimate.low is None else f"\n{estimate.low:.4f} to {estimate.high:.4f}"
    return f"{estimate.score:.4f}  (n {estimate.n:,}){interval}"
