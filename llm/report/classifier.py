"""What the report shows of a classifier: its scores beside the baselines', its confusion matrix, its calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import read_json, read_table
from .figures import calibration_figure

MAX_LABELS = 20
"""A larger confusion matrix does not fit on a page."""


@dataclass(frozen=True)
class ClassifierScores:
    """The scores of a classifier or a baseline, each with its 95 % interval, in the order of the report's `names`."""

    model: str
    values: list[str]


@dataclass(frozen=True)
class ClassifierReport:
    """`confusion[i][j]`: held-out texts of label i taken for label j; None when there are too many labels.

    `calibration` is inline SVG.
    """

    names: list[str]
    scores: list[ClassifierScores]
    n: int
    labels: list[str]
    confusion: list[list[int]] | None
    calibration: str


def classifier(artifact: Path) -> ClassifierReport | None:
    """Returns what a classify stage has left; None when it is not there."""
    if not (artifact / "confusion.parquet").exists():
        return None
    rows = read_table(artifact / "scores.parquet").to_pylist()
    names = list(dict.fromkeys(row["score"] for row in rows))
    models = dict.fromkeys(row["model"] for row in rows)
    found = {(row["model"], row["score"]): _value(row) for row in rows}
    labels = read_json(artifact / "labels.json")
    return ClassifierReport(
        [name.replace("_", " ").replace("f1", "F1") for name in names],
        [ClassifierScores(model, [found.get((model, name), "") for name in names]) for model in models],
        rows[0]["n"],
        labels,
        _confusion(artifact, labels) if len(labels) <= MAX_LABELS else None,
        calibration_figure("calibration", read_table(artifact / "calibration.parquet").to_pylist()),
    )


def _value(row: dict[str, Any]) -> str:
    return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def _confusion(artifact: Path, labels: list[str]) -> list[list[int]]:
    cells = {
        (row["label"], row["predicted"]): row["n"] for row in read_table(artifact / "confusion.parquet").to_pylist()
    }
    return [[cells[label, predicted] for predicted in labels] for label in labels]
