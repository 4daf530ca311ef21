"""The table of metrics: name, unit, direction, version, and where each is shown; and the names of what is scored.

A new metric is a row here and the code that measures it. `Units` and `Score` refuse one that is not in the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BASE, CHAT, XZ, WORD_OVERLAP = "base", "chat", "xz -9", "word overlap"
"""Models and baselines, as the evaluation calls them."""
DOCUMENTS, EXAMPLES, DEFINITIONS = "held-out documents", "held-out examples", "four-choice definitions"
"""Benchmarks made of what is held out."""
CORE, LM_EVAL = "CORE", "lm-eval "
"""The benchmark that is the mean over others, and what the names of lm-eval's tasks begin with."""
OVER_BASE = " minus base"
"""Ends the name of a metric whose score is a difference in pairs."""

Section = Literal["Text", "Answers", "Choices and other tasks", "Benchmarks"]
SHARE = "share"


@dataclass(frozen=True)
class Metric:
    """A row of the table."""

    name: str
    unit: str
    benchmark: str | None = None
    """The one benchmark that it is measured on; None: any."""
    lower_is_better: bool = False
    version: int = 1
    """Another version's scores cannot be compared."""
    section: Section = "Choices and other tasks"
    """The report's table that shows it."""
    key: str | None = None
    """Its name in counts and MLflow, after the model's; None: it is in the tables only."""


BITS_PER_BYTE = Metric("bits per byte", "bits per byte", DOCUMENTS, True, 2, "Text", "bits_per_byte")
ANSWER_LOSS = Metric("answer loss", "nats per token", EXAMPLES, True, 2, "Answers", "answer_loss")
"""Version 1 of both: a window after a text's first did not begin with `<|document|>`."""
ENDED = Metric("well-formed ends of turn", SHARE, EXAMPLES, section="Answers", key="ended_share")
EXACT_MATCH = Metric("exact match", SHARE, EXAMPLES, section="Answers", key="exact_match")
TOKEN_F1 = Metric("token F1", SHARE, EXAMPLES, section="Answers", key="token_f1")
FOUR_CHOICE = Metric("accuracy", SHARE, DEFINITIONS, version=2, key="four_choice_accuracy")
FOUR_CHOICE_BY_SUM = Metric("accuracy by likelihood", SHARE, DEFINITIONS, version=2)
FOUR_CHOICE_PER_BYTE = Metric("accuracy per byte", SHARE, DEFINITIONS, version=2)
"""Version 1 of the three: wrong choices were alike in kind and length only."""
ACCURACY = Metric("accuracy", SHARE, section="Benchmarks", key="{benchmark}_accuracy")
CORE_SCORE = Metric("centred accuracy", "1 - chance", CORE, section="Benchmarks", key="core")
"""Its name goes on with the number of tasks: scores of other numbers of tasks are other metrics."""
CENTRED = Metric("centred accuracy", "1 - chance", section="Benchmarks")

METRICS = (
    BITS_PER_BYTE,
    ANSWER_LOSS,
    ENDED,
    EXACT_MATCH,
    TOKEN_F1,
    FOUR_CHOICE,
    FOUR_CHOICE_BY_SUM,
    FOUR_CHOICE_PER_BYTE,
    ACCURACY,
    CORE_SCORE,
    CENTRED,
)
"""The table. Of two rows with a name, the one of a benchmark stands first."""

HELD_OUT = {
    "val_loss": "loss",
    "val_bpb": BITS_PER_BYTE.name,
    "val_accuracy": "accuracy",
    "val_margin": "margin",
    "val_reward": "reward",
}
"""What training measures of held-out batches: the key in metrics.jsonl, and the name that the report shows."""
PROGRESS = ("val_bpb", "val_loss", "loss", "tokens_per_s")
"""What is shown while training runs, the most telling first."""


def find(benchmark: str, name: str) -> Metric:
    """Returns the metric that scores of a benchmark, or of a part of it, name; lm-eval's own are all known.

    Raises ValueError for a metric that is not in the table.
    """
    if benchmark.startswith(LM_EVAL):
        return Metric(name.removesuffix(OVER_BASE), "")
    known, whole = name.removesuffix(OVER_BASE).partition(", ")[0], benchmark.partition(", ")[0]
    for metric in METRICS:
        if metric.name == known and metric.benchmark in (None, whole):
            return metric
    raise ValueError(
        f"metric {name!r} of {benchmark!r} is not in the table of llm/evaluate/metrics.py: add a row there"
    )
