"""Which sequence comes when: a pure function of seed and position, so that any step can be had without those before it.

Training reads an endless stream of rows. A corpus that is larger than memory can only be read in whole row groups
(reading single rows at random is a thousand times slower), so an epoch is shuffled in two parts: the row groups
first, then the rows inside each window of `WINDOW_GROUPS` of them. Whether the rows lie in memory or are read on the
way, and how many processes share a step, makes no difference.

Letters in shapes: G row groups.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

WINDOW_GROUPS = 16
"""Row groups whose rows are mixed with each other: 16,384 rows, 34 MB of 1,024 tokens of 16 bits."""
MIXTURE_PERIOD = 1 << 16
"""Rows after which a mixture of sources repeats; shares are exact to one in so many."""


class Order(Protocol):
    """An endless stream of rows."""

    @property
    def n_groups_open(self) -> int:
        """Row groups that neighbouring rows of the stream can lie in."""

    def rows(self, start: int, stop: int, seed: int) -> np.ndarray:
        """Returns the rows at positions `start` to `stop` (exclusive) of the stream, int64."""


@dataclass(frozen=True, eq=False)
class Epochs:
    """Every epoch all rows once, in an order of its own."""

    starts: np.ndarray
    """(G,) int64, the first row of each row group."""
    sizes: np.ndarray
    """(G,) int64, the rows in each."""

    def __len__(self) -> int:
        return int(self.sizes.sum())

    @property
    def n_groups_open(self) -> int:
        """Those of the window that ends and of the one that begins."""
        return 2 * WINDOW_GROUPS

    def rows(self, start: int, stop: int, seed: int) -> np.ndarray:
        """Returns the rows at positions `start` to `stop` (exclusive) of the stream, int64."""
        pieces = [np.empty(0, np.int64)]
        while start < stop:
            epoch, position = divmod(start, len(self))
            number = int(np.searchsorted(_windows(self, epoch, seed).ends, position, side="right"))
            first, rows = _window_rows(self, epoch, number, seed)
            pieces.append(rows[position - first :][: stop - start])
            start += len(pieces[-1])
        return np.concatenate(pieces)


def one_group(n_rows: int) -> Epochs:
    """Returns the order of rows that are all in memory anyway."""
    return Epochs(np.zeros(1, np.int64), np.array([n_rows], np.int64))


@dataclass(frozen=True)
class _Windows:
    """The row groups of an epoch in their order, and the position in it at which each window ends."""

    groups: np.ndarray
    ends: np.ndarray


@functools.lru_cache(maxsize=64)
def _windows(order: Epochs, epoch: int, seed: int) -> _Windows:
    groups = _shuffled(len(order.sizes), seed, epoch, [0, 0, 1, 0])
    n_rows = np.add.reduceat(order.sizes[groups], np.arange(0, len(groups), WINDOW_GROUPS))  # of each window
    return _Windows(groups, np.cumsum(n_rows))


@functools.lru_cache(maxsize=64)
def _window_rows(order: Epochs, epoch: int, number: int, seed: int) -> tuple[int, np.ndarray]:
    """Returns the position at which a window of an epoch begins, and its rows in their order."""
    windows = _windows(order, epoch, seed)
    groups = windows.groups[number * WINDOW_GROUPS : (number + 1) * WINDOW_GROUPS]
    rows = np.concatenate(
        [np.arange(order.starts[group], order.starts[group] + order.sizes[group]) for group in groups]
    )
    first = int(windows.ends[number - 1]) if number else 0
    return first, rows[_shuffled(len(rows), seed, epoch, [0, 0, 0, number])]


def _shuffled(n: int, seed: int, epoch: int, counter: list[int]) -> np.ndarray:
    """Returns a random order of n things, (n,) int64.

    Sorting the raw numbers of a counter-based generator (Salmon et al. 2011) gives the same order with every numpy.
    """
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=np.array(counter, np.uint64))
    return np.argsort(bits.random_raw(n), kind="stable")


@dataclass(frozen=True, eq=False)
class Mixture:
    """Rows of several sources, each with its share of the stream, whatever its size: a small one is repeated sooner."""

    sources: Mapping[str, Epochs]
    pattern: np.ndarray
    """(MIXTURE_PERIOD,) number of the source at each position, repeated without end."""

    @property
    def n_groups_open(self) -> int:
        """Those of all sources."""
        return sum(order.n_groups_open for order in self.sources.values())

    def rows(self, start: int, stop: int, seed: int) -> np.ndarray:
        """Returns the rows at positions `start` to `stop` (exclusive) of the stream, int64."""
        numbers = self.pattern[np.arange(start, stop) % MIXTURE_PERIOD]
        rows = np.empty(stop - start, np.int64)
        for number, order in enumerate(self.sources.values()):
            first, positions = self.n_before(number, start), np.flatnonzero(numbers == number)
            rows[positions] = order.rows(first, first + len(positions), seed)
        return rows

    def n_before(self, number: int, position: int) -> int:
        """Returns how many of the first `position` rows are of source `number`."""
        rounds, rest = divmod(position, MIXTURE_PERIOD)
        chosen = self.pattern == number
        return rounds * int(chosen.sum()) + int(chosen[:rest].sum())


def mixture(sources: Mapping[str, Epochs], weights: Mapping[str, float]) -> Mixture:
    """Mixes the sources that `weights` names in that ratio. Raises ValueError for a source that is not there."""
    unknown = sorted(weights.keys() - sources.keys())
    if unknown:
        raise ValueError(
            f"mixture names {', '.join(map(repr, unknown))}, of which the shards hold no training sequence; "
            f"they hold: {', '.join(map(repr, sorted(sources)))}"
        )
    names = sorted(weights)
    return Mixture({name: sources[name] for name in names}, _pattern([weights[name] for name in names]))


def _pattern(weights: Sequence[float]) -> np.ndarray:
    """Returns the source at each of `MIXTURE_PERIOD` positions, int64: each has its share, evenly spaced."""
    shares = np.array(weights) / math.fsum(weights)
    ends = np.rint(np.cumsum(shares) * MIXTURE_PERIOD).astype(np.int64)
    counts = np.diff(ends, prepend=0)
    positions = np.concatenate([(np.arange(count) + 0.5) / count for count in counts if count])
    return np.repeat(np.arange(len(counts)), counts)[np.argsort(positions, kind="stable")]


def epochs_by_source(order: Order, n_rows: int) -> dict[str, float]:
    """Returns how often the first `n_rows` rows of a mixture repeat each source, in epochs; empty without a mixture."""
    if not isinstance(order, Mixture):
        return {}
    return {
        name: order.n_before(number, n_rows) / len(epochs)
        for number, (name, epochs) in enumerate(order.sources.items())
    }
