"""Scores with 95 % intervals: bootstrap over documents or items, Wilson for proportions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

CONFIDENCE = 0.95
_CHUNK_VALUES = 2_000_000  # resampled values held in memory at once


@dataclass(frozen=True)
class Estimate:
    """A score with the ends of its 95 % interval, and the number of documents or items it rests on."""

    score: float
    low: float
    high: float
    n: int


def bootstrap_ratio(
    numerators: npt.ArrayLike, denominators: npt.ArrayLike | None = None, *, n_resamples: int = 10_000, seed: int = 0
) -> Estimate:
    """Returns the sum of `numerators` over that of `denominators`, with its percentile bootstrap interval.

    Both are one number per independent unit (a document's bits and its bytes, an example's loss and its tokens), so
    units are resampled, never the tokens inside one. Without denominators it is the mean. Efron (1979). Raises
    ValueError when there is nothing to average.
    """
    above = np.asarray(numerators, dtype=np.float64)
    below = np.ones_like(above) if denominators is None else np.asarray(denominators, dtype=np.float64)
    if above.shape != below.shape or above.ndim != 1:
        raise AssertionError(f"one number per unit wanted, got shapes {above.shape} and {below.shape}")
    if not below.sum() > 0:
        raise ValueError("no score can be computed: there are no documents or items to average over")
    ratios = _resampled_ratios(above, below, n_resamples, seed)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Estimate(float(above.sum() / below.sum()), float(low), float(high), len(above))


def paired_difference(
    first: npt.ArrayLike, second: npt.ArrayLike, denominators: npt.ArrayLike | None = None, *, seed: int = 0
) -> Estimate:
    """Returns `first` minus `second` as a mean (or ratio) over the same units, each unit kept with its partner.

    Much narrower than two separate intervals suggest, for what makes a unit hard is hard for both.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return bootstrap_ratio(difference, denominators, seed=seed)


def mean_of_means(groups: Sequence[npt.ArrayLike], *, n_resamples: int = 10_000, seed: int = 0) -> Estimate:
    """Returns the mean over groups of the mean of each; units are resampled inside their group: groups are fixed.

    Meant for groups of few different values (right or wrong), of which the bootstrap draws numbers. `n` is all units.
    Raises ValueError when there is no group, or an empty one.
    """
    values = [np.asarray(group, dtype=np.float64) for group in groups]
    if not values or not all(map(len, values)):
        raise ValueError("no score can be computed: a group has no items")
    random = np.random.default_rng(seed)
    means = np.zeros(n_resamples)
    for group in values:
        distinct, counts = np.unique(group, return_counts=True)
        means += random.multinomial(len(group), counts / len(group), size=n_resamples) @ distinct / len(group)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means / len(values), [tail, 1 - tail])
    score = np.mean([group.mean() for group in values])
    return Estimate(float(score), float(low), float(high), sum(map(len, values)))


def wilson(successes: Sequence[bool] | npt.NDArray[np.bool_]) -> Estimate:
    """Returns the share of successes with its Wilson score interval (Wilson 1927), which stays inside 0 to 1.

    Raises ValueError for an empty sequence.
    """
    n, n_successes = len(successes), int(np.sum(successes))
    if n == 0:
        raise ValueError("no share can be computed: there are no items")
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share = n_successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), n)


def _resampled_ratios(above: Values, below: Values, n_resamples: int, seed: int) -> Values:
    random = np.random.default_rng(seed)
    n, ratios, start = len(above), np.empty(n_resamples), 0
    while start < n_resamples:
        stop = min(n_resamples, start + max(1, _CHUNK_VALUES // n))
        drawn = random.integers(0, n, size=(stop - start, n))  # (resamples, units)
        sums = below[drawn].sum(axis=1)
        ratios[start:stop] = above[drawn].sum(axis=1) / np.where(sums > 0, sums, np.nan)
        start = stop
    return ratios[~np.isnan(ratios)]  # a resample that holds only units of size zero has no ratio
