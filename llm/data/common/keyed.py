"""Numbers under 64-bit keys, sorted in many files: all that have keys in one range are read at once.

This is how things of different partitions meet without all of them being in memory: each partition sorts what it has by
a hash, and a job takes one range of the hashes out of every file.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from .ngrams import Hashes

RANGE_ENTRIES = 2**19
"""Entries that one job should have to hold, 16 bytes each."""

Numbers = npt.NDArray[np.int64]
Entries = npt.NDArray[np.uint64]
"""Keys and the numbers under them, `(2, n_entries)`, sorted by key."""


def sorted_entries(keys: Hashes, numbers: Numbers) -> Entries:
    """Returns the numbers under their keys, by key; equal keys stay in the order given."""
    order = np.argsort(keys, kind="stable")
    return np.stack([keys[order], numbers[order].view(np.uint64)])


def n_ranges(n_entries: int) -> int:
    """Returns the number of ranges into which the keys of so many entries are cut."""
    return max(1, -(-n_entries // RANGE_ENTRIES))


def read_range(files: Iterable[Entries], index: int, n_ranges: int) -> tuple[Hashes, Numbers]:
    """Returns keys in range `index` of `n_ranges`, sorted, and their numbers; equal keys in the order of the files."""
    first, last = index * 2**64 // n_ranges, (index + 1) * 2**64 // n_ranges - 1
    slices = [np.zeros((2, 0), dtype=np.uint64)]
    for entries in files:
        start = int(np.searchsorted(entries[0], np.uint64(first), side="left"))
        stop = int(np.searchsorted(entries[0], np.uint64(last), side="right"))
        slices.append(np.array(entries[:, start:stop]))
    keys, numbers = np.concatenate(slices, axis=1)
    order = np.argsort(keys, kind="stable")
    return keys[order], numbers[order].view(np.int64)


def runs(keys: Hashes) -> tuple[Numbers, Numbers]:
    """Returns where the runs of equal keys begin, and how long they are, `(n_runs,)` each; `keys` are sorted."""
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = keys[1:] != keys[:-1]
    first = np.flatnonzero(is_first)
    return first, np.diff(np.append(first, len(keys)))
