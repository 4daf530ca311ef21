"""Language identification: what language a document is in."""

from __future__ import annotations

from ..common.language_model import likeliest_language

CERTAIN = 0.8
"""With a lower score there is a second look, at what tells more."""


def detect_language(text: str) -> tuple[str, float]:
    """Returns the language that most of the beginning of `text` is in, and the model's confidence (0 to 1).

    The code is ISO 639-1 where there is one ("en"), else ISO 639-3; it is "" for text without letters. Where the
    beginning leaves doubt (an index, a table, code) the plain words further on decide: Python's index of symbols, for
    one, is then English and not German.
    """
    return likeliest_language(text, CERTAIN)
