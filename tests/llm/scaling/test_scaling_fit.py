"""Intervals that hold the truth as often as they say, the prediction of the largest budget, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llm.scaling.figure import draw
from llm.scaling.fit import fit_values, prediction_values, tried_parametric
from llm.scaling.intervals import interval, redrawn_isoflop, redrawn_parametric
from llm.scaling.isoflop import fit_isoflop
from llm.scaling.parametric import Parametric, fit_parametric
from llm.scaling.points import Points
from tests.llm.scaling.synthetic import CONFIG, TRUE, sweep

NOISE = 0.003


def values_of(points: Points) -> dict[str, Any]:
    return fit_values(points, fit_isoflop(points), tried_parametric(points), CONFIG)


def covers(values: list[float], truth: float) -> bool:
    low, high = interval(values, 0.9)
    return low <= truth <= high


def test_isoflop_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Of 25 intervals of 90 %, 22 or 23 should; fewer than 18 are less likely than 1 in 100."""
    n_hit = 0
    for seed in range(25):
        points = sweep(noise=NOISE, seed=seed)
        drawn = redrawn_isoflop(points, fit_isoflop(points), n=30, seed=seed)
        n_hit += covers([fit.n_law.exponent for fit in drawn if fit.n_law], TRUE.n_exponent)
    assert 18 <= n_hit < 25


def test_parametric_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Of 3 times 12 intervals of 90 %, about 32 should; they depend on one another, so the limit is wide."""
    hits = []
    for seed in range(12):
        points = sweep(noise=NOISE, seed=100 + seed)
        drawn = list(redrawn_parametric(points, fit_parametric(points), n=25, seed=seed))
        hits += [covers([getattr(fit, name) for fit in drawn], getattr(TRUE, name)) for name in ("alpha", "beta", "E")]
    assert 24 <= sum(hits) < 36


def test_more_noise_makes_wider_intervals() -> None:
    widths = []
    for noise in (0.001, 0.004):
        low, high = values_of(sweep(noise=noise))["parametric"]["intervals"]["alpha"]
        widths.append(high - low)
    assert 2 * widths[0] < widths[1] < 8 * widths[0]


def test_the_same_points_give_the_same_values_and_another_seed_other_intervals() -> None:
    points = sweep(noise=NOISE)
    first = values_of(points)
    assert values_of(points) == first
    other = fit_values(points, fit_isoflop(points), tried_parametric(points), replace(CONFIG, seed=1))
    assert other["parametric"]["alpha"] == first["parametric"]["alpha"]
    assert other["parametric"]["intervals"] != first["parametric"]["intervals"]


def test_the_largest_budget_is_predicted_without_having_been_seen() -> None:
    points = sweep(noise=0.001)
    found = prediction_values(points)
    assert found["budget"] == pytest.approx(1e20)
    assert found["parametric"]["mean_error"] < 0.005
    assert found["parametric"]["best_loss_fell_by"] > 0.05
    assert abs(found["isoflop"]["error"]) < 0.1
    worse = np.where(points.budget == 1e20, points.loss * 1.1, points.loss)
    assert prediction_values(points.with_loss(worse))["parametric"]["mean_error"] == pytest.approx(0.0909, abs=0.005)


def test_a_sweep_too_small_for_anything_says_so() -> None:
    points = sweep(n_budgets=2, n_sizes=2)
    values = values_of(points)
    assert "4 points" in values["parametric"]["why_not"]
    assert "2 sizes, and a parabola needs 3" in values["isoflop"]["why_not"]
    assert "leaving out the largest needs 3" in values["prediction"]["why_not"]
    assert "n_opt" not in values["isoflop"]


def test_three_sizes_at_each_budget_leave_no_noise_to_draw_intervals_from() -> None:
    values = values_of(sweep(n_sizes=3, noise=NOISE))
    assert values["isoflop"]["why_not"] is None
    assert "passes through every point" in values["isoflop"]["intervals"]["why_not"]
    assert values["parametric"]["intervals"]["why_not"] is None


@pytest.mark.parametrize("law", [replace(TRUE, A=0.0), replace(TRUE, B=0.0), replace(TRUE, A=0.0, B=0.0)])
def test_a_loss_that_does_not_fall_is_fitted_with_doubts(law: Parametric) -> None:
    points = sweep(noise=NOISE)
    values = values_of(
        points.with_loss(
            points.loss / TRUE.loss(points.n_params, points.n_tokens) * law.loss(points.n_params, points.n_tokens)
        )
    )
    assert values["parametric"]["doubts"] != []
    assert all(np.isfinite(values["parametric"][name]) for name in ("E", "A", "B", "alpha", "beta"))


def test_points_that_are_no_points_are_refused() -> None:
    good = sweep()
    with pytest.raises(ValueError, match="loss must be finite and larger than 0"):
        good.with_loss(np.full(len(good), np.nan))
    with pytest.raises(ValueError, match="loss has 2 values for 30 points"):
        good.with_loss(np.ones(2))


def test_without_fits_there_is_still_a_plot(tmp_path: Any) -> None:
    points = sweep(n_budgets=2, n_sizes=2)
    draw(tmp_path / "scaling.png", points, fit_isoflop(points), None)
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
