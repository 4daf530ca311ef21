"""The runs of a sweep: for each budget, shape and seed the settings of an ordinary pretraining run.

A run has everything from the recipe's pretrain section except what belongs to a model's size and to the length of its
training: that follows from its own size and length (llm/train/resolve.py). Where a model is narrower than the presets
go, their two powers of the width are carried on: at width 24 and 330,000 tokens that makes a held-out loss of 4.73, and
what the presets have there 5.19.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..files import read_json
from ..model.size import flops_per_token, n_matmul_params
from ..train.config import PretrainConfig, ResolvedPretrain
from ..train.resolve import SMALLEST_WIDTH, batch_tokens, power, resolve, rounded
from ..train.shards import SHARDS_FILE
from .config import ScalingConfig, SweepShape

INIT_STD = ((128, 0.06), (768, 0.02))
LEARNING_RATE = ((128, 3e-3), (768, 6e-4))
"""Two points (width, value) of each power: those of the scaling presets."""


@dataclass(frozen=True)
class Run:
    """One run of the sweep."""

    budget: float
    """FLOPs that it was meant to take."""
    shape: SweepShape
    config: ResolvedPretrain
    n_params: int
    """Weights used in matrix products, the head among them, embeddings that are only looked up not."""
    n_tokens: int
    n_flops: float
    """What it takes: whole steps, so up to half a step more or less than the budget."""
    n_epochs: float
    """Epochs of the corpus."""


@dataclass(frozen=True)
class Corpus:
    """What the runs are trained on, as far as their settings depend on it."""

    vocab_size: int
    context_length: int
    n_train_tokens: int


def read_corpus(shards_dir: Path) -> Corpus:
    """Returns the corpus in the shards of a directory."""
    form = read_json(shards_dir / SHARDS_FILE)
    return Corpus(int(form["vocab_size"]), int(form["context_length"]), int(form["n_train_tokens"]))


def planned_runs(scaling: ScalingConfig, base: PretrainConfig, corpus: Corpus) -> tuple[list[Run], list[str]]:
    """Returns the runs in the order in which they are made, the cheapest first, and a line for each that is left out.

    Raises ValueError when none remains.
    """
    runs, left_out = [], []
    for budget, shape, seed in itertools.product(scaling.budgets, scaling.shapes, scaling.seeds):
        run = make_run(budget, shape, seed, base, corpus)
        reason = why_left_out(run, scaling)
        if reason:
            left_out.append(f"{run.budget:.3g} FLOPs, {run.shape.n_layers} layers of {run.shape.d_model}: {reason}")
        else:
            runs.append(run)
    if not runs:
        raise ValueError(f"no run of the sweep can be made: {'; '.join(dict.fromkeys(left_out))}")
    return runs, list(dict.fromkeys(left_out))


def why_left_out(run: Run, scaling: ScalingConfig) -> str | None:
    """Returns why a run cannot give a point of the law; None when it can."""
    n_steps = run.config.n_steps
    if n_steps < scaling.min_steps:
        return f"{n_steps} steps, and min_steps is {scaling.min_steps}"
    if scaling.max_epochs is not None and run.n_epochs > scaling.max_epochs:
        return f"{run.n_epochs:.1f} epochs of the corpus, and max_epochs is {scaling.max_epochs:g}"
    ratio, low, high = run.n_tokens / run.n_params, scaling.min_tokens_per_param, scaling.max_tokens_per_param
    if not low <= ratio <= high:
        return f"{ratio:.2g} tokens per parameter, and allowed are {low:g} to {high:g}"
    return None


def make_run(budget: float, shape: SweepShape, seed: int, base: PretrainConfig, corpus: Corpus) -> Run:
    """Returns the run that trains `shape` for `budget` FLOPs."""
    free = without_size(base, shape)
    size = resolve(free, corpus.vocab_size, corpus.context_length).model
    per_token = flops_per_token(size)
    batch = batch_tokens(budget / per_token, corpus.context_length)
    n_steps = max(1, round(budget / per_token / batch))
    loop = replace(base.loop, seed=seed, eval_every=n_steps, n_sample_tokens=0)
    config = replace(free, batch_tokens=batch, n_steps=n_steps, loop=loop)
    n_tokens = n_steps * batch
    return Run(
        budget=budget,
        shape=shape,
        config=resolve(config, corpus.vocab_size, corpus.context_length).config,
        n_params=n_matmul_params(size),
        n_tokens=n_tokens,
        n_flops=float(n_tokens * per_token),
        n_epochs=n_tokens / corpus.n_train_tokens,
    )


def without_size(base: PretrainConfig, shape: SweepShape) -> PretrainConfig:
    """Returns the recipe's settings with another shape, and with what belongs to a size or a length left empty."""
    rest: dict[str, Any] = {"n_heads": None, "n_kv_heads": None, "head_dim": None, "d_mlp": None, "init_std": None}
    rates: dict[str, Any] = {
        "learning_rate": None,
        "adamw_learning_rate": None,
        "warmup_steps": None,
        "weight_decay": None,
    }
    if shape.d_model < SMALLEST_WIDTH:
        rest["init_std"] = rounded(power(shape.d_model, *INIT_STD))
        rates["learning_rate"] = rounded(power(shape.d_model, *LEARNING_RATE))
    model = replace(base.model, d_model=shape.d_model, n_layers=shape.n_layers, **rest)
    optimizer = replace(base.optimizer, **rates)
    return replace(base, model=model, optimizer=optimizer, batch_tokens=None, n_steps=None)
