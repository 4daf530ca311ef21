from __future__ import annotations

import pytest

from llm.evaluate.answer_match import is_exact, normalised, token_f1


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("The  Eiffel-Tower!", "eiffeltower", True, 1.0),
        ("a cat, an owl and the dog", "Cat owl and dog.", True, 1.0),
        ("Returns the size in bytes.", "Return the size of the file in bytes.", False, 6 / 10),
        ("bytes bytes bytes", "bytes", False, 2 / 4),
        ("no", "yes", False, 0.0),
        ("", "yes", False, 0.0),
        ("", "the", True, 1.0),
    ],
)
def test_matches_as_squad_counts_them(answer: str, reference: str, exact: bool, f1: float) -> None:
    assert is_exact(answer, reference) is exact
    assert token_f1(answer, reference) == pytest.approx(f1) == token_f1(reference, answer)


def test_articles_are_words_and_not_parts_of_them() -> None:
    assert normalised("Another theme, a man's theatre") == ["another", "theme", "mans", "theatre"]
