"""The parametric fit against the law that made the points, and against Hoffmann et al.'s own way of fitting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import huber, logsumexp

from llm.scaling.parametric import HUBER_DELTA, Parametric, doubts, fit_parametric
from llm.scaling.points import Points
from tests.llm.scaling.synthetic import TRUE, sweep

NAMES = ("E", "A", "B", "alpha", "beta")


def test_without_noise_the_law_is_recovered() -> None:
    found = fit_parametric(sweep())
    for name in NAMES:
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=1e-5), name
    assert doubts(found, sweep()) == []


@pytest.mark.parametrize(("noise", "tolerance"), [(0.001, 0.015), (0.003, 0.04)])
def test_with_noise_the_exponents_are_near(noise: float, tolerance: float) -> None:
    """The tolerance is about four standard deviations over repetitions."""
    found = fit_parametric(sweep(noise=noise))
    assert found.alpha == pytest.approx(TRUE.alpha, abs=tolerance)
    assert found.beta == pytest.approx(TRUE.beta, abs=tolerance)
    assert found.n_exponent == pytest.approx(TRUE.n_exponent, abs=tolerance)


def objective(vector: np.ndarray, points: Points) -> float:
    """Hoffmann et al. 2022, equation 3 of section D.2, in their words."""
    e, a, b, alpha, beta = vector
    terms = [
        np.full(len(points), e),
        a - alpha * np.log(points.n_params),
        b - beta * np.log(points.n_tokens),
    ]
    return float(huber(HUBER_DELTA, logsumexp(terms, axis=0) - np.log(points.loss)).sum())


def test_no_start_of_the_papers_grid_ends_lower() -> None:
    points = sweep(noise=0.005)
    found = fit_parametric(points)
    ours = objective(np.array([*np.log([found.E, found.A, found.B]), found.alpha, found.beta]), points)
    starts = itertools.product((0.0, 1.0), (5.0,), (5.0, 10.0), (0.3,), (0.3, 0.75))
    theirs = min(minimize(objective, start, args=(points,), method="L-BFGS-B").fun for start in starts)
    assert ours <= theirs * (1 + 1e-6)


def test_one_wild_point_hardly_matters() -> None:
    points = sweep(noise=0.001)
    loss = points.loss.copy()
    loss[7] *= 1.2
    assert fit_parametric(points.with_loss(loss)).alpha == pytest.approx(TRUE.alpha, abs=0.03)


def test_the_best_size_is_where_the_loss_is_lowest() -> None:
    sizes = np.geomspace(1e7, 1e10, 20_001)
    lowest = sizes[TRUE.loss(sizes, 1e20 / 6.5 / sizes).argmin()]
    assert TRUE.n_opt(1e20, 6.5) == pytest.approx(lowest, rel=1e-3)
    assert TRUE.n_exponent + TRUE.d_exponent == pytest.approx(1.0)


def test_too_little_is_refused() -> None:
    points = sweep()
    few = points.where(np.arange(len(points)) < 5)
    with pytest.raises(ValueError, match="5 points, and the parametric fit needs 6"):
        fit_parametric(few)
    same = Points(points.budget, points.budget, np.full(30, 1e8), points.n_tokens, points.loss)
    with pytest.raises(ValueError, match="1 sizes"):
        fit_parametric(same)


@pytest.mark.parametrize(
    ("law", "doubt"),
    [
        (Parametric(E=2.0, A=0.0, B=410.7, alpha=0.34, beta=0.28), "the loss comes with size"),
        (Parametric(E=2.0, A=406.4, B=0.0, alpha=0.34, beta=0.28), "the loss comes with the number of tokens"),
        (Parametric(E=0.0, A=400.0, B=400.0, alpha=0.3, beta=0.3), "E is 0"),
    ],
)
def test_what_the_points_do_not_decide_is_said(law: Parametric, doubt: str) -> None:
    points = sweep()
    points = points.with_loss(law.loss(points.n_params, points.n_tokens))
    assert any(doubt in line for line in doubts(fit_parametric(points), points))
