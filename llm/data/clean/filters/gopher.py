"""The rules of Gopher (Rae et al. 2021, https://arxiv.org/abs/2112.11446): quality (section A1.1) and repetition
(table A1). Every limit is a field; None switches that rule off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ....config import Config, setting
from .parts import Failure, Measure, TextParts, first_failure, n_repeated, share

BULLETS = ("•", "‣", "●", "▪", "◦", "·", "*", "-", "–")
ELLIPSES = ("...", "…")


@dataclass(frozen=True, kw_only=True)
class GopherQuality(Config):
    """Limits that a text of running words keeps (Rae et al. 2021, A1.1)."""

    min_words: int | None = setting(50, at_least=0)
    """Fewest words of a document."""

    max_words: int | None = setting(100_000, at_least=0)
    """Most words of a document."""

    min_mean_word_length: float | None = setting(3.0, at_least=0)
    """Least mean length of a word, in characters."""

    max_mean_word_length: float | None = setting(10.0, at_least=0)
    """Largest mean length of a word, in characters."""

    max_symbols_per_word: float | None = setting(0.1, at_least=0)
    """Most hash signs, and most ellipses, for each word."""

    max_bullet_lines: float | None = setting(0.9, at_least=0, at_most=1)
    """Largest share of lines that begin with a bullet."""

    max_ellipsis_lines: float | None = setting(0.3, at_least=0, at_most=1)
    """Largest share of lines that end with an ellipsis."""

    min_alphabetic_words: float | None = setting(0.8, at_least=0, at_most=1)
    """Least share of words with a letter in them."""

    min_stop_words: int | None = setting(2, at_least=0)
    """How many different `stop_words` an English document must hold; documents in other languages need none."""

    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """The words that `min_stop_words` counts, in lower case."""


def gopher_quality(parts: TextParts, limits: GopherQuality) -> Failure | None:
    """Returns the first rule of Gopher's quality filter that a text breaks, None for a good text.

    For languages without spaces a word is a character, and the length of words is not looked at.
    """
    return first_failure("Gopher quality", _quality(parts, limits))


def _quality(parts: TextParts, limits: GopherQuality) -> Iterator[Measure]:
    text, words, lines = parts.text, parts.words, parts.lines
    yield Measure("words", len(words), limits.min_words, limits.max_words)
    if parts.has_spaces:
        length = share(sum(map(len, words)), len(words))
        yield Measure("mean word length", length, limits.min_mean_word_length, limits.max_mean_word_length)
    n_ellipses = sum(map(text.count, ELLIPSES))
    yield Measure("hash signs per word", share(text.count("#"), len(words)), None, limits.max_symbols_per_word)
    yield Measure("ellipses per word", share(n_ellipses, len(words)), None, limits.max_symbols_per_word)
    n_bullets = sum(line.startswith(BULLETS) for line in lines)
    yield Measure("bullet lines", share(n_bullets, len(lines)), None, limits.max_bullet_lines)
    n_cut = sum(line.endswith(ELLIPSES) for line in lines)
    yield Measure("ellipsis lines", share(n_cut, len(lines)), None, limits.max_ellipsis_lines)
    yield Measure("alphabetic words", share(_n_alphabetic(words), len(words)), limits.min_alphabetic_words)
    if parts.language in ("en", "") and limits.min_stop_words is not None:
        yield Measure("stop words", _n_stop_words(words, limits), limits.min_stop_words)


def _n_alphabetic(words: list[str]) -> int:
    """How many words hold a letter; most begin with one, which is quick to see."""
    return sum(word[0].isalpha() or any(map(str.isalpha, word)) for word in words)


def _n_stop_words(words: list[str], limits: GopherQuality) -> int:
    """How many different stop words there are; upper case only counts where lower case does not suffice."""
    wanted = frozenset(limits.stop_words)
    n_found = len(wanted.intersection(words))
    if limits.min_stop_words is not None and n_found >= limits.min_stop_words:
        return n_found
    return len(wanted.intersection(map(str.lower, words)))


@dataclass(frozen=True, kw_only=True)
class GopherRepetition(Config):
    """Largest shares of a document that may be repetition (Rae et al. 2021, table A1); characters are of the whole."""

    max_duplicate_lines: float | None = setting(0.30, at_least=0, at_most=1)
    """Share of lines that have stood before."""

    max_duplicate_paragraphs: float | None = setting(0.30, at_least=0, at_most=1)
    """Share of paragraphs that have stood before."""

    max_duplicate_line_chars: float | None = setting(0.20, at_least=0, at_most=1)
    """Share of characters in lines that have stood before."""

    max_duplicate_paragraph_chars: float | None = setting(0.20, at_least=0, at_most=1)
    """Share of characters in paragraphs that have stood before."""

    max_top_2_gram: float | None = setting(0.20, at_least=0, at_most=1)
    """Share of characters in the most frequent sequence of 2 words."""

    max_top_3_gram: float | None = setting(0.18, at_least=0, at_most=1)
    """The same for 3 words."""

    max_top_4_gram: float | None = setting(0.16, at_least=0, at_most=1)
    """The same for 4 words."""

    max_duplicate_5_grams: float | None = setting(0.15, at_least=0, at_most=1)
    """Share of characters in sequences of 5 words that have stood before."""

    max_duplicate_6_grams: float | None = setting(0.14, at_least=0, at_most=1)
    """The same for 6 words."""

    max_duplicate_7_grams: float | None = setting(0.13, at_least=0, at_most=1)
    """The same for 7 words."""

    max_duplicate_8_grams: float | None = setting(0.12, at_least=0, at_most=1)
    """The same for 8 words."""

    max_duplicate_9_grams: float | None = setting(0.11, at_least=0, at_most=1)
    """The same for 9 words."""

    max_duplicate_10_grams: float | None = setting(0.10, at_least=0, at_most=1)
    """The same for 10 words."""


def gopher_repetition(parts: TextParts, limits: GopherRepetition) -> Failure | None:
    """Returns the first rule of Gopher's repetition filter that a text breaks, None for a good text.

    A first occurrence is no repetition, and no character counts twice where repeated sequences overlap.
    """
    return first_failure("Gopher repetition", _repetition(parts, limits))


def _repetition(parts: TextParts, limits: GopherRepetition) -> Iterator[Measure]:
    n_chars = len(parts.text)
    n_paragraphs, paragraph_chars = n_repeated(parts.paragraphs)
    limit = limits.max_duplicate_paragraphs
    yield Measure("duplicate paragraphs", share(n_paragraphs, len(parts.paragraphs)), None, limit)
    limit = limits.max_duplicate_paragraph_chars
    yield Measure("duplicate paragraph characters", share(paragraph_chars, n_chars), None, limit)
    n_lines, line_chars = n_repeated(parts.lines)
    yield Measure("duplicate lines", share(n_lines, len(parts.lines)), None, limits.max_duplicate_lines)
    yield Measure("duplicate line characters", share(line_chars, n_chars), None, limits.max_duplicate_line_chars)
    lengths = np.fromiter(map(len, parts.words), np.int64, len(parts.words))
    long_limits = [getattr(limits, f"max_duplicate_{n}_grams") for n in range(5, 11)]
    strictest = min((limit for limit in long_limits if limit is not None), default=1)
    for n, starts, grams in repeated_grams(parts.words, 10):
        if n <= 4:
            limit = getattr(limits, f"max_top_{n}_gram")
            yield Measure(f"top {n}-gram", share(_top_chars(n, starts, grams, lengths), n_chars), None, limit)
        else:
            limit = getattr(limits, f"max_duplicate_{n}_grams")
            repeated = share(_duplicate_chars(n, starts, grams, lengths), n_chars)
            yield Measure(f"duplicate {n}-grams", repeated, None, limit)
            if repeated <= strictest:
                return  # longer n-grams cover no more


def repeated_grams(words: list[str], largest: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields for n = 2 to `largest`: where the n-grams start that occur more than once, and a number for each n-gram.

    Both arrays are int64 of shape (n_occurrences,), in the order of the text. It ends where nothing is repeated. Only
    what begins with a repeated (n-1)-gram is looked at, so the work shrinks with every n.
    """
    last_position = {word: position for position, word in enumerate(words)}
    ids = np.fromiter(map(last_position.__getitem__, words), np.int64, len(words))
    is_repeated = np.bincount(ids)[ids] > 1 if words else np.zeros(0, bool)
    starts = np.flatnonzero(is_repeated)
    grams = ids[starts]
    for n in range(2, largest + 1):
        fits = starts + n <= len(words)
        starts, grams = starts[fits], grams[fits]
        pairs = grams * len(words) + ids[starts + n - 1]
        _, grams, counts = np.unique(pairs, return_inverse=True, return_counts=True)
        is_repeated = counts[grams] > 1
        starts, grams = starts[is_repeated], grams[is_repeated]
        if not len(starts):
            return
        yield n, starts, grams


def _top_chars(n: int, starts: np.ndarray, grams: np.ndarray, lengths: np.ndarray) -> int:
    """Characters in all occurrences of the most frequent n-gram (the first one of several), a space between words."""
    counts = np.bincount(grams)
    first = starts[np.argmax(counts[grams])]
    return int(counts.max() * (lengths[first : first + n].sum() + n - 1))


def _duplicate_chars(n: int, starts: np.ndarray, grams: np.ndarray, lengths: np.ndarray) -> int:
    """Characters of the words in n-grams that have stood before, each counted once, without the spaces."""
    is_later = np.ones(len(starts), bool)
    is_later[np.unique(grams, return_index=True)[1]] = False
    covered = np.zeros(len(lengths), bool)
    for offset in range(n):
        covered[starts[is_later] + offset] = True
    return int(lengths[covered].sum())
