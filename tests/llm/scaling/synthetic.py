"""Sweeps made by a known law instead of training: Hoffmann et al. 2022, equation 10."""

from __future__ import annotations

import numpy as np

from llm.scaling.config import ScalingConfig, SweepShape
from llm.scaling.parametric import Parametric
from llm.scaling.points import Points

TRUE = Parametric(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
CONFIG = ScalingConfig(budgets=(1e18,), shapes=(SweepShape(d_model=64, n_layers=1),), n_bootstrap=20)


def sweep(
    *, noise: float = 0.0, seed: int = 0, n_budgets: int = 5, n_sizes: int = 6, width: float = 1.2, center: float = 1.0
) -> Points:
    """Budgets from 1e18 in half powers of ten, each with sizes around `center` times the best, up to e^width apart.

    `noise` is the standard deviation of log loss.
    """
    budgets = np.repeat(10.0 ** (18 + 0.5 * np.arange(n_budgets)), n_sizes)
    offsets = np.tile(np.linspace(-width, width, n_sizes), n_budgets)
    n_params = center * TRUE.n_opt(budgets) * np.exp(offsets)
    n_tokens = budgets / 6 / n_params
    scatter = np.exp(noise * np.random.default_rng(seed).normal(size=len(budgets)))
    return Points(budgets, budgets, n_params, n_tokens, TRUE.loss(n_params, n_tokens) * scatter)
