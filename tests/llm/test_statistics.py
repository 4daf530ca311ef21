from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from llm.statistics import bootstrap_ratio, paired_difference, wilson


def random_values(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, 3.0, n)


@pytest.mark.parametrize(("n_successes", "n"), [(0, 1), (1, 1), (0, 24), (24, 24), (7, 24), (301, 700), (699, 700)])
def test_wilson_is_scipys(n_successes, n):
    estimate = wilson([True] * n_successes + [False] * (n - n_successes))
    expected = scipy.stats.binomtest(n_successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert (estimate.score, estimate.n) == (n_successes / n, n)
    assert [estimate.low, estimate.high] == pytest.approx([expected.low, expected.high], abs=1e-9)


@pytest.mark.parametrize("n", [5, 60, 700])
def test_bootstrap_of_a_mean_agrees_with_scipy(n):
    values = random_values(n)
    estimate = bootstrap_ratio(values)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", random_state=1
    ).confidence_interval
    assert estimate.score == pytest.approx(values.mean())
    # two independent sets of 10,000 resamples: their 2.5 % quantiles differ by some 2 % of the interval's width
    assert [estimate.low, estimate.high] == pytest.approx(list(expected), abs=0.05 * (expected.high - expected.low))


def test_bootstrap_of_a_ratio_agrees_with_scipy():
    sizes = random_values(80, seed=1)
    values = sizes * np.random.default_rng(2).normal(2, 0.3, 80)
    estimate = bootstrap_ratio(values, sizes)
    expected = scipy.stats.bootstrap(
        (values, sizes),
        lambda above, below, axis: above.sum(axis) / below.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=10_000,
        method="percentile",
        random_state=1,
    ).confidence_interval
    assert estimate.score == pytest.approx(values.sum() / sizes.sum())
    assert [estimate.low, estimate.high] == pytest.approx(list(expected), abs=0.05 * (expected.high - expected.low))


def test_intervals_hold_the_truth_about_95_times_in_100():
    hits = [
        estimate.low <= 6.0 <= estimate.high  # the mean of gamma(2, 3)
        for estimate in (bootstrap_ratio(random_values(100, seed), n_resamples=1000) for seed in range(300))
    ]
    assert 0.90 <= np.mean(hits) <= 0.99  # 300 trials: two standard deviations are 0.025


def test_same_seed_same_interval_other_seed_another():
    values = random_values(50)
    assert bootstrap_ratio(values, seed=3) == bootstrap_ratio(values, seed=3)
    assert bootstrap_ratio(values, seed=3) != bootstrap_ratio(values, seed=4)


def test_resampling_in_chunks_changes_nothing(monkeypatch):
    values = random_values(50)
    whole = bootstrap_ratio(values)
    monkeypatch.setattr("llm.statistics._CHUNK_VALUES", 999)
    assert bootstrap_ratio(values) == whole


def test_pairing_narrows_the_interval_of_a_difference():
    hard = random_values(200) * 10
    better, worse = hard - 0.1, hard + random_values(200, seed=1) * 0.01
    paired = paired_difference(better, worse)
    assert paired.score == pytest.approx((better - worse).mean())
    assert paired.high < 0
    assert paired.high - paired.low < 0.05 * (bootstrap_ratio(better).high - bootstrap_ratio(better).low)


def test_paired_ratio_is_the_difference_of_the_ratios():
    sizes = random_values(30, seed=1)
    first, second = random_values(30, seed=2), random_values(30, seed=3)
    expected = first.sum() / sizes.sum() - second.sum() / sizes.sum()
    assert paired_difference(first, second, sizes).score == pytest.approx(expected)


def test_one_unit_has_no_width_and_none_is_refused():
    single = bootstrap_ratio([6.0], [3.0])
    assert (single.score, single.low, single.high, single.n) == (2.0, 2.0, 2.0, 1)
    with pytest.raises(ValueError, match="no documents or items"):
        bootstrap_ratio([])
    with pytest.raises(ValueError, match="no items"):
        wilson([])
