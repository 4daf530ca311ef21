from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.common.ngrams import (
    BATCH_CHARS,
    batches,
    hash_ngrams_of,
    hash_shingles,
    hash_texts,
    hash_words,
    split_words,
)

ODD_CHARACTERS = "abAB1 \n\t\x00\x1c\x1f_-'.,é\u0301İßяж\xa0\u2003\u3000“”…中文字かナกข한글😀\u200b"
odd_texts = st.lists(st.text(ODD_CHARACTERS, max_size=30), max_size=6)


def brute_force_shingles(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)] if len(words) >= n else [tuple(words)]


def assert_one_to_one(names: list[object], hashes: list[int]) -> None:
    assert len(names) == len(hashes)
    assert len(set(names)) == len(set(hashes)) == len(set(zip(names, hashes, strict=True)))


@given(text=st.text(st.characters(max_codepoint=127), max_size=60))
def test_words_of_plain_text_are_what_stands_between_white_space(text: str) -> None:
    assert split_words(text) == text.lower().split()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("機械学習 in 2026", ["機", "械", "学", "習", "in", "2026"]),
        ("ภาษาไทย", list("ภาษาไทย")),
        ("日本語のテキスト。", list("日本語のテキスト。")),
        ("한국어 문장", ["한국어", "문장"]),
        ("La\xa0mañana\u3000É", ["la", "mañana", "é"]),
        ("", []),
    ],
)
def test_words_of_other_scripts(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_words_without_punctuation() -> None:
    assert split_words("“Don't”—it's 3.14 (naïve)!", punctuation=False) == ["don", "t", "it", "s", "3", "14", "naïve"]


@given(texts=odd_texts, punctuation=st.booleans())
def test_equal_words_and_only_they_have_equal_hashes(texts: list[str], punctuation: bool) -> None:
    split = [split_words(text, punctuation=punctuation) for text in texts]
    words = hash_words(texts, punctuation=punctuation)
    assert np.diff(words.starts).tolist() == [len(found) for found in split]
    assert_one_to_one([word for found in split for word in found], words.hashes.tolist())


@given(texts=odd_texts, n=st.integers(1, 5))
def test_equal_shingles_and_only_they_have_equal_hashes(texts: list[str], n: int) -> None:
    expected = [brute_force_shingles(split_words(text), n) for text in texts]
    hashes, starts = hash_shingles(hash_words(texts), n)
    assert np.diff(starts).tolist() == [len(found) for found in expected]
    by_words: dict[object, int] = {}
    for shingle, hash in zip((shingle for found in expected for shingle in found), hashes.tolist(), strict=True):
        assert by_words.setdefault(shingle, hash) == hash
    of_full_length = {hash for shingle, hash in by_words.items() if len(shingle) == n}  # type: ignore[arg-type]
    assert len(of_full_length) == sum(len(shingle) == n for shingle in by_words)  # type: ignore[arg-type]


@given(texts=odd_texts, n=st.integers(1, 5))
def test_neighbours_in_the_batch_change_nothing(texts: list[str], n: int) -> None:
    hashes, starts = hash_shingles(hash_words(texts), n)
    for i, text in enumerate(texts):
        alone, _ = hash_shingles(hash_words([text]), n)
        assert hashes[starts[i] : starts[i + 1]].tolist() == alone.tolist()


@given(texts=odd_texts)
def test_equal_texts_and_only_they_have_equal_hashes(texts: list[str]) -> None:
    assert_one_to_one([tuple(split_words(text)) for text in texts], hash_texts(hash_words(texts)).tolist())


def test_ngrams_of_several_lengths_at_once() -> None:
    words = hash_words(["a b c d e f", "b c d"])
    lengths = (1, 3, 4, 20)
    for n, hashes in zip(lengths, hash_ngrams_of(words, lengths), strict=True):
        assert len(hashes) == max(0, 9 - n + 1)
        if n == 3:
            assert hashes[1] == hashes[6]
            assert len(set(hashes.tolist())) == len(hashes) - 1


def test_lone_surrogates_and_very_long_words_do_no_harm() -> None:
    words = hash_words(["\ud800 x", "x" * 3_000_000 + " x"])
    assert np.diff(words.starts).tolist() == [2, 2]
    assert words.hashes[1] == words.hashes[3]


@given(lengths=st.lists(st.integers(0, BATCH_CHARS + 10), max_size=8))
def test_batches_hold_all_texts_in_order(lengths: list[int]) -> None:
    texts = ["x" * length for length in lengths]
    found = list(batches(texts))
    assert [text for batch in found for text in batch] == texts
    assert all(len(batch) == 1 or sum(map(len, batch)) <= BATCH_CHARS for batch in found)
