"""The plot of a sweep: parabolas, what is best at each budget, and the residuals of the parametric law."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import atomic_path
from .isoflop import IsoFlop
from .parametric import Parametric
from .points import Floats, Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_INCHES, DOTS_PER_INCH = (15.0, 4.8), 120
ORANGE, GREY = "#d9762b", "#6b7075"
STAR: dict[str, Any] = {"color": ORANGE, "markeredgecolor": "white"}
SETTINGS: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def draw(path: Path, points: Points, isoflop: IsoFlop, parametric: Parametric | None) -> None:
    """Writes a PNG; the same points and versions of matplotlib give the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    with matplotlib.rc_context({**defaults, **SETTINGS}):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        draw_parabolas(left, points, isoflop)
        draw_best(middle, points, isoflop, parametric)
        draw_residuals(right, points, parametric)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})


def colours(points: Points) -> dict[float, Any]:
    """Returns a colour for each budget, from dark (small) to light."""
    import matplotlib

    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(points.budgets)))
    return dict(zip(points.budgets, shades, strict=True))


def draw_parabolas(axes: Axes, points: Points, isoflop: IsoFlop) -> None:
    """Draws the loss over parameters, a parabola for each budget, a star at its lowest point."""
    colour = colours(points)
    for parabola in isoflop.parabolas:
        rows = points.budget == parabola.budget
        sizes = points.n_params[rows]
        label = f"{parabola.budget:.2g} FLOPs"
        axes.plot(sizes, points.loss[rows], "o", color=colour[parabola.budget], markersize=4.5, label=label)
        if parabola.coefficients:
            grid = np.geomspace(sizes.min(), sizes.max(), 100)
            loss = np.polyval(parabola.coefficients, np.log(grid))
            axes.plot(grid, loss, color=colour[parabola.budget], linewidth=1.4)
        if parabola.best:
            axes.plot([parabola.best.n_params], [parabola.best.loss], "*", **STAR, markersize=11, zorder=5)
    axes.set(xscale="log", xlabel="parameters in matrix products", ylabel="held-out loss, nats per token")
    format_sizes(axes)
    axes.set_title("Loss at equal compute")
    axes.legend()


def format_sizes(axes: Axes) -> None:
    """Writes sizes as 50k, 200k, 1M: powers of ten are too few for sizes that span one or two of them."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_best(axes: Axes, points: Points, isoflop: IsoFlop, parametric: Parametric | None) -> None:
    """Draws the best number of parameters and of tokens over compute, by both fits."""
    budgets = np.geomspace(points.budgets[0] / 2, points.budgets[-1] * 2, 50)
    for parabola in isoflop.parabolas:
        if parabola.best:
            axes.plot([parabola.budget], [parabola.best.n_params], "*", **STAR, markersize=11)
            axes.plot([parabola.budget], [parabola.best.n_tokens], "o", color=GREY, markersize=5)
    if isoflop.n_law and isoflop.d_law:
        n_law, d_law = isoflop.n_law, isoflop.d_law
        axes.plot(budgets, n_law(budgets), color=ORANGE, label=f"parameters: C^{n_law.exponent:.2f}")
        axes.plot(budgets, d_law(budgets), color=GREY, label=f"tokens: C^{d_law.exponent:.2f}")
    if parametric:
        draw_best_parametric(axes, points, parametric, budgets)
    axes.set(xscale="log", yscale="log", xlabel="training FLOPs", ylabel="best at this compute")
    axes.set_title("Best size and tokens")
    if isoflop.n_law or parametric:
        axes.legend()
    else:
        axes.text(0.5, 0.5, "neither fit is possible", transform=axes.transAxes, ha="center")


def draw_best_parametric(axes: Axes, points: Points, parametric: Parametric, budgets: Floats) -> None:
    """Draws what the parametric law holds best, as dashed lines."""
    per_product = np.exp(np.log(points.n_flops / (points.n_params * points.n_tokens)).mean())
    sizes = parametric.n_opt(budgets, per_product)
    axes.plot(budgets, sizes, "--", color=ORANGE, label=f"by the parametric law: C^{parametric.n_exponent:.2f}")
    tokens = budgets / per_product / sizes
    axes.plot(budgets, tokens, "--", color=GREY, label=f"by the parametric law: C^{parametric.d_exponent:.2f}")


def draw_residuals(axes: Axes, points: Points, parametric: Parametric | None) -> None:
    """Draws by how much the loss at each point is above or below the parametric law, in percent."""
    axes.set(xscale="log", xlabel="tokens per parameter", ylabel="measured loss above the law, %")
    if parametric is None:
        axes.set_title("No parametric fit")
        return
    colour = colours(points)
    residual = 100 * (points.loss / parametric.loss(points.n_params, points.n_tokens) - 1)
    for budget in points.budgets:
        rows = points.budget == budget
        ratio = points.n_tokens[rows] / points.n_params[rows]
        axes.plot(ratio, residual[rows], "o-", color=colour[budget], linewidth=0.8, markersize=4.5)
    axes.axhline(0, color=GREY, linewidth=1)
    p = parametric
    axes.set_title(f"L = {p.E:.2f} + {p.A:.3g} / N^{p.alpha:.2f} + {p.B:.3g} / D^{p.beta:.2f}")
