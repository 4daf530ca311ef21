from __future__ import annotations

import random

import numpy as np
import pytest

from llm.data.dedup.canaries import (
    ESTIMATE,
    FIRST_CANARY,
    Canary,
    canary_copies,
    canary_pairs,
    datasketch_estimate,
    is_canary,
    kind_of,
    original_of,
    replace_words,
    require_agreement,
)
from llm.data.dedup.minhash import hash_batch, jaccard

RNG = random.Random(2)
ENGLISH = " ".join(f"word{RNG.randrange(2_000)}" for _ in range(400))
CHINESE = "".join(chr(RNG.randrange(0x4E00, 0x9000)) for _ in range(400))


def similarity(a: str, b: str, ngram: int) -> float:
    shingles = hash_batch([a, b], ngram)[1]
    return jaccard(shingles.of(0), shingles.of(1))


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
@pytest.mark.parametrize("ngram", [1, 5, 9])
@pytest.mark.parametrize("wanted", [0.1, 0.4, 0.75, 0.9, 1.0])
def test_replaced_words_leave_the_similarity_asked_for(text: str, ngram: int, wanted: float) -> None:
    assert similarity(text, replace_words(text, wanted, ngram), ngram) == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_a_near_copy_and_a_control(text: str, threshold: float) -> None:
    near, control = canary_copies(7, text, 5, threshold)
    assert (near.kind, control.kind) == ("near", "control")
    assert similarity(text, near.text, 5) >= threshold > similarity(text, control.text, 5)


def test_nothing_is_made_of_short_or_repetitive_texts() -> None:
    assert list(canary_copies(0, "a few words", 5, 0.8)) == []
    assert list(canary_copies(0, "again and again " * 200, 5, 0.8)) == []


def test_planted_numbers_are_above_all_others_and_tell_their_origin() -> None:
    numbers = np.array([Canary(7, "near", "").number, Canary(7, "control", "").number, 2 * 10**12])
    assert numbers[0] > FIRST_CANARY - 1
    assert is_canary(numbers).tolist() == [True, True, False]
    assert original_of(numbers[:2]).tolist() == [7, 7]
    assert [kind_of(number) for number in numbers[:2].tolist()] == ["near", "control"]


def test_in_a_large_bucket_a_planted_copy_still_meets_its_original() -> None:
    planted = np.array([Canary(document, "near", "").number for document in (3, 3, 99, 101)])
    numbers = np.arange(0, 204, 2)
    keys = np.array([0] * 100 + [7, 9], dtype=np.uint64)
    found = canary_pairs(keys, numbers, np.array([0, 1, 0, 9], dtype=np.uint64), planted).tolist()
    last = list(range(168, 200, 2))
    expected = [(n, planted[0]) for n in (6, *last)] + [(n, planted[2]) for n in last] + [(202, planted[3])]
    assert sorted(map(tuple, found)) == sorted(expected)


def estimates(texts: list[str], ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """What datasketch and we say of the copies of some texts."""
    copies = [(text, copy) for i, text in enumerate(texts) for copy in canary_copies(i, text, ngram, 0.8)]
    found = [(copy.number, datasketch_estimate(text, copy.text, ngram)) for text, copy in copies]
    return np.array(found, dtype=ESTIMATE), np.array([similarity(text, copy.text, ngram) for text, copy in copies])


@pytest.mark.parametrize("ngram", [1, 5])
def test_datasketch_agrees_on_hundreds_of_copies(ngram: int) -> None:
    rng = random.Random(3)
    texts = [" ".join(f"w{rng.randrange(3_000)}" for _ in range(rng.randint(50, 400))) for _ in range(60)]
    texts += [CHINESE, ENGLISH * 20]
    require_agreement(*estimates(texts, ngram))


@pytest.mark.parametrize("change", [0.8, 1.1, 0.5])
def test_a_similarity_that_datasketch_does_not_see_stops_the_run(change: float) -> None:
    found, ours = estimates([ENGLISH, CHINESE], 5)
    with pytest.raises(ValueError, match=r"[24] of 4 copies .* differs from that of datasketch .* document [01]\)"):
        require_agreement(found, ours * change)
