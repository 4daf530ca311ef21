"""Both fits of a sweep, their intervals, and how well the smaller budgets predict the largest."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..counts import Counts
from ..files import read_json, read_table, write_json, write_table
from .config import ScalingConfig
from .figure import draw
from .intervals import interval, redrawn_isoflop, redrawn_parametric
from .isoflop import IsoFlop, Parabola, PowerLaw, fit_isoflop
from .parametric import Parametric, doubts, fit_parametric
from .points import Points, points_of, points_table

POINTS_FILE, FIT_FILE, FIGURE_FILE = "points.parquet", "fit.json", "scaling.png"
CONVENTIONS = {
    "n_params": "weights used in matrix products, the head among them; embeddings that are only looked up are not",
    "n_flops": "6 N + 12 L H D T a token, forward and backward",
    "loss": "nats per token on held-out sequences",
}
MAX_FAILED = 0.5
"""Without an interval when more repetitions than this share could not be fitted."""

Values = dict[str, Any]
Readers = dict[str, Callable[[Any], float]]
"""By name: how a number is read from a fit."""


def fit_runs(runs: Sequence[tuple[Path, Counts]], out_dir: Path, config: ScalingConfig) -> Counts:
    """Writes points, fits and plot of finished runs, each given as its model directory and counts, into `out_dir`."""
    table = points_table(runs, config.budgets)
    write_table(out_dir / POINTS_FILE, table)
    points = points_of(table)
    isoflop, parametric = fit_isoflop(points), tried_parametric(points)
    values = fit_values(points, isoflop, parametric, config) | {"vocab_size": table["vocab_size"][0].as_py()}
    write_json(out_dir / FIT_FILE, values)
    draw(out_dir / FIGURE_FILE, points, isoflop, parametric if isinstance(parametric, Parametric) else None)
    return Counts("runs", len(points), len(points), {}, figures(values))


def read_fit(artifact_dir: Path) -> Values:
    """Returns what `fit_runs` wrote of the fits."""
    values: Values = read_json(artifact_dir / FIT_FILE)
    return values


def read_points(artifact_dir: Path) -> list[Values]:
    """Returns the points that `fit_runs` wrote, one for each run."""
    return read_table(artifact_dir / POINTS_FILE).to_pylist()


def fit_values(points: Points, isoflop: IsoFlop, parametric: Parametric | str, config: ScalingConfig) -> Values:
    """Returns all of `fit.json`: what could not be fitted has a `why_not` in words and no numbers."""
    return {
        "conventions": CONVENTIONS,
        "n_points": len(points),
        "budgets": points.budgets,
        "flops_per_product": flops_per_product(points),
        "confidence": config.confidence,
        "isoflop": isoflop_values(points, isoflop, config),
        "parametric": parametric_values(points, parametric, config),
        "prediction": prediction_values(points),
    }


def tried_parametric(points: Points) -> Parametric | str:
    """Returns the parametric fit, or why there is none."""
    try:
        return fit_parametric(points)
    except ValueError as error:
        return str(error)


def flops_per_product(points: Points) -> float:
    """Returns C / (N D), the geometric mean over the points: 6 and what attention adds."""
    return float(np.exp(np.log(points.n_flops / (points.n_params * points.n_tokens)).mean()))


def isoflop_values(points: Points, fit: IsoFlop, config: ScalingConfig) -> Values:
    """Returns lowest points, exponents and their intervals."""
    values: Values = {"budgets": [parabola_values(item) for item in fit.parabolas], "why_not": fit.why_not}
    if fit.n_law is None or fit.d_law is None:
        return values
    values |= {"n_opt": law_values(fit.n_law), "d_opt": law_values(fit.d_law)}
    read: Readers = {name: operator.attrgetter(f"{name[0]}_law.exponent") for name in ("n_exponent", "d_exponent")}
    try:
        drawn = list(redrawn_isoflop(points, fit, n=config.n_bootstrap, seed=config.seed))
        usable = [item for item in drawn if item.why_not is None]
        return values | {"intervals": intervals(usable, len(drawn), read, config.confidence)}
    except ValueError as error:
        return values | {"intervals": {"why_not": str(error)}}


def parabola_values(parabola: Parabola) -> Values:
    """Returns a budget's lowest point, or why there is none."""
    best = parabola.best
    found = {"n_opt": best.n_params, "d_opt": best.n_tokens, "loss": best.loss} if best else {}
    return {"budget": parabola.budget, **found, "why_not": parabola.why_not}


def law_values(law: PowerLaw) -> Values:
    """Returns y = coefficient C^exponent."""
    return {"exponent": law.exponent, "coefficient": law.coefficient}


def parametric_values(points: Points, fit: Parametric | str, config: ScalingConfig) -> Values:
    """Returns the five numbers, the exponents that follow, the error over the points, intervals."""
    if isinstance(fit, str):
        return {"why_not": fit}
    names = ("E", "A", "B", "alpha", "beta", "n_exponent", "d_exponent")
    error = np.log(points.loss / fit.loss(points.n_params, points.n_tokens))
    values = {name: getattr(fit, name) for name in names}
    values |= {"mean_error": float(np.abs(error).mean()), "doubts": doubts(fit, points), "why_not": None}
    try:
        drawn = list(redrawn_parametric(points, fit, n=config.n_bootstrap, seed=config.seed))
    except ValueError as failure:
        return values | {"intervals": {"why_not": str(failure)}}
    read: Readers = {name: operator.attrgetter(name) for name in names}
    return values | {"intervals": intervals(drawn, len(drawn), read, config.confidence)}


def intervals(usable: Sequence[Any], n_drawn: int, read: Readers, confidence: float) -> Values:
    """Returns an interval for each name, over the repetitions that could be fitted."""
    if len(usable) < (1 - MAX_FAILED) * n_drawn:
        return {"why_not": f"only {len(usable)} of {n_drawn} repetitions could be fitted: the points scatter too much"}
    values: Values = {name: interval([get(item) for item in usable], confidence) for name, get in read.items()}
    return values | {"n_repetitions": len(usable), "n_failed": n_drawn - len(usable), "why_not": None}


def prediction_values(points: Points) -> Values:
    """Returns what fits to all budgets but the largest say about it, against what was found there."""
    budgets = points.budgets
    if len(budgets) < 3:
        return {"why_not": f"{len(budgets)} budgets, and leaving out the largest needs 3"}
    largest = budgets[-1]
    seen, hidden = points.where(points.budget < largest), points.where(points.budget == largest)
    return {
        "budget": largest,
        "times_the_budget_before": largest / budgets[-2],
        "n_points": len(hidden),
        "parametric": predicted_losses(seen, hidden),
        "isoflop": predicted_size(fit_isoflop(seen), fit_isoflop(hidden).parabolas[0]),
        "why_not": None,
    }


def predicted_losses(seen: Points, hidden: Points) -> Values:
    """Returns relative errors of the losses at the hidden points, and how far the best loss fell, to compare with."""
    fit = tried_parametric(seen)
    if isinstance(fit, str):
        return {"why_not": fit}
    error = np.abs(fit.loss(hidden.n_params, hidden.n_tokens) / hidden.loss - 1)
    before = seen.where(seen.budget == seen.budgets[-1]).loss.min()
    return {
        "mean_error": float(error.mean()),
        "largest_error": float(error.max()),
        "best_loss_error": float(error[hidden.loss.argmin()]),
        "best_loss_fell_by": float(1 - hidden.loss.min() / before),
        "doubts": doubts(fit, seen),
        "why_not": None,
    }


def predicted_size(seen: IsoFlop, found: Parabola) -> Values:
    """Returns the best size that the line foretells, and that of the hidden parabola."""
    if seen.n_law is None:
        return {"why_not": seen.why_not}
    if found.best is None:
        return {"why_not": f"the hidden budget has no lowest point: {found.why_not}"}
    predicted, measured = float(seen.n_law(found.budget)), found.best.n_params
    return {"n_opt": predicted, "n_opt_found": measured, "error": predicted / measured - 1, "why_not": None}


def figures(values: Values) -> dict[str, float]:
    """Returns the numbers worth a place in counts, tables and MLflow."""
    found = {
        "parametric_alpha": values["parametric"].get("alpha"),
        "parametric_beta": values["parametric"].get("beta"),
        "parametric_n_exponent": values["parametric"].get("n_exponent"),
        "isoflop_n_exponent": values["isoflop"].get("n_opt", {}).get("exponent"),
        "isoflop_d_exponent": values["isoflop"].get("d_opt", {}).get("exponent"),
        "prediction_mean_error": values["prediction"].get("parametric", {}).get("mean_error"),
    }
    return {name: value for name, value in found.items() if value is not None}
