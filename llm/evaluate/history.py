"""Scores of a model over time: a line for each evaluation, a plot, and what has fallen since the first.

A model is compared with its own first evaluation, item by item; a reference that moved along would let it fall in
small steps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..files import atomic_path, read_table, write_table, write_text
from .comparison import GONE, NOT_NUMBERS, Compared, compare_items
from .scores import Items

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEGLIGIBLE = 1e-3
"""A change of less than this part of a score is that of other threads, processors or versions of PyTorch."""
MAX_PANELS, PANEL_INCHES, DOTS_PER_INCH = 24, (4.2, 2.6), 110
ORANGE, GREY, RED = "#d9762b", "#6b7075", "#b3261e"
MARGIN_DAYS = 1 / 1440
SETTINGS: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def against_reference(path: Path, now: Items, *, accept: bool) -> list[Compared]:
    """Compares the items of a model with those of its first evaluation, which are kept in a Parquet file.

    The items of an evaluation that is accepted become the first ones.
    """
    reference = now if accept or not path.exists() else read_table(path)
    compared = compare_items(reference, now, shared_only=True)
    following = next_reference(reference, now, compared)
    if accept or not path.exists() or following != reference:
        write_table(path, following)
    return compared


def alarms(compared: Sequence[Compared]) -> list[Compared]:
    """Returns what has fallen beyond its interval and not negligibly, is no longer measured, or is not a number."""
    return [
        each
        for each in compared
        if each.problem in (GONE, NOT_NUMBERS) or (each.gain and each.gain.high < -NEGLIGIBLE * abs(each.before or 0.0))
    ]


def next_reference(reference: Items, now: Items, compared: Sequence[Compared]) -> Items:
    """Returns the reference for later evaluations: the same, with `now`'s items of metrics that cannot be compared.

    These are new, have another version, or other items; they begin anew.
    """
    loud = alarms(compared)
    anew = {(each.benchmark, each.metric) for each in compared if each.gain is None and each not in loud}
    parts = [_rows(reference, anew, inside=False), _rows(now, anew, inside=True)]
    return pa.concat_tables(parts)


def _rows(table: Items, keys: set[tuple[str, str]], *, inside: bool) -> Items:
    names = zip(table["benchmark"].to_pylist(), table["metric"].to_pylist(), strict=True)
    return table.filter(pa.array([(name in keys) == inside for name in names], pa.bool_()))


def append(path: Path, line: dict[str, Any]) -> None:
    """Adds a line to a history, which is written anew as a whole: a kill leaves it as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(each, sort_keys=True) + "\n" for each in [*read(path), line]))


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a history, the oldest first."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def draw(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Writes a PNG with a panel a score over time, with 95 % intervals; dashed: the model changed; red: a fall."""
    import matplotlib
    from matplotlib.figure import Figure

    scores = [(row["benchmark"], row["metric"]) for line in history for row in line["scores"]]
    names = list(dict.fromkeys(scores))[:MAX_PANELS]
    n_rows, n_columns = -(-len(names) // 3), min(3, len(names))
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    with matplotlib.rc_context({**defaults, **SETTINGS}):
        size = (PANEL_INCHES[0] * n_columns, PANEL_INCHES[1] * n_rows)
        figure = Figure(figsize=size, layout="constrained")
        panels = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
        for axes, name in zip(panels, names, strict=False):
            _draw_score(axes, name, history)
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})


def _draw_score(axes: Axes, name: tuple[str, str], history: Sequence[dict[str, Any]]) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

    points = [
        (date2num(datetime.fromisoformat(line["time"])), row["score"], row["low"], row["high"], line)
        for line in history
        for row in line["scores"]
        if (row["benchmark"], row["metric"]) == name
    ]
    times, scores, low, high, lines = zip(*points, strict=True)
    errors = [
        [0.0 if end is None else max(0.0, score - end) for score, end in zip(scores, low, strict=True)],
        [0.0 if end is None else max(0.0, end - score) for score, end in zip(scores, high, strict=True)],
    ]
    style: dict[str, Any] = {"color": ORANGE, "markersize": 3, "linewidth": 1.2, "elinewidth": 0.8}
    axes.errorbar(times, scores, errors, fmt="o-", **style)
    falls = [i for i, line in enumerate(lines) if f"{name[0]}: {name[1]}" in line["fell"]]
    axes.plot([times[i] for i in falls], [scores[i] for i in falls], "v", color=RED, markersize=7, zorder=5)
    margin = max(0.05 * (times[-1] - times[0]), MARGIN_DAYS)
    axes.set_xlim(times[0] - margin, times[-1] + margin)
    for before, line, when in zip((None, *lines), lines, times, strict=False):
        if before is None or before["model"] != line["model"]:
            axes.axvline(when, color=GREY, linewidth=0.8, linestyle="--")
            axes.annotate(line["model"].rpartition(" ")[2], (when, 1), xycoords=("data", "axes fraction"), color=GREY)
    axes.set_title(f"{name[0]}: {name[1]}", pad=12)
    axes.xaxis_date()
    locator = AutoDateLocator(minticks=2, maxticks=5)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
