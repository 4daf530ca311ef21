"""What the report shows of the evaluate stage: its scores as tables, and what the models wrote.

Every function gives an empty list when the files are not there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..files import read_table

BASE, CHAT, XZ = "base", "chat", "xz -9"
DOCUMENTS, EXAMPLES, DEFINITIONS, CORE = "held-out documents", "held-out examples", "four-choice definitions", "CORE"
BITS_PER_BYTE, ACCURACY, CENTRED = "bits per byte", "accuracy", "centred accuracy"
SHARES = ("well-formed ends of turn", "exact match", "token F1")
"""Metrics from 0 to 1, besides those that have a chance level."""
OVER_BASE = " minus base"


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A row of scores.parquet. Of a difference in pairs, `metric` is what differs, and `model` says from what.

    `part` names the items that are scored, "" for all of the benchmark's. `centred` is the accuracy on the scale where
    blind guessing is 0 and everything right is 1.
    """

    model: str
    benchmark: str
    part: str
    metric: str
    metric_version: int
    score: float
    low: float | None
    high: float | None
    n: int
    chance: float | None
    is_difference: bool
    is_share: bool
    centred: float | None = None


@dataclass(frozen=True)
class Block:
    """One metric of one benchmark: all items first, then each part, and of these each model, the difference last."""

    benchmark: str
    metric: str
    metric_version: int
    rows: list[ScoreRow]


@dataclass(frozen=True)
class ScoreTable:
    """Scores of one kind."""

    title: str
    blocks: list[Block]

    @property
    def has_chances(self) -> bool:
        """Whether any score has a chance level."""
        return any(row.chance is not None for block in self.blocks for row in block.rows)

    @property
    def has_parts(self) -> bool:
        """Whether any score is of some of the items."""
        return any(row.part for block in self.blocks for row in block.rows)

    @property
    def has_centred(self) -> bool:
        """Whether any score has a centred form."""
        return any(row.centred is not None for block in self.blocks for row in block.rows)

    @property
    def has_shares(self) -> bool:
        """Whether any score can be drawn on a scale from 0 to 1."""
        return any(row.is_share and not row.is_difference for block in self.blocks for row in block.rows)


def scores(artifact: Path) -> list[ScoreRow]:
    """The rows of scores.parquet, in their order; a centred accuracy stands in the row of the accuracy."""
    path = artifact / "scores.parquet"
    read = [_row(row) for row in (read_table(path).to_pylist() if path.exists() else [])]
    centred = {(row.model, row.benchmark): row.score for row in read if row.metric == CENTRED}
    rows = [row for row in read if row.metric != CENTRED]
    return [
        replace(row, centred=centred.get((row.model, row.benchmark)))
        if row.metric == ACCURACY and not row.part
        else row
        for row in rows
    ]


def _row(values: dict[str, Any]) -> ScoreRow:
    benchmark, _, part = values["benchmark"].partition(", ")
    metric, is_difference = values["metric"].removesuffix(OVER_BASE), values["metric"].endswith(OVER_BASE)
    is_share = metric in SHARES or metric.startswith(ACCURACY) or values["chance"] is not None
    model = f"{values['model']}{OVER_BASE}" if is_difference else values["model"]
    changes = {"benchmark": benchmark, "part": part, "metric": metric, "model": model}
    return ScoreRow(**values | changes, is_difference=is_difference, is_share=is_share)


def score_tables(rows: Sequence[ScoreRow]) -> list[ScoreTable]:
    """All scores, by what they are about; a kind of which there is none is left out."""
    benchmarks = {row.benchmark for row in rows if row.centred is not None} | {CORE}
    kinds: dict[str, list[ScoreRow]] = {"Text": [], "Answers": [], "Choices and other tasks": [], "Benchmarks": []}
    for row in rows:
        if row.benchmark in benchmarks:
            kinds["Benchmarks"].append(row)
        elif row.benchmark == EXAMPLES:
            kinds["Answers"].append(row)
        else:
            kinds["Text" if row.metric == BITS_PER_BYTE else "Choices and other tasks"].append(row)
    tables = [ScoreTable(title, _blocks(found)) for title, found in kinds.items() if found]
    return [replace(table, blocks=sorted(table.blocks, key=lambda block: block.benchmark != CORE)) for table in tables]


def _blocks(rows: Sequence[ScoreRow]) -> list[Block]:
    found: dict[tuple[str, str, int], list[ScoreRow]] = {}
    for row in rows:
        found.setdefault((row.benchmark, row.metric, row.metric_version), []).append(row)
    return [Block(*key, _by_part(of_key)) for key, of_key in found.items()]


def _by_part(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    parts = list(dict.fromkeys(row.part for row in rows))
    return sorted(rows, key=lambda row: (parts.index(row.part), row.is_difference))


def answers(artifact: Path) -> list[dict[str, Any]]:
    """The sampled answers: question, reference, answer, ended, exact, f1."""
    return _lines(artifact / "answers.jsonl")


def written(artifact: Path) -> dict[str, dict[str, str]]:
    """What each model made of each fixed prompt: by prompt, then by model."""
    texts: dict[str, dict[str, str]] = {}
    for line in _lines(artifact / "samples.jsonl"):
        texts.setdefault(line["prompt"], {})[line["model"]] = line["text"]
    return texts


def _lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.split("\n") if line]
