from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections import Counter
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from llm.report.figures import (
    BLUE,
    MAX_POINTS,
    ORANGE,
    Curve,
    binned,
    calibration_figure,
    inline_svg,
    length_figure,
    training_figure,
)

STEPS = list(range(1, 101))
TRAIN = Curve(STEPS, [9 / step + 1 for step in STEPS])
HELD_OUT = Curve([1, 50, 100], [9.5, 1.5, 1.25])
BINS = [
    {"confidence": 0.55, "accuracy": 0.5, "low": 0.25, "high": 0.75},
    {"confidence": 0.75, "accuracy": 0.75, "low": 0.5, "high": 0.875},
    {"confidence": 0.95, "accuracy": 1.0, "low": 0.75, "high": 1.0},
]


def line(svg: str, color: str) -> np.ndarray:
    """The corners of the drawn curve, in SVG units, (n, 2)."""
    paths = [node for node in ElementTree.fromstring(svg).iter("path") if node.get("stroke") == color]
    corners = max((re.findall(r"[ML] (\S+) (\S+)", node.get("d", "")) for node in paths), key=len)
    return np.array(corners, dtype=float)


def test_the_lines_are_the_data():
    svg = training_figure("a", "loss, nats per token", TRAIN, HELD_OUT)
    drawn = line(svg, BLUE)
    # what matplotlib may simplify away lies on the line: compare the drawn height with the loss at each drawn step
    x_scale = np.polyfit([drawn[0, 0], drawn[-1, 0]], [1, 100], 1)
    y_scale = np.polyfit([drawn[0, 1], drawn[-1, 1]], [10.0, 1.09], 1)
    steps, losses = np.polyval(x_scale, drawn[:, 0]), np.polyval(y_scale, drawn[:, 1])
    np.testing.assert_allclose(losses, np.interp(steps, TRAIN.steps, TRAIN.values), atol=0.02)
    held_out = np.polyval(y_scale, line(svg, ORANGE)[:, 1])
    np.testing.assert_allclose(held_out, HELD_OUT.values, atol=0.02)


def test_calibration_points_stand_where_the_numbers_say():
    corners = line(calibration_figure("d", BINS), BLUE)
    per_unit = (corners[2, 0] - corners[0, 0]) / 0.4, (corners[2, 1] - corners[0, 1]) / 0.5
    expected = [[each[key] - BINS[0][key] for key in ("confidence", "accuracy")] for each in BINS]
    np.testing.assert_allclose((corners - corners[0]) / per_unit, expected, atol=1e-3)


def test_bars_count_every_document():
    lengths = [10] * 3 + [1000] * 7 + [100_000]
    svg = length_figure("b", lengths)
    heights = []
    for node in ElementTree.fromstring(svg).iter("path"):
        if node.get("fill") == BLUE:
            ys = np.array(re.findall(r"[ML] \S+ (\S+)", node.get("d", "")), dtype=float)
            heights.append(ys.max() - ys.min())
    assert len(heights) == 40
    tall = sorted(height for height in heights if height > 0)
    np.testing.assert_allclose(np.array(tall) / tall[0], [1, 3, 7], rtol=1e-3)


@pytest.mark.parametrize("lengths", [[1], [0, 0], [500] * 9, [1, 10**7]])
def test_any_lengths_can_be_drawn(lengths):
    ElementTree.fromstring(length_figure("c", lengths))


def test_bytes_depend_on_data_alone(monkeypatch):
    expected = training_figure("a", "loss, nats per token", TRAIN, HELD_OUT)
    for key, value in {"font.size": 30.0, "axes.grid": True, "svg.fonttype": "path"}.items():
        monkeypatch.setitem(matplotlib.rcParams, key, value)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    before = dict(matplotlib.rcParams)
    assert training_figure("a", "loss, nats per token", TRAIN, HELD_OUT) == expected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert dict(matplotlib.rcParams) == before


def test_figures_fit_a_strict_page():
    pictures = [
        training_figure("a", "loss, nats per token", TRAIN, HELD_OUT),
        training_figure("b", "loss, nats per token", TRAIN, HELD_OUT),
        length_figure("c", [10, 20, 500]),
        calibration_figure("d", BINS),
    ]
    ids: Counter[str] = Counter()
    for svg in pictures:
        root = ElementTree.fromstring(svg)
        assert {node.tag for node in root.iter()} <= {"svg", "g", "path", "defs", "use", "text", "clipPath", "rect"}
        names = {name for node in root.iter() for name in node.keys()}  # noqa: SIM118 - not a dict
        assert not names & {"style", "font-family", "xmlns"}
        assert "currentColor" in svg
        own = [node.get("id", "") for node in root.iter() if node.get("id")]
        assert set(own) == set(re.findall(r'(?:href="#|url\(#)([\w-]+)', svg))
        ids.update(own)
    assert set(ids.values()) == {1}
    assert ">loss, nats per token</text>" in pictures[0]


def test_style_declarations_become_attributes():
    svg = '<?xml?>\n<!DOCTYPE x><svg xmlns="http://x" width="9pt" height="9pt" viewBox="0 0 9 9"><style>*{}</style>'
    svg += '<g id="unused" style="fill: #0b0c0d; font-family: \'A, B\'; stroke-width: 0.8"/></svg>'
    expected = '<svg class="chart" role="img" aria-label="a &lt; b" stroke-linejoin="round" viewBox="0 0 9 9">'
    assert inline_svg(svg, "a < b") == expected + '<g fill="currentColor" stroke-width="0.8"/></svg>'


def test_long_curves_are_averaged():
    steps = np.arange(10_001)
    values = np.random.default_rng(0).normal(size=len(steps))
    short_steps, short_values = binned(Curve(steps.tolist(), values.tolist()))
    assert len(short_steps) == len(short_values) == MAX_POINTS
    assert (np.diff(short_steps) > 0).all()
    sizes = np.array([len(part) for part in np.array_split(steps, MAX_POINTS)])
    assert (short_values * sizes).sum() == pytest.approx(values.sum())


def test_drawing_leaves_pyplot_and_the_backend_alone():
    code = """
import sys, matplotlib
from llm.report.figures import length_figure
before = matplotlib.rcParams._get_backend_or_none() if hasattr(matplotlib.rcParams, "_get_backend_or_none") else None
length_figure("a", [1, 2, 3])
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
