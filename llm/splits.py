"""The split into train and held-out: drawn by hashes, so what else there is moves nothing across it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def is_held_out(id: str, fraction: float) -> bool:
    """Returns whether the document `id` (hexadecimal, a hash) is held out, which is true of `fraction` of all ids.

    It depends on the id alone: neither other documents nor partitions move a document across the split, and raising
    the fraction (0 to 1) only adds to the held-out documents.
    """
    n_digits = 13  # 52 bits: such a number is exact as a float
    return int(id[:n_digits], 16) < fraction * 16**n_digits


def held_out_keys(keys: Iterable[str], fraction: float) -> set[str]:
    """Returns the keys with the lowest hashes, the given share of them (0 to 1), at least one.

    Raises ValueError when nothing is left to train on.
    """
    groups = [[key] for key in set(keys)]
    n_held_out = max(1, round(fraction * len(groups)))
    if n_held_out >= len(groups):
        raise ValueError(f"{len(groups)} different records are too few to hold some out and train on the others")
    drawn = held_out_groups(groups, lambda key: hashlib.blake2b(key.encode(), digest_size=16).hexdigest(), n_held_out)
    return {key for group in drawn for key in group}


def held_out_groups(
    groups: Iterable[Sequence[Item]], hash_of: Callable[[Item], str], n_items: int, n_least: int = 1
) -> list[Sequence[Item]]:
    """Returns the groups with the lowest hashes (of any of their items), up to `n_items` items in all.

    A group that is larger than what is left of these is skipped, but the first `n_least` groups only if they are
    larger than all of it.
    """
    chosen: list[Sequence[Item]] = []
    n_taken = 0
    for group in sorted(groups, key=lambda group: min(map(hash_of, group))):
        if len(group) <= (n_items - n_taken if len(chosen) >= n_least else n_items):
            chosen.append(group)
            n_taken += len(group)
    return chosen
