"""What the report shows of the evaluate stage: its scores as tables, and what the models wrote.

Every function returns something empty when the files are not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from ..evaluate.metrics import ACCURACY, CENTRED, CORE, OVER_BASE, SHARE, Section, find
from ..evaluate.scores import SAMPLES_FILE, read_lines, read_scores


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
    section: Section
    centred: float | None = None

    def in_words(self) -> str:
        """Returns the score: shares in per cent, their differences in points, others with three decimals."""
        if self.is_share:
            return f"{100 * self.score:+.1f} points" if self.is_difference else f"{100 * self.score:.1f} %"
        return f"{self.score:+.3f}" if self.is_difference else f"{self.score:.3f}"

    def interval(self) -> str:
        """Returns the ends of the 95 % interval, "" if there is none."""
        if self.low is None or self.high is None:
            return ""
        sign = "+" if self.is_difference else ""
        if self.is_share:
            return f"{100 * self.low:{sign}.1f} to {100 * self.high:{sign}.1f}{'' if self.is_difference else ' %'}"
        return f"{self.low:{sign}.3f} to {self.high:{sign}.3f}"


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
    """Returns the rows of scores.parquet, in their order; a centred accuracy stands in the row of the accuracy."""
    read = [_row(row) for row in read_scores(artifact)]
    centred = {(row.model, row.benchmark): row.score for row in read if row.metric == CENTRED.name}
    return [
        replace(row, centred=centred.get((row.model, row.benchmark)))
        if row.metric == ACCURACY.name and not row.part
        else row
        for row in read
        if row.metric != CENTRED.name
    ]


def _row(values: dict[str, Any]) -> ScoreRow:
    benchmark, _, part = values["benchmark"].partition(", ")
    name, is_difference = values["metric"].removesuffix(OVER_BASE), values["metric"].endswith(OVER_BASE)
    metric = find(benchmark, name)
    model = f"{values['model']}{OVER_BASE}" if is_difference else values["model"]
    changes = {"benchmark": benchmark, "part": part, "metric": name, "model": model, "section": metric.section}
    is_share = metric.unit == SHARE or values["chance"] is not None
    return ScoreRow(**values | changes, is_difference=is_difference, is_share=is_share)


def score_tables(rows: Sequence[ScoreRow]) -> list[ScoreTable]:
    """Returns all scores by the section of their metric, CORE first; a section without scores is left out."""
    tables = []
    for section in get_args(Section):
        blocks = _blocks([row for row in rows if row.section == section])
        if blocks:
            tables.append(ScoreTable(section, sorted(blocks, key=lambda block: block.benchmark != CORE)))
    return tables


def _blocks(rows: Sequence[ScoreRow]) -> list[Block]:
    found: dict[tuple[str, str, int], list[ScoreRow]] = {}
    for row in rows:
        found.setdefault((row.benchmark, row.metric, row.metric_version), []).append(row)
    return [Block(*key, _by_part(of_key)) for key, of_key in found.items()]


def _by_part(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    parts = list(dict.fromkeys(row.part for row in rows))
    return sorted(rows, key=lambda row: (parts.index(row.part), row.is_difference))


def samples(artifact: Path) -> dict[str, dict[str, str]]:
    """Returns what each model made of each fixed prompt: by prompt, then by model."""
    texts: dict[str, dict[str, str]] = {}
    for line in read_lines(artifact / SAMPLES_FILE):
        texts.setdefault(line["prompt"], {})[line["model"]] = line["text"]
    return texts
