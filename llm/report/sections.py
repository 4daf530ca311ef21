"""What the report shows of the stages that make documents and the tokenizer, read from artifacts as plain values.

Every function gives None (or an empty list) when the files are not there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..counts import Counts
from ..data.common.drops import Dropped, read_dropped, sampled
from ..files import read_json, read_table
from .figures import length_figure

MAX_REASONS = 12


@dataclass(frozen=True)
class Bar:
    """A labelled count and its share (0 to 1) of what the stage took in."""

    label: str
    n: int
    share: float


@dataclass(frozen=True)
class Funnel:
    """What a stage took in, kept, and dropped, the largest reasons first."""

    stage: str
    unit: str
    n_in: int
    kept: Bar
    reasons: list[Bar]


@dataclass(frozen=True)
class DroppedSample:
    """Some of what was dropped for one reason."""

    reason: str
    n: int
    examples: list[Dropped]


@dataclass(frozen=True)
class Lengths:
    """A histogram of document lengths (inline SVG), the number of documents, their characters in all, the median."""

    figure: str
    n_documents: int
    n_chars: int
    median: int


def funnel(stage: str, counts: Counts) -> Funnel | None:
    """Returns the counts of a stage that drops something; None when it dropped nothing."""
    if not counts.dropped:
        return None
    rows = sorted(counts.dropped.items(), key=lambda item: (-item[1], item[0]))
    if len(rows) > MAX_REASONS:
        rest = rows[MAX_REASONS - 1 :]
        rows = [*rows[: MAX_REASONS - 1], (f"{len(rest)} other reasons", sum(n for _, n in rest))]
    bars = [Bar(reason, n, n / counts.n_in) for reason, n in rows]
    kept = Bar("kept", counts.n_out, counts.n_out / max(counts.n_in, 1))
    return Funnel(stage, counts.unit, counts.n_in, kept, bars)


def dropped(artifact: Path, counts: Counts, n_samples: int) -> list[DroppedSample]:
    """Returns up to `n_samples` for each reason of what a stage skipped or dropped, the most frequent reason first."""
    refused = _recorded(artifact / "refused.parquet", ["url"])
    skipped = _recorded(artifact / "skipped.parquet", ["file", "place"])
    found = sampled(itertools.chain(refused, skipped, read_dropped(artifact)), n_samples)
    ranked = sorted(found, key=lambda reason: (-counts.dropped.get(reason, 0), reason))
    return [DroppedSample(reason, counts.dropped.get(reason, 0), found[reason]) for reason in ranked[:MAX_REASONS]]


def _recorded(path: Path, columns: Sequence[str]) -> Iterator[Dropped]:
    """Yields what a crawl or an ingest could not use, named by some columns; a reason is a class and, after a colon,
    the detail."""
    for row in read_table(path).to_pylist() if path.exists() else []:
        reason, _, detail = row["reason"].partition(": ")
        yield Dropped("", " ".join(str(row[column]) for column in columns), reason, detail)


def document_lengths(artifact: Path) -> Lengths | None:
    """Returns how long the documents are."""
    columns = [
        read_table(path, columns=["n_chars"])["n_chars"] for path in sorted(artifact.glob("documents-*.parquet"))
    ]
    lengths = sorted(length for column in columns for length in column.to_pylist())
    if not lengths:
        return None
    return Lengths(length_figure("lengths", lengths), len(lengths), sum(lengths), lengths[len(lengths) // 2])


def tokenizer_report(artifact: Path) -> dict[str, Any] | None:
    """Returns the tokenizer's report.json."""
    path = artifact / "report.json"
    return read_json(path) if path.exists() else None


def first_held_out_text(artifact: Path) -> str | None:
    """Returns the text of the first held-out document."""
    for path in sorted(artifact.glob("documents-*.parquet")):
        for row in read_table(path, columns=["text", "held_out"]).to_pylist():
            if row["held_out"]:
                return row["text"]
    return None
