"""What the quality filters share: a text split once into words, lines and paragraphs, and what a broken rule says."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

UNSPACED_LANGUAGES = frozenset(["bo", "dz", "ja", "km", "lo", "my", "th", "wuu", "yue", "zh"])
"""Languages written without spaces between words (ISO codes): for the filters every character is a word."""

_BLANK_LINES = re.compile(r"\n\s*\n")


class TextParts:
    """A text and its parts, each split off at its first use.

    `language` is an ISO code as in `Document`; "" for an unknown one, which is taken to put spaces between words.
    """

    def __init__(self, text: str, language: str = "") -> None:
        self.text = text
        self.language = language

    @property
    def has_spaces(self) -> bool:
        """Whether the language puts spaces between words."""
        return self.language not in UNSPACED_LANGUAGES

    @functools.cached_property
    def words(self) -> list[str]:
        """What stands between white space, punctuation included; every other character where there are no spaces."""
        return self.text.split() if self.has_spaces else list("".join(self.text.split()))

    @functools.cached_property
    def lines(self) -> list[str]:
        """The lines that are not blank, without white space around them."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @functools.cached_property
    def paragraphs(self) -> list[str]:
        """What stands between blank lines."""
        return [part for part in map(str.strip, _BLANK_LINES.split(self.text)) if part]


class Measure(NamedTuple):
    """A rule of a filter: the measured value and what is allowed, both limits inclusive, None for no limit."""

    rule: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_broken(self) -> bool:
        """Whether the value lies outside of the limits."""
        too_low = self.at_least is not None and self.value < self.at_least
        return too_low or (self.at_most is not None and self.value > self.at_most)


class Failure(NamedTuple):
    """Why a text is left out: a fixed phrase to count by, and the measured value with what is allowed."""

    reason: str
    detail: str


def first_failure(filter_name: str, measures: Iterable[Measure]) -> Failure | None:
    """Returns the first broken rule; those after it are not measured."""
    for measure in measures:
        if measure.is_broken:
            allowed = _allowed(measure.at_least, measure.at_most)
            return Failure(f"{filter_name}: {measure.rule}", f"{measure.rule} {measure.value:.4g}, allowed {allowed}")
    return None


def _allowed(at_least: float | None, at_most: float | None) -> str:
    if at_least is not None and at_most is not None:
        return f"{at_least:g} to {at_most:g}"
    return f"{at_least:g} or more" if at_least is not None else f"{at_most:g} or less"


def share(n: float, total: float) -> float:
    """`n` of `total` as a share; 0 of nothing."""
    return n / total if total else 0.0


def n_repeated(parts: Sequence[str]) -> tuple[int, int]:
    """Returns how many parts have stood before, and how many characters those have."""
    seen: set[str] = set()
    n_parts = n_chars = 0
    for part in parts:
        if part in seen:
            n_parts += 1
            n_chars += len(part)
        seen.add(part)
    return n_parts, n_chars
