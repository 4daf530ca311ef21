"""Whether a model may take the place of another: both measured on the same items, compared item by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..config import Config, setting
from .comparison import Compared, compare_items
from .metrics import ANSWER_LOSS, BITS_PER_BYTE
from .scores import Items

DEFAULT_METRICS = (ANSWER_LOSS.name, BITS_PER_BYTE.name)
"""What decides when the gate names no metric: the first of these that was measured of both models."""
ALL_OTHERS = "all others"


@dataclass(frozen=True, kw_only=True)
class GateConfig(Config):
    """When a candidate takes the champion's place."""

    metric: str | None = None
    """What must be better, as `answer loss` or `four-choice definitions: accuracy`; empty takes the answer loss, for a
    base model bits per byte."""
    margin: float = setting(0.0, at_least=0)
    """By how much it must be better at least, with the whole 95 % interval, in the metric's unit."""
    may_not_fall: tuple[str, ...] = (ALL_OTHERS,)
    """What must not be worse beyond its interval: metrics by name, or "all others" that were measured; empty: none."""
    min_items: int = setting(20, at_least=1)
    """A metric of fewer items does not decide: the interval of so few says little."""


@dataclass(frozen=True)
class Decision:
    """Whether the candidate becomes the champion, and why."""

    promote: bool
    reasons: list[str]
    """The first one decides; the others say what was found of each metric."""
    compared: list[Compared]


def decide(candidate: Items, champion: Items, gate: GateConfig) -> Decision:
    """Promotes the candidate if it is better beyond its interval on the gate's metric, and worse beyond it on none of
    those that may not fall; refuses what cannot be compared, with the reason."""
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


def _chosen(compared: Sequence[Compared], gate: GateConfig) -> tuple[Compared, list[Compared]]:
    """Returns the metric that decides and those that may not fall; ValueError for a name that was not measured."""
    if gate.metric:
        deciding = _named(compared, gate.metric, "gate.metric")
    else:
        known = [each for metric in DEFAULT_METRICS for each in compared if each.metric == metric]
        if not known:
            raise ValueError(f"none of {', '.join(DEFAULT_METRICS)} was measured; name another gate.metric")
        deciding = known[0]
    if ALL_OTHERS in gate.may_not_fall:
        return deciding, [each for each in compared if each != deciding]
    return deciding, [_named(compared, name, "gate.may_not_fall") for name in gate.may_not_fall]


def _named(compared: Sequence[Compared], name: str, field: str) -> Compared:
    found = [each for each in compared if name in (each.metric, each.name)]
    if len(found) == 1:
        return found[0]
    problem = f"could be any of {len(found)} metrics" if found else "was not measured"
    names = "; ".join(each.name for each in found or compared)
    raise ValueError(f"{field} {name!r} {problem}: {names}")
