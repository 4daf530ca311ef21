"""From the artifacts of finished runs to points, fits and plot."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from llm.counts import Counts
from llm.files import read_json, read_table
from llm.model.gpt import GPT
from llm.model.shape import GPTConfig
from llm.model.size import flops_per_token, n_matmul_params
from llm.scaling.config import ScalingConfig, SweepShape
from llm.scaling.fit import FIGURE_FILE, FIT_FILE, POINTS_FILE, fit_runs
from llm.scaling.points import nearest_budget, points_of, points_table

BUDGETS = (1e12, 4e12, 1.6e13)
WIDTHS = (32, 64, 128, 256)
SWEEP = ScalingConfig(
    budgets=BUDGETS, shapes=tuple(SweepShape(d_model=width, n_layers=2) for width in WIDTHS), n_bootstrap=10
)


def finished_run(folder: Path, width: int, budget: float) -> tuple[Path, Counts]:
    """What a pretraining run leaves of itself, with a loss that a law made up."""
    folder.mkdir()
    config = GPTConfig(vocab_size=512, context_length=64, n_layers=2, n_heads=2, d_model=width)
    (folder / "config.json").write_text(json.dumps({"model": asdict(config), "training": {"loop.seed": 3}}))
    n_tokens = round(budget / flops_per_token(config))
    n_params = n_matmul_params(config)
    loss = 1.5 + 60 / n_params**0.35 + 120 / n_tokens**0.33
    figures = {"val_loss": loss, "val_bpb": loss / 2, "n_epochs": 0.5}
    return folder, Counts("tokens", n_tokens, n_tokens, {}, figures)


def finished_runs(folder: Path) -> list[tuple[Path, Counts]]:
    return [
        finished_run(folder / f"{width}-{number}", width, budget)
        for number, budget in enumerate(BUDGETS)
        for width in WIDTHS
    ]


def test_a_row_says_what_a_run_was(tmp_path: Path) -> None:
    row = points_table([finished_run(tmp_path / "run", 32, 4e12)], BUDGETS).to_pylist()[0]
    model = GPT(GPTConfig(vocab_size=512, context_length=64, n_layers=2, n_heads=2, d_model=32))
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "position" not in name]
    assert row["n_params"] == sum(weight.numel() for weight in matrices)
    assert row["n_flops"] == row["n_tokens"] * (6 * row["n_params"] + 12 * 2 * 32 * 64)
    assert (row["budget"], row["d_model"], row["n_layers"], row["seed"], row["vocab_size"]) == (4e12, 32, 2, 3, 512)
    assert row["bits_per_byte"] == row["loss"] / 2


def test_a_run_of_another_sweep_is_refused(tmp_path: Path) -> None:
    assert nearest_budget(3.9e12, BUDGETS) == 4e12
    with pytest.raises(ValueError, match=r"took 8e\+12 FLOPs, but the nearest budget of the sweep is"):
        nearest_budget(8e12, BUDGETS)


def test_runs_become_points_a_fit_and_a_plot(tmp_path: Path) -> None:
    runs, out_dir = finished_runs(tmp_path), tmp_path / "out"
    out_dir.mkdir()
    counts = fit_runs(runs, out_dir, SWEEP)
    assert (counts.unit, counts.n_in, counts.n_out) == ("runs", 12, 12)
    assert {path.name for path in out_dir.iterdir()} == {POINTS_FILE, FIT_FILE, FIGURE_FILE}
    points = points_of(read_table(out_dir / POINTS_FILE))
    assert points.budgets == list(BUDGETS)
    assert np.array_equal(points.loss, [counts.figures["val_loss"] for _, counts in runs])
    fit = read_json(out_dir / FIT_FILE)
    assert fit["parametric"]["alpha"] == pytest.approx(0.35, abs=1e-4)
    assert fit["parametric"]["beta"] == pytest.approx(0.33, abs=1e-4)
    assert fit["prediction"]["parametric"]["mean_error"] < 1e-4
    assert fit["vocab_size"] == 512
    assert counts.figures["parametric_alpha"] == fit["parametric"]["alpha"]
    per_product = np.exp(np.log(points.n_flops / points.n_params / points.n_tokens).mean())
    assert fit["flops_per_product"] == pytest.approx(per_product)
    assert per_product > 6


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    runs = finished_runs(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        fit_runs(runs, tmp_path / name, SWEEP)
    assert (tmp_path / "a" / FIGURE_FILE).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for name in (POINTS_FILE, FIT_FILE, FIGURE_FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
