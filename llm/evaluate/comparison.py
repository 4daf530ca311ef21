"""Two models compared item by item: a metric's gain is over the items that both were asked, each with its partner.

Everything here is a function of two tables of items (rows of items.parquet, those of one model).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..documents import document_files
from ..files import read_table
from ..statistics import Estimate, paired_difference
from .metrics import find
from .scores import Items, read_items, read_scores

GONE, NOT_NUMBERS = "measured only before", "some of the values are not numbers"
"""Problems that say something of the second model, not of the comparison."""


@dataclass(frozen=True)
class Compared:
    """One metric of two models over the items that both have."""

    benchmark: str
    metric: str
    before: float | None = None
    now: float | None = None
    gain: Estimate | None = None
    """By how much the second is better, negative when it is worse; None when the two cannot be compared."""
    problem: str = ""
    """Why they cannot, or why they should not."""

    @property
    def name(self) -> str:
        """Benchmark and metric."""
        return f"{self.benchmark}: {self.metric}"

    @property
    def fell(self) -> bool:
        """Whether the second is worse with its whole interval."""
        return self.gain is not None and self.gain.high < 0

    @property
    def difference(self) -> Estimate | None:
        """The second's score minus the first's."""
        gain = self.gain
        if gain is None or not find(self.benchmark, self.metric).lower_is_better:
            return gain
        return Estimate(-gain.score, -gain.high, -gain.low, gain.n)

    def in_words(self) -> str:
        """Returns what was found, for a person."""
        if self.gain is None:
            return f"{self.name} cannot be compared: {self.problem}"
        gain, verdict = self.gain, "the same within noise"
        if gain.low > 0 or gain.high < 0:
            verdict = "better" if gain.low > 0 else "worse"
        interval = f"gain {gain.score:.4f}, 95 % interval {gain.low:.4f} to {gain.high:.4f}, {gain.n:,} items"
        return f"{self.name} is {verdict}: before {self.before:.4f}, now {self.now:.4f} ({interval})"


@dataclass(frozen=True)
class _Measured:
    versions: set[int]
    items: dict[str, tuple[float, float]]
    """By the id of an item, what it adds to a score, and how much it weighs in it."""


def compare_items(before: Items, now: Items, *, shared_only: bool = False) -> list[Compared]:
    """Compares every metric of either table over the items that both have.

    Items that only one of them has are a problem, unless `shared_only` leaves them out. So are another version of a
    metric, items that are not counted alike, and values that are not numbers.
    """
    first, second = _by_metric(before), _by_metric(now)
    return [_compared(key, first.get(key), second.get(key), shared_only) for key in dict.fromkeys([*first, *second])]


def _by_metric(table: Items) -> dict[tuple[str, str], _Measured]:
    measured: dict[tuple[str, str], _Measured] = {}
    columns = ("benchmark", "metric", "metric_version", "id", "value", "weight")
    for row in table.select(columns).to_pylist():
        found = measured.setdefault((row["benchmark"], row["metric"]), _Measured(set(), {}))
        found.versions.add(row["metric_version"])
        found.items[row["id"]] = (row["value"], row["weight"])
    return measured


def _compared(key: tuple[str, str], before: _Measured | None, now: _Measured | None, shared_only: bool) -> Compared:
    if before is None or now is None:
        return Compared(*key, problem=GONE if before else "measured only now")
    if before.versions != now.versions:
        versions = [", ".join(map(str, sorted(each.versions))) for each in (before, now)]
        return Compared(*key, problem=f"version {versions[0]} of the metric before, {versions[1]} now")
    both = [name for name in before.items if name in now.items]
    n_alone = len(before.items.keys() ^ now.items.keys())
    if not both or (n_alone and not shared_only):
        return Compared(*key, problem=f"{n_alone} of {n_alone + len(both)} items were asked of one model only")
    first, second = (
        np.array([each.items[name] for name in both], dtype=np.float64) for each in (before, now)
    )  # (n, 2)
    if not np.isfinite(first).all() or not np.isfinite(second).all():
        return Compared(*key, problem=NOT_NUMBERS)
    if not np.allclose(first[:, 1], second[:, 1]):
        return Compared(*key, problem="the items are not counted alike (models with different tokenizers?)")
    pair = (first[:, 0], second[:, 0]) if find(*key).lower_is_better else (second[:, 0], first[:, 0])
    before_score, now_score = (float(each[:, 0].sum() / each[:, 1].sum()) for each in (first, second))
    return Compared(*key, before_score, now_score, paired_difference(*pair, first[:, 1]))


@dataclass(frozen=True)
class ScorePair:
    """One score of two models; None where it was not measured."""

    benchmark: str
    metric: str
    chance: float | None
    first: Estimate | None
    second: Estimate | None
    difference: Estimate | None
    """Second minus first over the items that both were asked; None when they cannot be compared."""


def score_pairs(first: tuple[Path, str] | None, second: tuple[Path, str] | None) -> list[ScorePair]:
    """Returns every score of two models, each given by the folder of its evaluation and the name it has there.

    None stands for a model without an evaluation. Differences from a base model are left out: they are about another
    pair.
    """
    rows = [
        {(row["benchmark"], row["metric"]): row for row in (read_scores(*given) if given else [])}
        for given in (first, second)
    ]
    compared = compare_items(read_items(*first), read_items(*second), shared_only=True) if first and second else []
    differences = {(each.benchmark, each.metric): each.difference for each in compared}
    pairs = []
    for key in dict.fromkeys([*rows[0], *rows[1]]):
        estimates = [
            Estimate(row["score"], row["low"], row["high"], row["n"]) if (row := each.get(key)) else None
            for each in rows
        ]
        chance = (rows[0].get(key) or rows[1][key])["chance"]
        pairs.append(ScorePair(*key, chance, estimates[0], estimates[1], differences.get(key)))
    return pairs


def held_out_documents(folder: Path) -> set[str]:
    """Returns the ids of the documents that a folder of documents keeps from training."""
    tables = [read_table(path, ["id", "held_out"]) for path in document_files(folder)]
    return {id for table in tables for id in table.filter(pc.field("held_out"))["id"].to_pylist()}


def held_out_examples(folder: Path) -> set[str]:
    """Returns the ids of the examples that the split of a folder keeps from training."""
    return set(read_table(folder / "val.parquet", ["id"])["id"].to_pylist())


def keep_items(tables: Iterable[Items], benchmarks: Iterable[str], ids: set[str]) -> tuple[list[Items], list[str]]:
    """Drops the items of some benchmarks that are not among `ids` from tables of the same items.

    Returns the tables, and for each benchmark that has lost items, or all of them, how many, in words. Raises
    ValueError when no item of a metric is left.
    """
    kept, dropped = list(tables), []
    for benchmark in benchmarks:
        n_before, metrics = _n_items(kept[0], benchmark), _metrics(kept[0])
        is_kept = (pc.field("benchmark") != benchmark) | pc.field("id").isin(pa.array(sorted(ids), pa.string()))
        kept = [table.filter(is_kept) for table in kept]
        said = f"{n_before - _n_items(kept[0], benchmark)} of {n_before} {benchmark} are left out"
        if metrics - _metrics(kept[0]):
            raise ValueError(said)
        dropped += [said] if _n_items(kept[0], benchmark) < n_before else []
    return kept, dropped


def _metrics(table: Items) -> set[tuple[str, str]]:
    return set(zip(table["benchmark"].to_pylist(), table["metric"].to_pylist(), strict=True))


def _n_items(table: Items, benchmark: str) -> int:
    return len(set(table.filter(pc.field("benchmark") == benchmark)["id"].to_pylist()))
