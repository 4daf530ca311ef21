"""Intervals of the fits by bootstrap: which sizes and tokens to try was our choice, so only the losses are redrawn.

A repetition takes the fitted losses, adds to each point a residual drawn from those of all points, and fits again.
Residuals are divided by sqrt(1 - leverage), since a fit goes nearer to its own points than to the truth (Davison and
Hinkley 1997, section 6.3). Drawing whole points instead leaves most parabolas of five points without three sizes.
Over sweeps of 30 points made by a known law, intervals of 90 % held the truth in 80 to 93 % of the cases: a little too
narrow, as such intervals are with few points.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .isoflop import IsoFlop, fit_isoflop
from .parametric import Parametric, fit_parametric, jacobian, to_vector
from .points import Floats, Points

FREE_ENOUGH = 1e-6
"""A point with less than this left of 1 - leverage is passed through by any curve and shows no noise."""
LOWEST_LOSS = 1e-9
"""A redrawn loss is not negative."""


def redrawn_isoflop(points: Points, fit: IsoFlop, *, n: int, seed: int) -> Iterator[IsoFlop]:
    """Yields `n` repetitions of the parabolas and lines; raises ValueError when no point shows any noise."""
    points = points.where(np.isin(points.budget, [item.budget for item in fit.parabolas if item.coefficients]))
    fitted, residuals = np.empty(len(points)), np.empty(len(points))
    for parabola in fit.parabolas:
        rows = points.budget == parabola.budget
        if rows.any():
            log_n = np.log(points.n_params[rows])
            fitted[rows] = np.polyval(parabola.coefficients, log_n)
            residuals[rows] = without_leverage(points.loss[rows] - fitted[rows], np.vander(log_n - log_n.mean(), 3))
    for drawn in draws(residuals, n=n, seed=seed):
        yield fit_isoflop(points.with_loss(np.maximum(fitted + drawn, LOWEST_LOSS)))


def redrawn_parametric(points: Points, fit: Parametric, *, n: int, seed: int) -> Iterator[Parametric]:
    """Yields `n` repetitions of the parametric fit, each starting from `fit`; residuals are those of log L."""
    center = np.array([np.log(points.n_params).mean(), np.log(points.n_tokens).mean()])
    x, y = np.log(points.n_params) - center[0], np.log(points.n_tokens) - center[1]
    fitted = np.log(fit.loss(points.n_params, points.n_tokens))
    residuals = without_leverage(np.log(points.loss) - fitted, jacobian(to_vector(fit, center), x, y))
    for drawn in draws(residuals, n=n, seed=seed):
        yield fit_parametric(points.with_loss(np.exp(fitted + drawn)), start=fit)


def without_leverage(residuals: Floats, design: Floats) -> Floats:
    """Divides residuals by sqrt(1 - leverage); NaN for points that the fit passes through whatever their loss."""
    basis, _ = np.linalg.qr(design)
    left = 1 - (basis**2).sum(axis=1)
    return np.where(left > FREE_ENOUGH, residuals / np.sqrt(np.maximum(left, FREE_ENOUGH)), np.nan)


def draws(residuals: Floats, *, n: int, seed: int) -> Iterator[Floats]:
    """Yields `n` times a residual for each point, out of those that are numbers, less their mean."""
    pool = residuals[~np.isnan(residuals)]
    if len(pool) == 0:
        raise ValueError("the fit passes through every point, so nothing shows the noise: add shapes or seeds")
    pool = pool - pool.mean()
    for repetition in range(n):
        random = np.random.default_rng((seed, repetition))
        yield pool[random.integers(len(pool), size=len(residuals))]


def interval(values: list[float], confidence: float) -> tuple[float, float]:
    """Returns the middle `confidence` of the values: from one quantile to the other."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
