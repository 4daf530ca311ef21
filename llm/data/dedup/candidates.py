"""Pairs of texts that may be alike, out of their signatures, and the clusters that pairs make.

Banding: Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4. A signature is cut into bands; texts
that agree in a whole band are candidates. Sorting the bands' hashes brings those texts together.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..common.keyed import Numbers, runs
from ..common.ngrams import Hashes, mix
from .minhash import Signatures

MIN_RECALL = 0.995
"""Of the pairs right at the threshold; those more alike are found more surely."""

MAX_NEIGHBOURS = 16
"""Partners of a text in one bucket: bounds the pairs of a template that thousands of pages share."""


def band_shape(threshold: float, n_permutations: int) -> tuple[int, int]:
    """Returns bands and rows per band: the longest bands that still find pairs at the threshold with `MIN_RECALL`.

    A pair of similarity s shares a band with probability 1 - (1 - s^rows)^bands.
    """
    for n_rows in range(n_permutations, 0, -1):
        n_bands = n_permutations // n_rows
        if 1 - (1 - threshold**n_rows) ** n_bands >= MIN_RECALL:
            return n_bands, n_rows
    return n_permutations, 1


def band_keys(rows: Signatures, threshold: float) -> Hashes:
    """Returns a hash of every band of every signature, `(n_bands, n_texts)`."""
    n_bands, n_rows = band_shape(threshold, rows.shape[1])
    keys = np.zeros((n_bands, len(rows)), dtype=np.uint64)
    for band, key in enumerate(keys):
        for column in rows[:, band * n_rows : (band + 1) * n_rows].T:
            key[:] = mix(key ^ column)
    return keys


def bucket_pairs(keys: Hashes, numbers: Numbers) -> Numbers:
    """Returns the pairs of numbers under equal keys, `(n_pairs, 2)`, in each the one that comes first before.

    `keys` are sorted. In a bucket of more than `MAX_NEIGHBOURS` each is paired with those that follow it: a chain,
    which joins them all if neighbours are alike.
    """
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for distance in range(1, min(MAX_NEIGHBOURS, len(keys) - 1) + 1):
        first = np.flatnonzero(keys[distance:] == keys[:-distance])
        if first.size == 0:
            break
        pairs.append(np.stack([numbers[first], numbers[first + distance]], axis=1))
    return np.concatenate(pairs)


def unique_pairs(pairs: Numbers) -> Numbers:
    """Returns every pair once, `(n_pairs, 2)`, in order."""
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    is_new = np.ones(len(pairs), dtype=bool)
    is_new[1:] = np.any(pairs[1:] != pairs[:-1], axis=1)
    return pairs[is_new]


def are_likely(a: Signatures, b: Signatures, threshold: float) -> npt.NDArray[np.bool_]:
    """Returns whether pairs of signatures do not rule out a Jaccard similarity at the threshold, `(n_pairs,)`."""
    # Four standard deviations of the estimate: fewer than one pair in 30,000 at the threshold is missed.
    slack = 4 * (threshold * (1 - threshold) / a.shape[1]) ** 0.5
    return np.mean(a == b, axis=1) >= threshold - slack


def group_equal(keys: Hashes) -> Numbers:
    """Returns for each key the index of the first that is equal, `(n,)`."""
    order = np.argsort(keys, kind="stable")
    first, lengths = runs(keys[order])
    groups = np.empty(len(keys), dtype=np.int64)
    groups[order] = np.repeat(order[first], lengths)
    return groups
