"""The gate over tables whose answer is known: better, worse, within noise, and what cannot be compared."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from llm.evaluate.gate import GateConfig, decide
from llm.evaluate.scores import ITEM_SCHEMA
from llm.statistics import paired_difference

N = 60
NOISE = np.random.default_rng(0).normal(0, 1, (4, N))
LOSS, ACCURACY = ("held-out examples", "answer loss"), ("words", "accuracy")


def rows(
    key: tuple[str, str], values: np.ndarray, *, weights: float = 2.0, version: int = 1, first: int = 0
) -> list[dict[str, object]]:
    """Items `first`, `first + 1`, ... of one metric."""
    named = {"model": "chat", "benchmark": key[0], "metric": key[1], "metric_version": version, "weight": weights}
    return [{**named, "id": str(first + i), "value": float(value)} for i, value in enumerate(values)]


def table(*parts: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist([row for part in parts for row in part], schema=ITEM_SCHEMA)


def losses(shift: float, noise: int = 1) -> np.ndarray:
    """Losses of items that differ much from each other, and little between the models."""
    return 40 + 10 * NOISE[0] + 0.5 * NOISE[noise] + shift


RIGHT = (NOISE[3] > 0).astype(float)
CHAMPION = table(rows(LOSS, losses(0)), rows(ACCURACY, RIGHT, weights=1))


def test_a_better_candidate_is_promoted_though_single_intervals_overlap() -> None:
    decision = decide(table(rows(LOSS, losses(-1, 2)), rows(ACCURACY, RIGHT, weights=1)), CHAMPION, GateConfig())
    assert decision.promote
    assert "held-out examples: answer loss is better" in decision.reasons[0]
    by_hand = paired_difference(losses(0), losses(-1, 2), np.full(N, 2.0))
    assert decision.compared[0].gain == by_hand
    assert by_hand.low > 0
    assert np.std(losses(0)) / np.sqrt(N) > 1  # unpaired, a gain of 1 would be lost in the noise


@pytest.mark.parametrize(("shift", "verdict"), [(1.0, "is worse"), (0.0, "same within noise")])
def test_worse_and_within_noise_are_refused(shift: float, verdict: str) -> None:
    decision = decide(table(rows(LOSS, losses(shift, 2)), rows(ACCURACY, RIGHT, weights=1)), CHAMPION, GateConfig())
    assert not decision.promote
    assert "not better beyond its 95 % interval" in decision.reasons[0]
    assert verdict in decision.reasons[0]


def test_the_same_model_is_not_better_than_itself() -> None:
    decision = decide(CHAMPION, CHAMPION, GateConfig())
    assert not decision.promote
    assert [each.gain.score for each in decision.compared if each.gain] == [0, 0]


def test_another_metric_that_fell_is_refused_unless_it_may() -> None:
    worse = np.where(np.arange(N) % 3 == 0, 0.0, RIGHT)
    candidate = table(rows(LOSS, losses(-1, 2)), rows(ACCURACY, worse, weights=1))
    refused = decide(candidate, CHAMPION, GateConfig())
    assert not refused.promote
    assert refused.reasons[0].startswith("words: accuracy is worse")
    assert decide(candidate, CHAMPION, GateConfig(may_not_fall=())).promote
    assert not decide(candidate, CHAMPION, GateConfig(may_not_fall=("accuracy",))).promote


def test_metric_and_margin_are_configurable() -> None:
    candidate = table(rows(LOSS, losses(-1, 2)), rows(ACCURACY, np.ones(N), weights=1))
    assert decide(candidate, CHAMPION, GateConfig(metric="words: accuracy")).reasons[0].startswith("words: accuracy")
    assert decide(candidate, CHAMPION, GateConfig(margin=0.2)).promote  # half a nat of each of two tokens
    refused = decide(candidate, CHAMPION, GateConfig(margin=0.6))
    assert not refused.promote
    assert "beyond the margin of 0.6" in refused.reasons[0]


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (rows(LOSS, losses(-9)[:-1]), "1 of 60 items were asked of one model only"),
        (rows(LOSS, losses(-9), first=N), "120 of 120 items were asked of one model only"),
        (rows(LOSS, losses(-9), version=2), "version 1 of the metric before, 2 now"),
        (rows(LOSS, losses(-9), weights=3), "not counted alike"),
        (rows(LOSS, np.append(losses(-9)[1:], np.nan)), "not numbers"),
        ([], "held-out examples: answer loss cannot be compared: measured only before"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(part: list[dict[str, object]], reason: str) -> None:
    decision = decide(table(part, rows(ACCURACY, np.ones(N), weights=1)), CHAMPION, GateConfig())
    assert not decision.promote
    assert reason in decision.reasons[0]
    assert "words: accuracy is better" in "".join(decision.reasons)


def test_few_items_and_unknown_names_decide_nothing() -> None:
    few = [table(rows(LOSS, losses(shift)[:8])) for shift in (-9, 0)]
    assert "rests on 8 items; gate.min_items asks for 20" in decide(*few, GateConfig()).reasons[0]
    assert decide(*few, GateConfig(min_items=8)).promote
    unknown = decide(*few, GateConfig(metric="charm"))
    assert not unknown.promote
    assert "gate.metric 'charm' was not measured: held-out examples: answer loss" in unknown.reasons[0]
    twice = table(rows(ACCURACY, RIGHT), rows(("more words", "accuracy"), RIGHT))
    assert "could be any of 2 metrics" in decide(twice, twice, GateConfig(metric="accuracy")).reasons[0]
    assert "none of answer loss, bits per byte was measured" in decide(twice, twice, GateConfig()).reasons[0]
    with pytest.raises(ValueError, match=r"margin"):
        GateConfig(margin=-1)
