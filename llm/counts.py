"""What a stage took in, kept and dropped. The counts must balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Counts:
    """Counts of one stage or partition; `n_in` equals `n_out` plus everything in `dropped`.

    `unit` names what is counted ("pages", "documents"). `figures` holds further numbers of the stage (bytes per
    token, held-out loss); when counts are added, figures are summed.
    """

    unit: str
    n_in: int
    n_out: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_dropped = sum(self.dropped.values())
        if self.n_in != self.n_out + n_dropped:
            raise AssertionError(f"{self.n_in} {self.unit} in, but {self.n_out} out and {n_dropped} dropped")

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, drop reasons and figures in alphabetical order."""
        return {
            "unit": self.unit,
            "n_in": self.n_in,
            "n_out": self.n_out,
            "dropped": dict(sorted(self.dropped.items())),
            "figures": dict(sorted(self.figures.items())),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Counts:
        """Returns the counts that `to_dict` gave as plain values."""
        return Counts(**values)

    @staticmethod
    def total(parts: Iterable[Counts]) -> Counts:
        """Returns the sum over partitions, which must share one unit; raises ValueError when there are none."""
        parts = list(parts)
        if not parts:
            raise ValueError("no partitions: the input of this stage is empty")
        units = {part.unit for part in parts}
        if len(units) != 1:
            raise AssertionError(f"counts of different units cannot be added: {sorted(units)}")
        dropped: Counter[str] = Counter()
        figures: dict[str, float] = {}
        for part in parts:
            dropped.update(part.dropped)
            for name, value in part.figures.items():
                figures[name] = figures.get(name, 0) + value
        n_in, n_out = sum(part.n_in for part in parts), sum(part.n_out for part in parts)
        return Counts(units.pop(), n_in, n_out, dict(dropped), figures)
