from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.splits import held_out_groups, held_out_keys, held_out_of_each


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_keys_with_the_lowest_hashes_are_held_out() -> None:
    keys = [f"key {i}" for i in range(100)]
    ordered = sorted(keys, key=lambda key: hashlib.blake2b(key.encode(), digest_size=16).digest())
    assert held_out_keys([*keys, *keys], 0.1) == set(ordered[:10])
    assert held_out_keys(keys, 0.001) == set(ordered[:1])
    with pytest.raises(ValueError, match="2 different records are too few"):
        held_out_keys(["a", "b", "a"], 0.9)


@given(sizes=st.lists(st.integers(1, 9), max_size=12), n_items=st.integers(1, 20), n_least=st.integers(1, 4))
def test_groups_are_taken_whole_and_in_order_of_their_lowest_hash(sizes: list[int], n_items: int, n_least: int) -> None:
    groups = [[f"{i}.{j}" for j in range(size)] for i, size in enumerate(sizes)]
    chosen = held_out_groups(groups, digest, n_items, n_least)
    ranks = [min(map(digest, group)) for group in chosen]
    assert ranks == sorted(ranks)
    assert all(group in groups and len(group) <= n_items for group in chosen)
    assert len(chosen) <= n_least or sum(map(len, chosen)) <= max(n_items, sum(map(len, chosen[:n_least])))
    for group in groups:  # nothing that would have fitted was left out
        if group not in chosen:
            before = [other for other in chosen if min(map(digest, other)) < min(map(digest, group))]
            assert len(group) > (n_items - sum(map(len, before)) if len(before) >= n_least else n_items)


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), fraction=st.floats(0.01, 0.9))
def test_the_same_share_of_each_label_is_held_out(sizes: list[int], fraction: float) -> None:
    labels = {f"{i}.{j}": str(i) for i, size in enumerate(sizes) for j in range(size)}
    if max(sizes) == 1:
        with pytest.raises(ValueError, match="too few"):
            held_out_of_each(labels, fraction)
        return
    drawn = held_out_of_each(labels, fraction)
    n_wanted = max(1, round(fraction * len(labels)))
    assert len(drawn) == min(n_wanted, len(labels) - len(sizes))
    assert held_out_of_each(dict(reversed(labels.items())), fraction) == drawn
    shares = []
    for i, size in enumerate(sizes):
        keys = sorted(
            (f"{i}.{j}" for j in range(size)), key=lambda key: hashlib.blake2b(key.encode(), digest_size=16).digest()
        )
        n = len(drawn & set(keys))
        assert drawn & set(keys) == set(keys[:n]), "those with the lowest hashes"
        assert n < size
        if n < size - 1:
            shares.append((n, size))
    for n, size in shares:  # of any two labels neither is more than half a text ahead of the other's share
        for m, other in shares:
            assert (n - 0.5) / size <= (m + 0.5) / other
