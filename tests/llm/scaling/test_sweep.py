"""Which runs a sweep makes, and with which settings."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from llm.files import write_json
from llm.model.size import flops_per_token, n_matmul_params
from llm.scaling.config import ScalingConfig, SweepShape
from llm.scaling.sweep import Corpus, planned_runs, read_corpus
from llm.train.config import LoopConfig, ModelShape, OptimizerConfig, PretrainConfig
from llm.train.resolve import resolve

CORPUS = Corpus(vocab_size=1024, context_length=128, n_train_tokens=3_000_000)
SHAPES = tuple(SweepShape(d_model=width, n_layers=2) for width in (32, 64, 128))
SWEEP = ScalingConfig(
    budgets=(1e12, 3e12),
    shapes=SHAPES,
    seeds=(0, 5),
    min_tokens_per_param=0.0,
    max_tokens_per_param=1e6,
    max_epochs=None,
)
BASE = PretrainConfig(
    model=ModelShape(n_heads=8, init_std=0.5, architecture="modern"),
    optimizer=OptimizerConfig(learning_rate=0.7, beta2=0.9),
    batch_tokens=99 * 128,
    n_steps=7,
    loop=LoopConfig(seed=9, n_threads=1),
)


def test_the_corpus_is_read_from_its_shards(tmp_path: Path) -> None:
    write_json(tmp_path / "shards.json", {"vocab_size": 1024, "context_length": 128, "n_train_tokens": 3_000_000})
    assert read_corpus(tmp_path) == CORPUS


def test_every_budget_shape_and_seed_is_a_run_and_takes_what_it_may() -> None:
    runs, left_out = planned_runs(SWEEP, BASE, CORPUS)
    assert left_out == []
    assert [(run.budget, run.shape.d_model, run.config.loop.seed) for run in runs] == [
        (budget, width, seed) for budget in (1e12, 3e12) for width in (32, 64, 128) for seed in (0, 5)
    ]
    for run in runs:
        model = resolve(run.config, CORPUS.vocab_size, CORPUS.context_length).model
        assert (model.d_model, model.n_layers, model.architecture) == (run.shape.d_model, 2, "modern")
        assert run.n_params == n_matmul_params(model)
        assert run.n_tokens == run.config.n_steps * run.config.batch_tokens
        assert run.n_flops == run.n_tokens * flops_per_token(model)
        assert run.n_flops == pytest.approx(run.budget, rel=0.01)
        assert run.n_epochs == run.n_tokens / CORPUS.n_train_tokens


def test_settings_follow_from_the_runs_own_size_and_the_rest_is_the_recipes() -> None:
    small, _, large, *_ = planned_runs(replace(SWEEP, seeds=(0,)), BASE, CORPUS)[0]
    assert large.config.optimizer.learning_rate < small.config.optimizer.learning_rate < 0.7
    assert large.config.batch_tokens < small.config.batch_tokens
    assert {small.config.model.init_std, small.config.model.n_heads}.isdisjoint({0.5, 8})
    assert small.config.optimizer.beta2 == 0.9
    assert small.config.loop == replace(BASE.loop, seed=0, eval_every=small.config.n_steps, n_sample_tokens=0)


def test_rates_follow_the_presets_powers_below_their_smallest_width_too() -> None:
    """From width 128 to 768, two and a half doublings (2.585), rates fall to a fifth and weights to a third."""
    shapes = tuple(SweepShape(d_model=width, n_layers=2) for width in (16, 32, 64, 128))
    runs, _ = planned_runs(replace(SWEEP, shapes=shapes, budgets=(1e12,), seeds=(0,)), BASE, CORPUS)
    rates = [run.config.optimizer.learning_rate for run in runs]
    stds = [run.config.model.init_std for run in runs]
    assert [narrow / wide for narrow, wide in pairwise(rates)] == pytest.approx([5 ** (1 / 2.585)] * 3, rel=0.05)
    assert [narrow / wide for narrow, wide in pairwise(stds)] == pytest.approx([3 ** (1 / 2.585)] * 3, rel=0.05)


def test_the_same_sweep_plans_the_same_runs() -> None:
    assert planned_runs(SWEEP, BASE, CORPUS) == planned_runs(SWEEP, BASE, CORPUS)


@pytest.mark.parametrize(
    ("limit", "gone", "reason"),
    [
        ({"max_epochs": 1.0}, {(3e12, 32)}, "epochs of the corpus, and max_epochs is 1"),
        ({"min_tokens_per_param": 1.0}, {(1e12, 128)}, "tokens per parameter, and allowed are 1 to"),
        ({"max_tokens_per_param": 60.0}, {(3e12, 32)}, "tokens per parameter, and allowed are 0 to 60"),
        ({"min_steps": 600}, {(1e12, 128)}, "min_steps is 600"),
    ],
)
def test_runs_that_teach_nothing_are_left_out(limit: dict[str, float], gone: set[object], reason: str) -> None:
    runs, left_out = planned_runs(replace(SWEEP, **limit), BASE, CORPUS)  # type: ignore[arg-type]
    everything = {(run.budget, run.shape.d_model) for run in planned_runs(SWEEP, BASE, CORPUS)[0]}
    kept = {(run.budget, run.shape.d_model) for run in runs}
    assert gone <= everything - kept
    assert kept
    assert len(left_out) == len(everything - kept), "one line for all seeds of a run"
    assert all(reason in line for line in left_out)


def test_a_sweep_of_no_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no run of the sweep can be made: .*max_epochs is 0\.01"):
        planned_runs(replace(SWEEP, max_epochs=0.01), BASE, CORPUS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budgets": ()}, "budgets is empty"),
        ({"budgets": (3e12, 1e12)}, "each must be larger than the one before"),
        ({"budgets": (0.0, 1e12)}, "larger than 0"),
        ({"shapes": (SHAPES[0], SHAPES[0])}, "shapes holds the same value twice"),
        ({"seeds": (1, 1)}, "seeds holds the same value twice"),
    ],
)
def test_bad_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SWEEP, **values)  # type: ignore[arg-type]
