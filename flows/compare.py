"""Two models side by side: their scores, what they cost, and what they say to the same prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from llm.evaluate.comparison import ScorePair, score_pairs
from llm.evaluate.scores import ANSWERS_FILE, read_lines
from llm.model.generate import Sampling
from llm.model.size import n_params
from llm.serve.answer import Answer, LoadedModel
from llm.statistics import Estimate
from tasks.core.store import Artifact

from .chat import printable
from .models import FoundModel, find_model, load_found, store

N_PROMPTS = 3
SAMPLE_TOKENS = 100


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
        """Returns the comparison as a JSON object."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


def compare(first: str, second: str, prompts: Sequence[str], sampling: Sampling) -> Comparison:
    """Reads what the store knows of two models, and lets both answer the same prompts with the same seed.

    Without prompts, the first questions of an evaluation are taken. Raises ValueError for a model that does not exist.
    """
    models = find_model(first), find_model(second)
    evaluations = nearest_evaluations(*models)
    texts, costs, answers = list(prompts) or questions(evaluations), [], []
    for model in models:
        loaded = load_found(model)
        costs.append(cost(model, loaded))
        answers.append(sampled(loaded, texts, sampling))
    return Comparison(
        names=(models[0].name, models[1].name),
        scores=score_pairs(*(evaluated(*pair) for pair in zip(models, evaluations, strict=True))),
        costs=(costs[0], costs[1]),
        samples=[Sample(*texts) for texts in zip(texts, *answers, strict=True)],
    )


def nearest_evaluations(first: FoundModel, second: FoundModel) -> tuple[Artifact | None, Artifact | None]:
    """Returns an evaluation of each: the pair that shares most inputs, as the held-out documents; then the newest."""
    options = [(a, b) for a in evaluations(first) or [None] for b in evaluations(second) or [None]]
    return max(
        options, key=lambda pair: len(pair[0].input_digests & pair[1].input_digests) if pair[0] and pair[1] else 0
    )


def evaluations(model: FoundModel) -> list[Artifact | None]:
    """Returns the evaluations that scored a model, the newest first."""
    digest = model.artifact.digest if model.artifact else ""
    return [made for made in store().artifacts("evaluate") if digest in made.input_digests]


def evaluated(model: FoundModel, evaluation: Artifact | None) -> tuple[Path, str] | None:
    """Returns where an evaluation is and what it calls a model; None when there is none."""
    return (evaluation.path, str(model.artifact.makes)) if evaluation and model.artifact else None


def cost(model: FoundModel, loaded: LoadedModel) -> dict[str, float]:
    """Returns parameters; tokens and seconds of its training together with that of the models it was made from."""
    spent: dict[str, float] = {"parameters": n_params(loaded.model.config)}
    if model.artifact:
        trainings = [made for made in store().ancestors(model.artifact) if made.makes]
        spent["training tokens"] = sum(map(training_tokens, trainings))
        spent["training seconds"] = sum(float(made.provenance.get("seconds", 0)) for made in trainings)
    return spent


def training_tokens(artifact: Artifact) -> float:
    """Returns the tokens that a training read; repeated ones count each time."""
    counts = artifact.counts
    return counts.figures.get("n_tokens", counts.n_out if counts.unit == "tokens" else 0)


def questions(evaluations: Sequence[Artifact | None]) -> list[str]:
    """Returns the first held-out questions of an evaluation; without one, the beginning of many texts."""
    for made in filter(None, evaluations):
        if found := read_lines(made.path / ANSWERS_FILE):
            return [answer["question"] for answer in found[:N_PROMPTS]]
    return ["The"]


def sampled(loaded: LoadedModel, prompts: Sequence[str], sampling: Sampling) -> list[str]:
    """Returns the answer to each prompt, or how a base model continues it."""
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
    """Returns what the models cost."""
    table = Table("cost", *names, box=None, pad_edge=False)
    first, second = comparison.costs
    for what in dict.fromkeys([*first, *second]):
        table.add_row(what, *("" if what not in side else f"{side[what]:,.0f}" for side in (first, second)))
    return table


def scores_table(names: list[str], comparison: Comparison) -> Table:
    """Returns every score of both models, and the paired difference where both were asked the same."""
    columns = "benchmark", "metric", "chance", *names, "second minus first"
    table = Table(*columns, box=None, pad_edge=False, title="scores with 95 % intervals", title_justify="left")
    for pair in comparison.scores:
        chance = "" if pair.chance is None else f"{pair.chance:.2f}"
        shown = [in_words(one) for one in (pair.first, pair.second, pair.difference)]
        table.add_row(pair.benchmark, pair.metric, chance, *shown)
    return table


def in_words(estimate: Estimate | None) -> str:
    """Returns the score and the items it rests on, and below them its interval; empty for a score that is not there."""
    if estimate is None:
        return ""
    interval = "" if estimate.low is None else f"\n{estimate.low:.4f} to {estimate.high:.4f}"
    return f"{estimate.score:.4f}  (n {estimate.n:,}){interval}"
