"""Charts as inline SVG whose bytes depend on the data alone, and whose colours follow the page (light or dark)."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#0b0c0d"
"""Drawn in this colour, a line takes the page's text colour."""
BLUE, ORANGE = "#3b7dd8", "#d9762b"  # readable on white and on near-black

MAX_POINTS = 400
"""A longer curve is averaged in bins: more points than pixels say nothing."""

_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Curve:
    """Points of a line: both as long, `steps` ascending."""

    steps: Sequence[float]
    values: Sequence[float]


def training_figure(name: str, label: str, train: Curve, held_out: Curve) -> str:
    """Draws what `label` says over steps: in training as a line, held-out as joined points; either may be empty.

    `name` must be another for each figure of a page: it keeps their element ids apart.
    """
    from matplotlib.ticker import MaxNLocator

    with _context(name):
        figure, axes = _axes(7.2, 3.2)
        if train.steps:
            axes.plot(*binned(train), color=BLUE, label="training")
        if held_out.steps:
            axes.plot(held_out.steps, held_out.values, color=ORANGE, marker="o", markersize=4, label="held-out")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.legend()
        return _svg(figure, f"{label}, over steps")


def length_figure(name: str, n_chars: npt.ArrayLike) -> str:
    """Draws how many documents have which length, in characters, on a logarithmic axis."""
    from matplotlib.ticker import MaxNLocator

    lengths = np.maximum(np.asarray(n_chars), 1)
    with _context(name):
        figure, axes = _axes(7.2, 2.8)
        edges = np.geomspace(lengths.min(), max(lengths.max(), lengths.min() + 1), 41)
        axes.hist(lengths, bins=edges.tolist(), color=BLUE)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel("length of a document, characters")
        axes.set_ylabel("documents")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        return _svg(figure, "Lengths of documents")


def calibration_figure(name: str, bins: Sequence[Mapping[str, float]]) -> str:
    """Draws how often predictions of a like confidence are right: a point with its 95 % interval for each bin.

    A bin has `confidence` (mean), `accuracy`, `low` and `high`. On the grey diagonal confidence is what it should be.
    """
    confidence, accuracy = ([each[key] for each in bins] for key in ("confidence", "accuracy"))
    errors = [
        [each["accuracy"] - each["low"] for each in bins],
        [each["high"] - each["accuracy"] for each in bins],
    ]
    with _context(name):
        figure, axes = _axes(7.2, 3.6)
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.3)
        axes.errorbar(confidence, accuracy, yerr=errors, color=BLUE, marker="o", markersize=4, capsize=2)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("confidence")
        axes.set_ylabel("share that is right")
        return _svg(figure, "Share of right predictions by their confidence")


def binned(curve: Curve) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns at most `MAX_POINTS` points: the means of equal runs of neighbours."""
    steps, values = np.asarray(curve.steps, dtype=np.float64), np.asarray(curve.values, dtype=np.float64)
    n_bins = min(MAX_POINTS, len(steps))
    if n_bins == len(steps):
        return steps, values
    bins = np.array_split(np.arange(len(steps)), n_bins)
    return np.array([steps[part].mean() for part in bins]), np.array([values[part].mean() for part in bins])


def _context(name: str) -> Any:
    """Applies Matplotlib's defaults with our settings, whatever the user's are, while a figure is drawn."""
    import matplotlib

    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    return matplotlib.rc_context({**defaults, **_SETTINGS, "svg.hashsalt": name})


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    left, right, bottom, top = 0.75, 0.15, 0.55, 0.1  # margins, inches
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
    axes = figure.add_subplot()
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return inline_svg(buffer.getvalue(), label)


def inline_svg(document: str, label: str) -> str:
    """Returns a Matplotlib SVG document as an element for an HTML page with a strict content security policy.

    `label` says what it shows to those who cannot see it.

    Styles become attributes, since the policy admits no inline style; ids that nothing refers to are dropped; ink
    becomes the text colour; the size follows the page.
    """
    svg = document[document.index("<svg") :].strip()
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sstyle="([^"]*)"', lambda match: _attributes(match[1]), svg)
    svg = svg.replace("xlink:href", "href").replace(INK, "currentColor")
    used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', svg))
    svg = re.sub(r'\sid="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    opening = f'<svg class="chart" role="img" aria-label="{html.escape(label)}" stroke-linejoin="round"'
    return svg.replace("<svg", opening, 1)


def _attributes(style: str) -> str:
    pairs = [declaration.split(":", 1) for declaration in style.split(";") if ":" in declaration]
    kept = [(name.strip(), value.strip()) for name, value in pairs if name.strip() != "font-family"]
    return "".join(f' {name}="{value}"' for name, value in kept)
