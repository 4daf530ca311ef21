"""The split into train and held-out: drawn by hashes, so what else there is moves nothing across it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    return {key for group in held_out_groups(groups, _hash, n_held_out) for key in group}


def held_out_of_each(labels: Mapping[str, str], fraction: float) -> set[str]:
    """Returns the given share of the keys (0 to 1), at least one, with the same share of each label.

    Of each label those with the lowest hashes are taken, and never its last: that stays to be trained on. Raises
    ValueError when no label has two keys.
    """
    keys_of = defaultdict[str, list[str]](list)
    for key, label in labels.items():
        keys_of[label].append(key)
    ranked = [
        ((rank + 0.5) / len(keys), _hash(key), key)
        for keys in keys_of.values()
        for rank, key in enumerate(sorted(keys, key=_hash)[:-1])
    ]
    if not ranked:
        raise ValueError(
            f"{len(labels)} texts with {len(keys_of)} labels are too few to hold some out and train on every label"
        )
    return {key for *_, key in sorted(ranked)[: max(1, round(fraction * len(labels)))]}


def _hash(key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


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
