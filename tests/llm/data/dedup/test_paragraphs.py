from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llm.data.dedup.paragraphs import (
    is_in,
    paragraph_key,
    paragraph_keys,
    split_paragraphs,
    without_paragraphs,
)

texts = st.text("ab \n", max_size=40)


@given(text=texts)
def test_paragraphs_joined_are_the_text(text: str) -> None:
    paragraphs, separator = split_paragraphs(text)
    assert separator.join(paragraphs) == text


def test_paragraphs_stand_between_empty_lines_or_are_lines() -> None:
    assert split_paragraphs("def f():\n    return 1\n\nText.")[0] == ["def f():\n    return 1", "Text."]
    assert split_paragraphs("Home\nAbout\nText.")[0] == ["Home", "About", "Text."]


@given(many=st.lists(texts, max_size=6), min_chars=st.integers(1, 4))
def test_keys_tell_paragraphs_apart(many: list[str], min_chars: int) -> None:
    keys, owners = paragraph_keys(many, min_chars)
    expected = [
        (i, part.strip()) for i, text in enumerate(many) for part in split_paragraphs(text)[0] if len(part) >= min_chars
    ]
    assert owners.tolist() == [i for i, _ in expected]
    pairs = set(zip(keys.tolist(), (part for _, part in expected), strict=True))
    assert len(pairs) == len(set(keys.tolist())) == len({part for _, part in expected})


@given(text=texts, min_chars=st.integers(1, 4), data=st.data())
def test_removal_takes_all_of_the_unwanted_and_nothing_else(text: str, min_chars: int, data: st.DataObject) -> None:
    paragraphs = split_paragraphs(text)[0]
    unwanted = data.draw(st.sets(st.sampled_from(paragraphs)))
    left = without_paragraphs(text, {paragraph_key(part) for part in unwanted}, min_chars)
    same = {part.strip() for part in unwanted}
    kept = [part for part in paragraphs if len(part) < min_chars or part.strip() not in same]
    assert Counter(left.split()) == Counter(word for part in kept for word in part.split())
    if len(kept) == len(paragraphs):
        assert left == text


@given(keys=st.lists(st.integers(0, 9)), wanted=st.sets(st.integers(0, 9)))
def test_is_in(keys: list[int], wanted: set[int]) -> None:
    found = is_in(np.array(keys, dtype=np.uint64), np.array(sorted(wanted), dtype=np.uint64))
    assert found.tolist() == [key in wanted for key in keys]
