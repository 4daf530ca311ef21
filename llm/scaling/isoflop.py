"""The IsoFLOP fit (Hoffmann et al. 2022, approach 2): at each budget a parabola, through their lowest points a line.

What cannot be fitted is not: every part has its numbers, or says in words why it has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .points import Floats, Points

MIN_SIZES = 3
"""A parabola has three coefficients."""


@dataclass(frozen=True)
class Best:
    """The lowest point of a parabola."""

    n_params: float
    n_tokens: float
    """At the lowest point of the quadratic in log D."""
    loss: float
    """Nats per token."""


@dataclass(frozen=True)
class Parabola:
    """The runs of one budget: loss as a quadratic in log N, and its lowest point."""

    budget: float
    best: Best | None = None
    coefficients: tuple[float, ...] = ()
    """Of log(N)^2, log(N) and 1; empty: no parabola could be drawn."""
    why_not: str | None = None
    """Why there is no lowest point."""


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient C^exponent, a line in log-log."""

    exponent: float
    coefficient: float

    def __call__(self, n_flops: float | Floats) -> float | Floats:
        """Returns y at a budget."""
        return self.coefficient * n_flops**self.exponent


@dataclass(frozen=True)
class IsoFlop:
    """Parabolas of all budgets, and the best size and number of tokens as powers of the budget."""

    parabolas: tuple[Parabola, ...]
    n_law: PowerLaw | None = None
    d_law: PowerLaw | None = None
    why_not: str | None = None
    """Why there are no power laws."""


def fit_isoflop(points: Points) -> IsoFlop:
    """Returns parabolas and power laws; parts that the points do not decide have a reason in the place of numbers."""
    parabolas = tuple(fit_parabola(points.where(points.budget == budget)) for budget in points.budgets)
    found = [(item.budget, item.best) for item in parabolas if item.best]
    if len(found) < 2:
        reasons = "; ".join(f"{item.budget:.3g} FLOPs: {item.why_not}" for item in parabolas if item.why_not)
        return IsoFlop(
            parabolas, why_not=f"a line needs the lowest points of 2 budgets, found {len(found)} ({reasons})"
        )
    budgets = np.array([budget for budget, _ in found])
    n_law = power_law(budgets, np.array([best.n_params for _, best in found]))
    return IsoFlop(parabolas, n_law, power_law(budgets, np.array([best.n_tokens for _, best in found])))


def fit_parabola(points: Points) -> Parabola:
    """Returns the parabola of points of one budget."""
    budget, log_n = points.budgets[0], np.log(points.n_params)
    n_sizes = len(np.unique(points.n_params))
    if n_sizes < MIN_SIZES:
        return Parabola(budget, why_not=f"{n_sizes} sizes, and a parabola needs {MIN_SIZES}: give more shapes")
    coefficients = tuple(float(value) for value in quadratic(log_n, points.loss))
    try:
        n_opt = lowest(log_n, points.loss, "sizes")
        d_opt = lowest(np.log(points.n_tokens), points.loss, "numbers of tokens")
    except ValueError as error:
        return Parabola(budget, coefficients=coefficients, why_not=str(error))
    best = Best(n_opt, d_opt, float(np.polyval(coefficients, np.log(n_opt))))
    return Parabola(budget, best, coefficients)


def lowest(log_x: Floats, loss: Floats, what: str) -> float:
    """Returns x at the minimum of the quadratic through the points; raises ValueError when it is not among them."""
    curvature, slope, _ = quadratic(log_x, loss)
    if curvature <= 0:
        raise ValueError(f"the loss has no lowest point in the {what} tried: the parabola opens downwards")
    vertex = -slope / (2 * curvature)
    if not log_x.min() <= vertex <= log_x.max():
        where = "smaller" if vertex < log_x.min() else "larger"
        raise ValueError(f"the lowest loss is outside of the {what} tried: add {where} ones")
    return float(np.exp(vertex))


def quadratic(log_x: Floats, loss: Floats) -> Floats:
    """Returns least-squares coefficients of log(x)^2, log(x), 1; fitted around the mean, which is well conditioned."""
    center = log_x.mean()
    square, slope, constant = np.polyfit(log_x - center, loss, 2)
    return np.array([square, slope - 2 * square * center, constant - slope * center + square * center**2])


def power_law(n_flops: Floats, y: Floats) -> PowerLaw:
    """Returns the line through log y over log C, by least squares."""
    center = np.log(n_flops).mean()
    exponent, height = np.polyfit(np.log(n_flops) - center, np.log(y), 1)
    return PowerLaw(float(exponent), float(np.exp(height - exponent * center)))
