"""The IsoFLOP fit: exact on parabolas, right on a known law, silent nowhere."""

from __future__ import annotations

import numpy as np
import pytest

from llm.scaling.isoflop import fit_isoflop, fit_parabola, power_law
from llm.scaling.points import Points
from tests.llm.scaling.synthetic import TRUE, sweep


def one_budget(n_params: np.ndarray, loss: np.ndarray) -> Points:
    budget = np.full(len(n_params), 6e12)
    return Points(budget, budget, n_params, budget / 6 / n_params, loss)


def test_the_vertex_of_a_parabola_is_found() -> None:
    n_params = np.array([1e5, 2e5, 3e5, 8e5])
    found = fit_parabola(one_budget(n_params, 3.0 + 0.2 * (np.log(n_params) - np.log(2.5e5)) ** 2))
    assert found.best is not None
    assert found.best.n_params == pytest.approx(2.5e5, rel=1e-9)
    assert found.best.n_tokens == pytest.approx(1e12 / 2.5e5, rel=1e-9)
    assert found.best.loss == pytest.approx(3.0, abs=1e-9)


@pytest.mark.parametrize(
    ("n_params", "loss", "reason"),
    [
        ([1e5, 2e5, 2e5], [3.0, 2.0, 2.1], "2 sizes, and a parabola needs 3"),
        ([1e5, 2e5, 4e5], [2.0, 3.0, 2.0], "opens downwards"),
        ([1e5, 2e5, 4e5], [4.0, 3.0, 2.5], "add larger ones"),
        ([1e5, 2e5, 4e5], [2.5, 3.0, 4.0], "add smaller ones"),
    ],
)
def test_without_a_lowest_point_there_is_a_reason(n_params: list[float], loss: list[float], reason: str) -> None:
    found = fit_parabola(one_budget(np.array(n_params), np.array(loss)))
    assert found.best is None
    assert reason in str(found.why_not)


def test_a_power_law_is_found() -> None:
    budgets = np.array([1e18, 3e18, 1e20])
    law = power_law(budgets, 0.6 * budgets**0.45)
    assert (law.exponent, law.coefficient) == (pytest.approx(0.45, abs=1e-12), pytest.approx(0.6, rel=1e-9))
    assert law(1e19) == pytest.approx(0.6 * 1e19**0.45)


@pytest.mark.parametrize(("noise", "tolerance"), [(0.0, 0.002), (0.001, 0.01)])
def test_the_exponents_of_a_known_law_are_recovered(noise: float, tolerance: float) -> None:
    """A constant distance between a parabola's vertex and the law's optimum leaves the exponent as it is."""
    found = fit_isoflop(sweep(noise=noise))
    assert found.n_law is not None
    assert found.d_law is not None
    assert found.n_law.exponent == pytest.approx(TRUE.n_exponent, abs=tolerance)
    assert found.d_law.exponent == pytest.approx(TRUE.d_exponent, abs=tolerance)


def test_sizes_off_the_optimum_give_no_exponent_and_say_why() -> None:
    found = fit_isoflop(sweep(center=20.0))
    assert found.n_law is None
    assert "add smaller ones" in str(found.why_not)
    assert [item.best for item in found.parabolas] == [None] * 5
