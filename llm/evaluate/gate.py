"""Whether a model may take the place of another: both measured on the same items, compared item by item.

Everything here is a function of two tables of items (rows of items.parquet, those of one model).
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..config import Config, setting
from .statistics import Estimate, paired_difference

LOWER_IS_BETTER = frozenset({"bits per byte", "answer loss"})
"""All other metrics are better when they are higher."""
GONE, NOT_NUMBERS = "measured only before", "some of the values are not numbers"
"""Problems that say something of the second model, not of the comparison."""
DEFAULT_METRICS = ("answer loss", "bits per byte")
"""What decides when the gate names no metric: the first of these that was measured of both models."""


@dataclass(frozen=True, kw_only=True)
class GateConfig(Config):
    """When a candidate takes the champion's place."""

    metric: str | None = None
    """What must be better, as `answer loss` or `four-choice definitions: accuracy`; empty takes the answer loss, for a
    base model bits per byte."""
    margin: float = setting(0.0, at_least=0)
    """By how much it must be better at least, with the whole 95 % interval, in the metric's unit."""
    may_not_fall: tuple[str, ...] | None = None
    """What must not be worse beyond its interval; empty takes every other metric that was measured."""
    min_items: int = setting(20, at_least=1)
    """A metric of fewer items does not decide: the interval of so few says little."""


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

    def in_words(self) -> str:
        """What was found, for a person."""
        if self.gain is None:
            return f"{self.name} cannot be compared: {self.problem}"
        gain, verdict = self.gain, "the same within noise"
        if gain.low > 0 or gain.high < 0:
            verdict = "better" if gain.low > 0 else "worse"
        interval = f"gain {gain.score:.4f}, 95 % interval {gain.low:.4f} to {gain.high:.4f}, {gain.n:,} items"
        return f"{self.name} is {verdict}: before {self.before:.4f}, now {self.now:.4f} ({interval})"


@dataclass(frozen=True)
class Decision:
    """Whether the candidate becomes the champion, and why."""

    promote: bool
    reasons: list[str]
    """The first one decides; the others say what was found of each metric."""
    compared: list[Compared]


Items = dict[str, tuple[float, float]]
"""By the id of an item, what it adds to a score, and how much it weighs in it."""


@dataclass(frozen=True)
class _Measured:
    versions: set[int]
    items: Items


def decide(candidate: pa.Table, champion: pa.Table, gate: GateConfig) -> Decision:
    """The candidate is promoted if it is better beyond its interval on the gate's metric, and worse beyond it on none
    of those that may not fall; what cannot be compared is refused, with the reason."""
    compared = compare_items(champion, candidate)
    found = [each.in_words() for each in compared]
    try:
        deciding, guarded = _chosen(compared, gate)
    except ValueError as error:
        return Decision(False, [str(error), *found], compared)
    refusals = [each.in_words() for each in (deciding, *guarded) if each.problem]
    n_items = deciding.gain.n if deciding.gain else 0
    if not refusals and n_items < gate.min_items:
        refusals = [f"{deciding.name} rests on {n_items} items; gate.min_items asks for {gate.min_items}"]
    if not refusals and deciding.gain and not deciding.gain.low > gate.margin:
        margin = f", beyond the margin of {gate.margin:g}" if gate.margin else ""
        refusals = [f"not better beyond its 95 % interval{margin}: {deciding.in_words()}"]
    refusals += [each.in_words() for each in guarded if each.fell]
    return Decision(not refusals, list(dict.fromkeys([*(refusals or [deciding.in_words()]), *found])), compared)


def compare_items(before: pa.Table, now: pa.Table, *, shared_only: bool = False) -> list[Compared]:
    """Every metric of either table, compared over the items that both have.

    Items that only one of them has are a problem, unless `shared_only` leaves them out. So are another version of a
    metric, items that are not counted alike, and values that are not numbers.
    """
    first, second = _by_metric(before), _by_metric(now)
    return [_compared(key, first.get(key), second.get(key), shared_only) for key in dict.fromkeys([*first, *second])]


def _by_metric(table: pa.Table) -> dict[tuple[str, str], _Measured]:
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
    pair = (first[:, 0], second[:, 0]) if key[1] in LOWER_IS_BETTER else (second[:, 0], first[:, 0])
    before_score, now_score = (float(each[:, 0].sum() / each[:, 1].sum()) for each in (first, second))
    return Compared(*key, before_score, now_score, paired_difference(*pair, first[:, 1]))


def _chosen(compared: Sequence[Compared], gate: GateConfig) -> tuple[Compared, list[Compared]]:
    """The metric that decides and those that may not fall; raises ValueError for a name that was not measured."""
    if gate.metric:
        deciding = _named(compared, gate.metric, "gate.metric")
    else:
        known = [each for metric in DEFAULT_METRICS for each in compared if each.metric == metric]
        if not known:
            raise ValueError(f"none of {', '.join(DEFAULT_METRICS)} was measured; name another gate.metric")
        deciding = known[0]
    if gate.may_not_fall is None:
        return deciding, [each for each in compared if each != deciding]
    return deciding, [_named(compared, name, "gate.may_not_fall") for name in gate.may_not_fall]


def _named(compared: Sequence[Compared], name: str, field: str) -> Compared:
    found = [each for each in compared if name in (each.metric, each.name)]
    if len(found) == 1:
        return found[0]
    problem = f"could be any of {len(found)} metrics" if found else "was not measured"
    names = "; ".join(each.name for each in found or compared)
    raise ValueError(f"{field} {name!r} {problem}: {names}")


def items_of(table: pa.Table, model: str) -> pa.Table:
    """The rows of items.parquet that are about one model."""
    return table.filter(pc.field("model") == model)


def only_items(table: pa.Table, benchmark: str, ids: Set[str]) -> pa.Table:
    """The rows without those of a benchmark whose item is not among `ids`."""
    known = pa.array(sorted(ids), pa.string())
    return table.filter((pc.field("benchmark") != benchmark) | pc.field("id").isin(known))
