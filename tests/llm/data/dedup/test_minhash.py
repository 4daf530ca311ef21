from __future__ import annotations

import random

import numpy as np
import pytest
import xxhash
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from llm.data.common.ngrams import hash_words, split_words
from llm.data.dedup import minhash
from llm.data.dedup.minhash import Shingles, hash_batch, jaccard, signatures


def random_texts(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(500)}" for _ in range(rng.randint(0, 300))) for _ in range(n)]


@given(sets=st.lists(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20), min_size=1, max_size=5))
def test_signatures_equal_those_of_datasketch(sets: list[list[int]]) -> None:
    starts = np.cumsum([0, *map(len, sets)])
    shingles = Shingles(np.array([number for row in sets for number in row], dtype=np.uint32), starts)
    rows = signatures(shingles, 40, seed=7)
    assert rows.shape == (len(sets), 40)
    assert rows.dtype == np.uint32
    for row, numbers in zip(rows, sets, strict=True):
        oracle = MinHash(num_perm=40, seed=7, hashfunc=lambda number: number, scheme="affine32")
        oracle.update_batch(numbers)
        np.testing.assert_array_equal(row, oracle.hashvalues)


@pytest.mark.parametrize("block", [1, 100, 10**9])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    shingles = hash_batch(random_texts(30, seed=1), 5)[1]
    expected = signatures(shingles, 16, seed=1)
    monkeypatch.setattr(minhash, "BLOCK_SHINGLES", block)
    np.testing.assert_array_equal(signatures(shingles, 16, seed=1), expected)


def test_a_signature_estimates_the_jaccard_similarity() -> None:
    original = [f"w{i}" for i in range(300)]
    changed = [*original[:250], *(f"x{i}" for i in range(50))]
    shingles = hash_batch([" ".join(original), " ".join(changed)], 5)[1]
    exact = jaccard(shingles.of(0), shingles.of(1))
    assert exact == 246 / (296 + 296 - 246)
    rows = signatures(shingles, 1_000, seed=1)
    assert abs(np.mean(rows[0] == rows[1]) - exact) < 4 * (exact * (1 - exact) / 1_000) ** 0.5


@given(a=st.sets(st.integers(0, 30), min_size=1), b=st.sets(st.integers(0, 30), min_size=1))
def test_jaccard(a: set[int], b: set[int]) -> None:
    assert jaccard(frozenset(a), frozenset(b)) == len(a & b) / len(a | b)


def test_sets_of_shingles_have_the_sizes_of_the_word_ngrams() -> None:
    texts = random_texts(20, seed=2)
    content, shingles = hash_batch(texts, 3)
    assert len(content) == len(texts)
    for i, text in enumerate(texts):
        words = split_words(text)
        expected = {tuple(words[j : j + 3]) for j in range(max(1, len(words) - 2))}
        assert len(shingles.of(i)) == len(expected)


def test_no_texts() -> None:
    content, shingles = hash_batch([], 5)
    assert content.shape == (0,)
    assert signatures(shingles, 16, seed=1).shape == (0, 16)


def test_equal_bits_on_every_machine_and_version() -> None:
    texts = ["Flour and water stand in a warm place until wild yeast wakes up", "naïve “quotes” 機械学習"]
    shingles = hash_batch(texts, 5)[1]
    bits = signatures(shingles, 128, seed=1).astype("<u4").tobytes() + hash_words(texts).hashes.astype("<u8").tobytes()
    # Remake: print(xxhash.xxh3_64_hexdigest(bits))
    assert xxhash.xxh3_64_hexdigest(bits) == "dea3246d2f7bd9b2"
