"""The canary check of the data stages: canaries that must be found, and a limit on what one reason may remove.

A stage puts a handful of cases beside its input (copies of documents with a few words changed, say), runs them
through the very functions that the corpus goes through, and counts how many it finds and how many it should not have.
Canaries never reach the output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...config import Config, setting
from ...counts import Counts
from .drops import Dropped

MIN_DOCUMENTS = 50
"""With fewer documents the share of a reason says nothing."""


@dataclass(frozen=True, kw_only=True)
class CanaryCheck(Config):
    """When a data stage stops the run instead of passing on a corpus that is likely spoilt."""

    min_recall: float = setting(0.95, at_least=0, at_most=1)
    """Stop if less than this share of the canaries of a kind is found, or more than the rest is found wrongly."""

    max_reason_share: float = setting(0.5, at_least=0, at_most=1)
    """Stop if one reason drops more than this share of the documents, from 0 to 1."""


@dataclass(frozen=True)
class CanaryResult:
    """What became of the canaries of one kind ("near duplicate").

    Of `n_canaries` cases `n_found` were treated as they should be; of `n_controls` look-alikes that must be left alone
    `n_wrong` were not. `failures` shows some of what went wrong, a line each.
    """

    kind: str
    n_canaries: int
    n_found: int
    n_controls: int = 0
    n_wrong: int = 0
    failures: tuple[str, ...] = ()

    @property
    def recall(self) -> float:
        """Share of the canaries that were found; 1 when there were none."""
        return self.n_found / self.n_canaries if self.n_canaries else 1.0

    @property
    def precision(self) -> float:
        """Share of what was found that should be; 1 when nothing was found."""
        n_found = self.n_found + self.n_wrong
        return self.n_found / n_found if n_found else 1.0

    @property
    def figures(self) -> dict[str, float]:
        """Recall, precision and number of the canaries, for the counts of the stage."""
        name = f"planted {self.kind}"
        return {f"{name}: n": self.n_canaries, f"{name}: recall": self.recall, f"{name}: precision": self.precision}


def require_found(checks: Sequence[CanaryResult], limits: CanaryCheck) -> None:
    """Raises ValueError with examples when canaries were missed or look-alikes taken for them."""
    for check in checks:
        for what, share in (("recall", check.recall), ("precision", check.precision)):
            if share < limits.min_recall:
                raise ValueError(
                    f"canary check: {what} of the canaries of {check.kind!r} is {share:.2f}, but "
                    f"canary_check.min_recall asks for {limits.min_recall:.2f} ({check.n_found} of {check.n_canaries} "
                    f"found, {check.n_wrong} of {check.n_controls} look-alikes taken for one). Change the settings "
                    f"that let them through, or lower the limit.{_lines(check.failures)}"
                )


def require_shares(counts: Counts, samples: Mapping[str, Sequence[Dropped]], limits: CanaryCheck) -> None:
    """Raises ValueError with examples from `samples` when one reason dropped more of the corpus than is allowed."""
    if counts.n_in < MIN_DOCUMENTS:
        return
    for reason, n_dropped in counts.dropped.items():
        share = n_dropped / counts.n_in
        if share > limits.max_reason_share:
            examples = [f"{item.url}: {item.detail or item.excerpt[:80]}" for item in samples.get(reason, ())]
            raise ValueError(
                f"{reason!r} dropped {n_dropped:,} of {counts.n_in:,} {counts.unit} ({share:.0%}), but "
                f"canary_check.max_reason_share allows {limits.max_reason_share:.0%}. If that is right for this "
                f"corpus, raise the limit; else change what drops them.{_lines(examples)}"
            )


def _lines(examples: Sequence[str]) -> str:
    return "".join(f"\n  {line}" for line in examples[:5])
