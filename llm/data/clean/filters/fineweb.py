"""The rules that FineWeb added to those of Gopher and C4 (Penedo et al. 2024, https://arxiv.org/abs/2406.17557, 3.6).

The paper lists the first three; the limit on line breaks is in the published pipeline alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ....config import Config, setting
from .parts import Failure, Measure, TextParts, first_failure, n_repeated, share

END_MARKS = tuple(".!?‼‽⁇⁈⁉。｡．！？՞։؟۔।॥፧።៖។៕᠃᠉")
"""What ends a sentence in the larger scripts (a part of Unicode's Sentence_Terminal)."""


@dataclass(frozen=True, kw_only=True)
class FineWeb(Config):
    """Limits on lists, fragments and repeated lines (Penedo et al. 2024). None switches a rule off."""

    min_ended_lines: float | None = setting(0.12, at_least=0, at_most=1)
    """Least share of lines that end with a full stop or another mark that ends a sentence."""

    max_short_lines: float | None = setting(0.67, at_least=0, at_most=1)
    """Largest share of lines of at most `short_line_chars`."""

    short_line_chars: int = setting(30, at_least=1)
    """A line of at most this many characters is short."""

    max_duplicate_line_chars: float | None = setting(0.01, at_least=0, at_most=1)
    """Largest share of characters in lines that have stood before."""

    max_lines_per_word: float | None = setting(0.3, at_least=0)
    """Most line breaks for each word; the blank line between two paragraphs does not count."""


def fineweb(parts: TextParts, limits: FineWeb) -> Failure | None:
    """Returns the first of FineWeb's rules that a text breaks, None for a good text."""
    return first_failure("FineWeb", _measures(parts, limits))


def _measures(parts: TextParts, limits: FineWeb) -> Iterator[Measure]:
    lines = parts.lines
    n_ended = sum(line.endswith(END_MARKS) for line in lines)
    yield Measure("lines with an end mark", share(n_ended, len(lines)), limits.min_ended_lines)
    n_short = sum(len(line) <= limits.short_line_chars for line in lines)
    yield Measure("short lines", share(n_short, len(lines)), None, limits.max_short_lines)
    n_chars = sum(map(len, lines))
    limit = limits.max_duplicate_line_chars
    yield Measure("duplicate line characters", share(n_repeated(lines)[1], n_chars), None, limit)
    n_breaks = max(len(lines) - 1, 0)
    yield Measure("line breaks per word", share(n_breaks, len(parts.words)), None, limits.max_lines_per_word)
