"""What `python -m flows scaling` shows at its end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from llm.files import read_json, read_table
from llm.scaling.fit import FIT_FILE, POINTS_FILE
from tasks.core.store import Artifact


def result_tables(artifact: Artifact) -> Iterable[Table]:
    """The points of a sweep, the lowest point of each parabola, the exponents, and the prediction's errors."""
    fit = read_json(artifact.path / FIT_FILE)
    yield points_table(artifact)
    yield parabolas_table(fit["isoflop"])
    yield laws_table(fit)


def points_table(artifact: Artifact) -> Table:
    """A row for each run."""
    names = ("budget", "model", "parameters", "tokens", "tokens per parameter", "passes", "loss", "bits per byte")
    table = Table(*names, box=None, pad_edge=False)
    for row in read_table(artifact.path / POINTS_FILE).to_pylist():
        table.add_row(
            f"{row['budget']:.3g}",
            f"{row['n_layers']} layers of {row['d_model']}",
            f"{row['n_params']:,}",
            f"{row['n_tokens']:,}",
            f"{row['n_tokens'] / row['n_params']:.1f}",
            f"{row['n_epochs']:.2f}",
            f"{row['loss']:.4f}",
            f"{row['bits_per_byte']:.4f}",
        )
    return table


def parabolas_table(isoflop: dict[str, Any]) -> Table:
    """What is best at each budget, or why that is not known."""
    table = Table("budget", "best parameters", "best tokens", "loss there", box=None, pad_edge=False)
    for item in isoflop["budgets"]:
        found = [item["why_not"]]
        if item["why_not"] is None:
            found = [f"{item['n_opt']:,.0f}", f"{item['d_opt']:,.0f}", f"{item['loss']:.4f}"]
        table.add_row(f"{item['budget']:.3g}", *found)
    return table


def laws_table(fit: dict[str, Any]) -> Table:
    """Exponents and coefficients of both fits with their intervals, and how well the largest budget was foretold."""
    isoflop, parametric, prediction = fit["isoflop"], fit["parametric"], fit["prediction"]
    table = Table("", "value", f"{fit['confidence']:.0%} interval", box=None, pad_edge=False)
    drawn = isoflop.get("intervals", {})
    if isoflop["why_not"] is None:
        for name, words in (("n", "parameters"), ("d", "tokens")):
            value = f"{isoflop[f'{name}_opt']['exponent']:.3f}"
            table.add_row(f"parabolas: best {words} grow as C to the", value, shown_interval(drawn, f"{name}_exponent"))
    if parametric["why_not"] is None:
        for name in ("E", "A", "B", "alpha", "beta", "n_exponent"):
            table.add_row(
                f"parametric: {name}", f"{parametric[name]:.4g}", shown_interval(parametric["intervals"], name)
            )
        table.add_row("parametric: mean error over the points", f"{parametric['mean_error']:.2%}")
    for part, name in ((isoflop, "parabolas"), (parametric, "parametric"), (prediction, "prediction")):
        if part["why_not"]:
            table.add_row(name, part["why_not"])
    for line in parametric.get("doubts", []):
        table.add_row("parametric: doubt", line)
    if prediction["why_not"] is None:
        add_prediction(table, prediction)
    return table


def add_prediction(table: Table, prediction: dict[str, Any]) -> None:
    """Rows about the largest budget, as foretold from the smaller ones."""
    losses, size = prediction["parametric"], prediction["isoflop"]
    name = f"{prediction['budget']:.3g} FLOPs foretold from the rest: "
    if losses["why_not"] is None:
        words = f"{losses['mean_error']:.2%} mean, {losses['largest_error']:.2%} largest"
        table.add_row(name + "error of the losses", words, f"the best loss fell by {losses['best_loss_fell_by']:.2%}")
    else:
        table.add_row(name + "losses", losses["why_not"])
    if size["why_not"] is None:
        table.add_row(name + "error of the best size", f"{size['error']:+.0%}")
    else:
        table.add_row(name + "best size", size["why_not"])


def shown_interval(drawn: dict[str, Any], name: str) -> str:
    """From low to high, or why there is no interval."""
    return f"{drawn[name][0]:.4g} to {drawn[name][1]:.4g}" if name in drawn else str(drawn.get("why_not") or "")
