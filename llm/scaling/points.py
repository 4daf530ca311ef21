"""The points that scaling laws are fitted to: size, tokens, FLOPs and held-out loss of finished runs.

Size means the weights used in matrix products, the head among them, as in the FLOPs; embeddings that are only looked up
do not count. With all parameters, or without the head, the ratio of tokens to parameters drifts with the budget
(nanochat 2026).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..config import from_dict
from ..counts import Counts
from ..files import read_json
from ..model.shape import GPTConfig
from ..model.size import flops_per_token, n_matmul_params

Floats = npt.NDArray[np.float64]

MAX_BUDGET_MISS = 0.1
"""A run whose FLOPs are further from every budget, as a share, belongs to another sweep."""


@dataclass(frozen=True)
class Points:
    """One run at each position of arrays of one length."""

    budget: Floats
    """FLOPs that the run was meant to take: equal for the runs of one parabola."""
    n_flops: Floats
    """FLOPs that it took."""
    n_params: Floats
    n_tokens: Floats
    loss: Floats
    """On held-out sequences, nats per token; larger than 0."""

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if len(values) != len(self.budget):
                raise ValueError(f"{field.name} has {len(values)} values for {len(self.budget)} points")
            if not (np.isfinite(values).all() and (values > 0).all()):
                raise ValueError(f"{field.name} must be finite and larger than 0 in every point: {values}")

    def __len__(self) -> int:
        return len(self.budget)

    def where(self, mask: npt.NDArray[np.bool_]) -> Points:
        """Returns the points where `mask` is true."""
        return Points(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    def with_loss(self, loss: Floats) -> Points:
        """Returns the same runs with other losses."""
        return Points(self.budget, self.n_flops, self.n_params, self.n_tokens, loss)

    @property
    def budgets(self) -> list[float]:
        """The budgets that there are, rising."""
        return [float(value) for value in np.unique(self.budget)]


def points_table(runs: Sequence[tuple[Path, Counts]], budgets: Sequence[float]) -> pa.Table:
    """Returns a row for each pretraining run (its model directory and counts): shape, size, tokens, FLOPs, losses."""
    return pa.Table.from_pylist([point_row(path, counts, budgets) for path, counts in runs])


def point_row(model_dir: Path, counts: Counts, budgets: Sequence[float]) -> dict[str, Any]:
    """Returns what a finished pretraining run says about size, tokens and loss."""
    saved = read_json(model_dir / "config.json")
    config = from_dict(GPTConfig, saved["model"])
    n_flops = counts.n_out * flops_per_token(config)
    return {
        "budget": nearest_budget(n_flops, budgets),
        "d_model": config.d_model,
        "n_layers": config.n_layers,
        "vocab_size": config.vocab_size,
        "seed": int(saved["training"]["loop.seed"]),
        "n_params": n_matmul_params(config),
        "n_tokens": counts.n_out,
        "n_epochs": float(counts.figures["n_epochs"]),
        "n_flops": float(n_flops),
        "loss": float(counts.figures["val_loss"]),
        "bits_per_byte": float(counts.figures["val_bpb"]),
    }


def nearest_budget(n_flops: float, budgets: Sequence[float]) -> float:
    """Returns the budget that a run was made for; raises ValueError when none is near."""
    budget = min(budgets, key=lambda value: abs(np.log(value / n_flops)))
    if abs(n_flops / budget - 1) > MAX_BUDGET_MISS:
        raise ValueError(f"a run took {n_flops:.3g} FLOPs, but the nearest budget of the sweep is {budget:.3g}")
    return float(budget)


def points_of(table: pa.Table) -> Points:
    """Returns the points of a table that `points_table` made."""
    return Points(**{field.name: table[field.name].to_numpy().astype(np.float64) for field in fields(Points)})
