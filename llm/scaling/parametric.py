"""The parametric fit (Hoffmann et al. 2022, approach 3): L(N, D) = E + A / N^alpha + B / D^beta.

As there, the sum of Huber's loss over the residuals of log L is made small. Their many starts are replaced by a grid
over (alpha, beta): at each of its points the best E, A, B >= 0 are those of a linear problem, so no start is missed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares, nnls

from .points import Floats, Points

HUBER_DELTA = 1e-2
"""Residuals of log L beyond it count by their size, not its square. Hoffmann et al. take 1e-3; the losses of small runs
scatter by half a percent from seed to seed, and with 1e-3 the exponents of such points scatter a quarter more."""
POWERS = np.linspace(0.05, 1.5, 30)
"""The grid over alpha and over beta."""
LOWEST_POWER, HIGHEST_POWER = 0.01, 3.0
"""An exponent that ends here is not decided by the points."""
LOWEST_E = 1e-3
"""Nats per token: an irreducible loss that ends here is not decided by the points either."""
LOWEST_TERM = 1e-6
"""Nats per token: what size, or the number of tokens, adds to the loss in the middle of the points, at least."""
SMALLEST_SHARE = 0.01
"""Of the loss: a term that is smaller at every point is not decided either."""
MIN_POINTS, MIN_DISTINCT = 6, 3


@dataclass(frozen=True)
class Parametric:
    """The five numbers of the law; loss in nats per token."""

    E: float
    """The loss of an endless model on endless data."""
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, n_params: float | Floats, n_tokens: float | Floats) -> float | Floats:
        """Returns the loss that the law expects of `n_params` trained on `n_tokens`."""
        return self.E + self.A / n_params**self.alpha + self.B / n_tokens**self.beta

    @property
    def n_exponent(self) -> float:
        """The best number of parameters grows as this power of the FLOPs."""
        return self.beta / (self.alpha + self.beta)

    @property
    def d_exponent(self) -> float:
        """The best number of tokens grows as this power of the FLOPs."""
        return self.alpha / (self.alpha + self.beta)

    def n_opt(self, n_flops: float | Floats, flops_per_product: float = 6.0) -> float | Floats:
        """Returns the best number of parameters for a budget, where C = `flops_per_product` N D (equation 4)."""
        g = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        return g * (n_flops / flops_per_product) ** self.n_exponent


def doubts(law: Parametric, points: Points) -> list[str]:
    """Returns what the points that a law was fitted to did not decide, a line each."""
    lines = [
        f"{name} is {value:.3g}, the edge of what is tried: the sweep does not decide it"
        for name, value in (("alpha", law.alpha), ("beta", law.beta))
        if not LOWEST_POWER * 1.01 < value < HIGHEST_POWER * 0.99
    ]
    if law.E < LOWEST_E * 1.01:
        lines.append("E is 0: the sweep is too narrow to tell the irreducible loss from the rest")
    terms = {"size": law.A / points.n_params**law.alpha, "the number of tokens": law.B / points.n_tokens**law.beta}
    for name, term in terms.items():
        share = float((term / points.loss).max())
        if share < SMALLEST_SHARE:
            lines.append(f"at most {share:.2%} of the loss comes with {name}: the sweep does not show what it does")
    return lines


def fit_parametric(points: Points, start: Parametric | None = None) -> Parametric:
    """Returns the law that fits best, from `start` or from the best point of a grid.

    Raises ValueError when there are too few points, sizes or numbers of tokens.
    """
    for name, n_found, n_needed in (
        ("points", len(points), MIN_POINTS),
        ("sizes", len(np.unique(points.n_params)), MIN_DISTINCT),
        ("numbers of tokens", len(np.unique(points.n_tokens)), MIN_DISTINCT),
    ):
        if n_found < n_needed:
            raise ValueError(f"{n_found} {name}, and the parametric fit needs {n_needed}: add shapes or budgets")
    # Around their means the logarithms, and so A and alpha, B and beta, are far less entangled.
    center = np.array([np.log(points.n_params).mean(), np.log(points.n_tokens).mean()])
    x, y, log_loss = np.log(points.n_params) - center[0], np.log(points.n_tokens) - center[1], np.log(points.loss)
    first = grid_start(x, y, points.loss) if start is None else to_vector(start, center)
    low = [np.log(LOWEST_E), np.log(LOWEST_TERM), np.log(LOWEST_TERM), LOWEST_POWER, LOWEST_POWER]
    high = [np.log(points.loss.min()), np.inf, np.inf, HIGHEST_POWER, HIGHEST_POWER]
    found = least_squares(
        lambda vector: log_terms(vector, x, y)[0] - log_loss,
        np.clip(first, np.array(low) + 1e-9, np.array(high) - 1e-9),
        jac=lambda vector: jacobian(vector, x, y),
        bounds=(low, high),
        loss="huber",
        f_scale=HUBER_DELTA,
        x_scale="jac",
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
        max_nfev=2000,
    )
    return from_vector(found.x, center)


def grid_start(x: Floats, y: Floats, loss: Floats) -> Floats:
    """Returns the best point of the grid over (alpha, beta), with its E, A, B, by least squares of L's error."""
    best, best_error = np.zeros(5), np.inf
    for alpha, beta in itertools.product(POWERS, POWERS):
        columns = np.stack([np.ones_like(x), np.exp(-alpha * x), np.exp(-beta * y)], axis=1) / loss[:, None]
        weights, error = nnls(columns, np.ones_like(loss))
        if error < best_error:
            best_error = error
            best = np.array([*np.log(np.maximum(weights, LOWEST_TERM)), alpha, beta])
    return best


def log_terms(vector: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Returns log L at each point, and the logarithms of its three terms, (3, points)."""
    e, a, b, alpha, beta = vector
    terms = np.stack([np.full_like(x, e), a - alpha * x, b - beta * y])
    return np.logaddexp.reduce(terms, axis=0), terms


def jacobian(vector: Floats, x: Floats, y: Floats) -> Floats:
    """Returns derivatives of log L by (log E, log A, log B, alpha, beta), (points, 5)."""
    log_loss, terms = log_terms(vector, x, y)
    shares = np.exp(terms - log_loss)
    return np.stack([*shares, -shares[1] * x, -shares[2] * y], axis=1)


def to_vector(law: Parametric, center: npt.NDArray[np.float64]) -> Floats:
    """Returns (log E, log A, log B, alpha, beta), with A and B as for sizes and tokens divided by the centers."""
    shifts = np.array([law.alpha * center[0], law.beta * center[1]])
    return np.array([np.log(law.E), np.log(law.A) - shifts[0], np.log(law.B) - shifts[1], law.alpha, law.beta])


def from_vector(vector: Floats, center: Floats) -> Parametric:
    """Returns the inverse of `to_vector`."""
    e, a, b, alpha, beta = (float(value) for value in vector)
    return Parametric(
        float(np.exp(e)), float(np.exp(a + alpha * center[0])), float(np.exp(b + beta * center[1])), alpha, beta
    )
