"""Proposals: the best of all sizes, what a corpus is good for, and which law serves."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from llm.model.size import flops_per_token, n_matmul_params, n_params
from llm.scaling.propose import PUBLISHED, Proposal, fitted_law, largest_useful, propose, shown_size
from llm.train.config import ModelShape, PretrainConfig
from llm.train.resolve import resolve

FORM = (4096, 256)
BASE = PretrainConfig()
BUDGET = 1e17


@pytest.fixture(scope="module")
def endless() -> Proposal:
    """The proposal for an endless corpus."""
    return propose(BUDGET, PUBLISHED, BASE, *FORM)


def test_a_proposal_spends_its_budget_and_can_be_trained_as_it_says(endless: Proposal) -> None:
    found = endless
    model = resolve(PretrainConfig(model=ModelShape(size=found.size)), *FORM).model
    assert (found.n_params, found.n_matmul_params) == (n_params(model), n_matmul_params(model))
    assert found.n_tokens == found.config.n_steps * found.config.batch_tokens
    assert found.n_flops == found.n_tokens * flops_per_token(model)
    assert 0.95 * BUDGET < found.n_flops <= BUDGET
    assert found.loss == PUBLISHED.loss(found.n_matmul_params, found.n_tokens)


def test_the_best_is_better_than_its_neighbours_and_near_the_formula(endless: Proposal) -> None:
    found = endless
    for factor in (0.7, 1.4):
        model = resolve(PretrainConfig(model=ModelShape(size=shown_size(factor * found.n_params))), *FORM).model
        assert PUBLISHED.loss(n_matmul_params(model), BUDGET / flops_per_token(model)) > found.loss
    # The formula knows no grid of sizes, no attention and no whole batches.
    assert found.n_matmul_params == pytest.approx(PUBLISHED.n_opt(BUDGET), rel=0.4)


def test_a_corpus_is_good_for_the_budget_whose_best_length_is_four_epochs(endless: Proposal) -> None:
    n_unique = endless.n_tokens // 40
    useful = largest_useful(BUDGET, PUBLISHED, endless, n_unique)
    assert useful < BUDGET / 50
    n_tokens = useful / 6 / PUBLISHED.n_opt(useful)
    assert n_tokens == pytest.approx(4 * n_unique, rel=0.4), "the proposal has attention and a grid of sizes"
    assert propose(useful, PUBLISHED, BASE, *FORM).n_tokens == pytest.approx(4 * n_unique, rel=0.4)
    assert largest_useful(BUDGET, PUBLISHED, endless, endless.n_tokens) == BUDGET


def test_a_budget_too_small_for_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="do not suffice for a step"):
        propose(1e6, PUBLISHED, BASE, *FORM)


@pytest.mark.parametrize(("n", "text"), [(850_321, "850k"), (1_349_000, "1.3m"), (24e9, "24b"), (999_999, "1m")])
def test_sizes_are_written_as_model_size_reads_them(n: float, text: str) -> None:
    assert shown_size(n) == text
    assert math.isclose(n, float(text[:-1]) * {"k": 1e3, "m": 1e6, "b": 1e9}[text[-1]], rel_tol=0.05)


def fit_file(**parametric: Any) -> dict[str, Any]:
    numbers = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
    return {"budgets": [1e11, 1e12], "parametric": {**numbers, "doubts": [], "why_not": None, **parametric}}


@pytest.mark.parametrize(
    ("fit", "n_flops", "reason"),
    [
        (fit_file(why_not="4 points"), 1e12, "4 points"),
        (fit_file(doubts=["E is 0"]), 1e12, "E is 0"),
        (fit_file(), 1e18, "its largest budget was 1e+12 FLOPs, and 1e+18 are 1,000,000 times more"),
    ],
)
def test_a_fit_that_does_not_serve_says_why(fit: dict[str, Any], n_flops: float, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        fitted_law(fit, n_flops)


def test_a_sound_fit_serves() -> None:
    assert fitted_law(fit_file(), 1e13).alpha == 0.34
