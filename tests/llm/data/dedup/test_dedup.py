from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data.common.components import components
from llm.data.dedup import signatures as module
from llm.data.dedup.candidates import band_keys, band_shape, bucket_pairs, group_equal
from llm.data.dedup.dedup import DedupConfig, candidate_pairs, duplicate_clusters, sign
from llm.data.dedup.signatures import similarities
from llm.data.dedup.steps import preference

CONFIG = DedupConfig()
ODD_TEXTS = ["", "", "one", "One ", "two", "😀 🍞", "😀  🍞", "a b c d", "a b c d e", "A b\nc d e", "a b c d e f"]


def planted_texts(n_originals: int, seed: int) -> list[str]:
    """Shuffled random texts, most with up to three copies in which up to five words are replaced; and odd texts."""
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(2_000)]
    texts = list(ODD_TEXTS)
    for _ in range(n_originals):
        original = rng.choices(words, k=rng.randint(60, 200))
        for _ in range(rng.randint(1, 4)):
            texts.append(" ".join(original))
            for _ in range(rng.randint(0, 5)):
                original = list(original)
                original[rng.randrange(len(original))] = rng.choice(words)
    rng.shuffle(texts)
    return texts


def brute_force_shingles(text: str, ngram: int) -> set[tuple[str, ...]]:
    words = text.lower().split()
    if len(words) < ngram:
        return {tuple(words)}
    return {tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)}


def brute_force_clusters(texts: list[str], config: DedupConfig) -> list[int]:
    """Compares all pairs, then follows the smallest known partner to the end of the chain."""
    sets = [brute_force_shingles(text, config.ngram) for text in texts]
    first = list(range(len(texts)))
    changed = True
    alike = [
        (i, j)
        for j in range(len(texts))
        for i in range(j)
        if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= config.threshold
    ]
    while changed:
        changed = False
        for i, j in alike:
            smallest = min(first[i], first[j])
            changed = changed or first[i] != first[j]
            first[i] = first[j] = smallest
    return first


# ---------------------------------------------------------------- pairs


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("n_permutations", [64, 128, 256])
def test_bands_fit_and_find_pairs_at_the_threshold(threshold: float, n_permutations: int) -> None:
    n_bands, n_rows = band_shape(threshold, n_permutations)
    assert n_bands * n_rows <= n_permutations
    assert 1 - (1 - threshold**n_rows) ** n_bands >= 0.995
    longer = n_rows + 1
    if longer <= n_permutations:
        assert 1 - (1 - threshold**longer) ** (n_permutations // longer) < 0.995


def test_the_default_bands_are_21_of_6() -> None:
    assert band_shape(CONFIG.threshold, CONFIG.n_permutations) == (21, 6)


@given(rows=st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), max_size=12))
def test_candidates_are_the_pairs_that_share_a_band(rows: list[list[int]]) -> None:
    n_bands, n_rows = band_shape(0.8, 6)
    array = np.array(rows, dtype=np.uint32).reshape(-1, 6)
    bands = [slice(band * n_rows, (band + 1) * n_rows) for band in range(n_bands)]
    numbers = [3 * i + 1 for i in range(len(rows))]
    expected = [
        (3 * i + 1, 3 * j + 1)
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
        if any(rows[i][band] == rows[j][band] for band in bands)
    ]
    assert [tuple(pair) for pair in candidate_pairs(array, np.array(numbers, dtype=np.int64), 0.8)] == expected
    assert band_keys(array, 0.8).shape == (n_bands, len(rows))


def test_a_large_bucket_gives_few_pairs_that_connect_it() -> None:
    pairs = bucket_pairs(np.zeros(5_000, dtype=np.uint64), np.arange(5_000))
    assert len(pairs) <= 16 * 5_000
    numbers, first = components(pairs)
    assert numbers.tolist() == list(range(5_000))
    assert set(first.tolist()) == {0}


@given(keys=st.lists(st.integers(0, 5), max_size=20))
def test_equal_keys_are_grouped_under_the_first(keys: list[int]) -> None:
    assert group_equal(np.array(keys, dtype=np.uint64)).tolist() == [keys.index(key) for key in keys]


@pytest.mark.parametrize("at_once", [1, 7, 10_000])
def test_similarities_are_exact_or_below_the_threshold(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", at_once)
    texts = planted_texts(15, seed=4)
    sets = [brute_force_shingles(text, 5) for text in texts]
    _, signatures = sign(texts, np.arange(len(texts)) + 100, CONFIG)
    pairs = np.array([(i, j) for j in range(len(texts)) for i in range(j)])
    found = similarities(pairs + 100, signatures, 0.8)
    exact = np.array([len(sets[i] & sets[j]) / len(sets[i] | sets[j]) for i, j in pairs])
    np.testing.assert_array_equal(found[exact >= 0.8], exact[exact >= 0.8])
    assert np.all((found == exact) | (found == 0))
    assert np.sum(exact >= 0.8) > 10


# ---------------------------------------------------------------- clusters of texts


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("threshold", "ngram"), [(0.8, 5), (0.6, 3)])
def test_clusters_are_those_of_brute_force(seed: int, threshold: float, ngram: int) -> None:
    config = replace(CONFIG, threshold=threshold, ngram=ngram)
    texts = planted_texts(60, seed)
    found = duplicate_clusters(texts, config)
    assert found.dtype == np.int64
    assert found.tolist() == brute_force_clusters(texts, config)
    n_duplicates = int(np.sum(found != np.arange(len(texts))))
    assert 30 < n_duplicates < len(texts) - 60


@settings(deadline=None, max_examples=40)
@given(texts=st.lists(st.text("ab \n", max_size=20), max_size=8))
def test_odd_texts(texts: list[str]) -> None:
    # Sets of so few shingles have either exactly the same signature or one far away from it at threshold 1.
    config = replace(CONFIG, threshold=1.0, ngram=2, n_permutations=16)
    assert duplicate_clusters(texts, config).tolist() == brute_force_clusters(texts, config)


def test_texts_shorter_than_an_ngram_are_compared_as_a_whole() -> None:
    assert duplicate_clusters(ODD_TEXTS, CONFIG).tolist() == [0, 0, 2, 2, 4, 5, 5, 7, 8, 8, 10]


def test_copies_in_scripts_without_spaces_are_found() -> None:
    rng = random.Random(3)
    original = "".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(400))
    near = original[:200] + "麺包" + original[202:]
    far = "".join(c if i % 3 else "麺" for i, c in enumerate(original))
    assert duplicate_clusters([far, original, near], CONFIG).tolist() == [0, 1, 1]


# ---------------------------------------------------------------- settings


def test_what_is_preferred() -> None:
    urls = ["https://b.org/page", "https://docs.a.org/some/long/page", "https://b.org/p", "http://[", "https://xa.org/"]
    n_chars = np.array([10, 30, 20, 5, 7])

    def order(**fields: object) -> list[int]:
        return np.argsort(preference(urls, n_chars, replace(CONFIG, **fields)), kind="stable").tolist()

    assert order() == [3, 2, 4, 0, 1]
    assert order(keep="longest") == [1, 2, 0, 4, 3]
    assert order(keep="first") == [0, 1, 2, 3, 4]
    assert order(preferred_hosts=("a.org",)) == [1, 3, 2, 4, 0]
    assert order(keep="longest", preferred_hosts=("b.org", "a.org")) == [2, 0, 1, 4, 3]


@pytest.mark.parametrize("host", ["", "https://docs.python.org", "docs.python.org/3", "Docs.Python.org"])
def test_a_preferred_host_is_a_name(host: str) -> None:
    with pytest.raises(ValueError, match=r"preferred_hosts has .*names of hosts"):
        DedupConfig(preferred_hosts=(host,))
