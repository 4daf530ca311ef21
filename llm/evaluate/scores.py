"""Scores out of what was measured of single documents, examples and items: rows with intervals, and their files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..files import read_table
from ..statistics import Estimate, bootstrap_ratio, paired_difference, wilson
from .metrics import OVER_BASE, Metric, find

SCORES_FILE, ITEMS_FILE = "scores.parquet", "items.parquet"
ANSWERS_FILE, SAMPLES_FILE = "answers.jsonl", "samples.jsonl"

SCORE_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("benchmark", pa.string()),
        ("metric", pa.string()),
        ("metric_version", pa.int32()),
        ("score", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
        ("chance", pa.float64()),
    ]
)
ITEM_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("benchmark", pa.string()),
        ("metric", pa.string()),
        ("metric_version", pa.int32()),
        ("id", pa.string()),
        ("value", pa.float64()),  # a score is the sum of values over the sum of weights
        ("weight", pa.float64()),
        ("gold", pa.int32()),  # the right choice, and the one taken, where there are choices
        ("chosen", pa.int32()),
        ("contaminated", pa.bool_()),  # null: nobody has looked
    ]
)
SCORE_DECIMALS = 5
"""Digits kept of a score: float sums differ in the seventh between thread counts, and files must not."""
ITEM_DECIMALS = 3

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Items: TypeAlias = pa.Table
"""Rows of items.parquet, those of one model."""


@dataclass(frozen=True)
class Score:
    """One row of scores.parquet; `chance` is the score of blind guessing, where there is one."""

    model: str
    benchmark: str
    metric: Metric
    estimate: Estimate
    chance: float | None = None
    has_interval: bool = True
    is_difference: bool = False
    """Whether it is the model's score minus that of the base model, in pairs."""

    def __post_init__(self) -> None:
        find(self.benchmark, self.metric.name)

    def row(self) -> dict[str, Any]:
        """Returns the columns of `SCORE_SCHEMA`."""
        found = self.estimate
        return {
            "model": self.model,
            "benchmark": self.benchmark,
            "metric": self.metric.name + (OVER_BASE if self.is_difference else ""),
            "metric_version": self.metric.version,
            "score": round(found.score, SCORE_DECIMALS),
            "low": round(found.low, SCORE_DECIMALS) if self.has_interval else None,
            "high": round(found.high, SCORE_DECIMALS) if self.has_interval else None,
            "n": found.n,
            "chance": self.chance,
        }


@dataclass(frozen=True, kw_only=True)
class Units:
    """One metric of one benchmark, unit by unit: the score is the sum of `values` over the sum of `weights`.

    Units are independent of each other: documents, examples, items. All arrays are (n,).
    """

    benchmark: str
    metric: Metric
    ids: Sequence[str]
    values: Values
    weights: Values | None = None
    """None counts each unit once."""
    is_share: bool = False
    """Whether each value is 0 or 1, so that the score is a share."""
    chance: float | None = None
    gold: npt.NDArray[np.int64] | None = None
    chosen: npt.NDArray[np.int64] | None = None
    contaminated: Mask | None = None
    """Whether the training documents hold the unit's text; None when nobody has looked."""
    parts: Mapping[str, Mask] = field(default_factory=dict)
    """Some of the units, which are scored by themselves too, by what they are called after the benchmark's name."""

    def __post_init__(self) -> None:
        find(self.benchmark, self.metric.name)

    def estimate(self, chosen: Mask | slice = slice(None)) -> Estimate:
        """Returns the score of some units with its interval: Wilson's of a share, else by the bootstrap."""
        values = self.values[chosen]
        if self.is_share:
            return wilson(values.astype(bool))
        return bootstrap_ratio(values, None if self.weights is None else self.weights[chosen])

    def selections(self) -> Iterator[tuple[str, Mask | slice]]:
        """Yields the benchmark's name with all units, then that of each part with its own."""
        yield self.benchmark, slice(None)
        if self.contaminated is not None and self.contaminated.any():
            parts = {"clean items": ~self.contaminated, "contaminated items": self.contaminated}
        else:
            parts = {}
        for name, mask in {**parts, **self.parts}.items():
            if mask.any():
                yield f"{self.benchmark}, {name}", mask


Measured = Mapping[str, Mapping[tuple[str, str], Units]]
"""For each model, what was measured of it, by benchmark and metric."""


def score_rows(measured: Measured, first: str, second: str) -> list[Score]:
    """Returns the scores of all models, metric by metric, each followed by the paired difference `first` - `second`."""
    keys = list(dict.fromkeys(key for of_model in measured.values() for key in of_model))
    rows = []
    for key in keys:
        of_key = {model: units[key] for model, units in measured.items() if key in units}
        for model, units in of_key.items():
            for name, mask in units.selections():
                rows.append(Score(model, name, units.metric, units.estimate(mask), units.chance))
        if first in of_key and second in of_key:
            rows += _differences(first, of_key[first], of_key[second])
    return rows


def _differences(model: str, first: Units, second: Units) -> Iterator[Score]:
    """Yields the paired bootstrap over all units, and over those of each part."""
    for name, mask in first.selections():
        weights = None if first.weights is None else first.weights[mask]
        difference = paired_difference(first.values[mask], second.values[mask], weights)
        yield Score(model, name, first.metric, difference, is_difference=True)


def score_table(scores: Sequence[Score]) -> pa.Table:
    """Returns the rows of scores.parquet."""
    return pa.Table.from_pylist([score.row() for score in scores], schema=SCORE_SCHEMA)


def item_table(measured: Measured) -> pa.Table:
    """Returns the rows of items.parquet: what each unit adds to each score."""
    tables = [_item_rows(model, units) for model, of_model in measured.items() for units in of_model.values()]
    return pa.concat_tables([ITEM_SCHEMA.empty_table(), *tables])


def _item_rows(model: str, units: Units) -> pa.Table:
    n = len(units.ids)
    columns = {
        "model": [model] * n,
        "benchmark": [units.benchmark] * n,
        "metric": [units.metric.name] * n,
        "metric_version": [units.metric.version] * n,
        "id": units.ids,
        "value": np.round(units.values, ITEM_DECIMALS),
        "weight": np.ones(n) if units.weights is None else units.weights,
        "gold": [None] * n if units.gold is None else units.gold,
        "chosen": [None] * n if units.chosen is None else units.chosen,
        "contaminated": [None] * n if units.contaminated is None else units.contaminated,
    }
    return pa.table({name: pa.array(column, ITEM_SCHEMA.field(name).type) for name, column in columns.items()})


def read_scores(evaluation: Path, model: str | None = None) -> list[dict[str, Any]]:
    """Returns the rows of an evaluation's scores, of one model those that are no difference; none without the file."""
    path = evaluation / SCORES_FILE
    rows = read_table(path).to_pylist() if path.exists() else []
    if model is None:
        return rows
    return [row for row in rows if row["model"] == model and not row["metric"].endswith(OVER_BASE)]


def read_items(evaluation: Path, model: str) -> Items:
    """Returns what each item adds to the scores of a model."""
    return read_table(evaluation / ITEMS_FILE).filter(pc.field("model") == model)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of an evaluation's JSONL file, answers or samples; none where there is no file."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.split("\n") if line]
