"""Numbers about the blocks of a page, from which small trees tell main text from the rest.

What is asked of a block: how its own text begins, what its ancestors are called and how much of the page they hold,
whether other elements look the same, where it stands, and what stands around it. A column is an array with a number for
each block. Sums are exact or run in order, so that a machine's vector units do not change them.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .blocks import FLAGS, TAG_NUMBERS, Blocks

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

WINDOW = 5
"""How many blocks before and after a block make its surroundings."""

LONG_PARAGRAPH = 20
"""Words that make a block a paragraph of prose, if it is not made of links."""

CHARS_OF_WORD = 12
"""Text without spaces between words has a word for so many characters."""

BEYOND = -9.0
"""Stands for what a neighbour would have where there is none."""


# ---------------------------------------------------------------- learned words

_WORD = re.compile(r"\w+")
_NAME_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]{2,}(?![a-z])")
MAX_NAMES, MAX_NAME_CHARS = 12, 40
MAX_WORDS, MAX_TEXT_CHARS = 4, 40
"""Only so much of an element's names, and of a block's beginning, is looked up."""


def name_keys(name: str) -> list[str]:
    """Returns what is looked up for a class or id: itself, and ("~" before it) each word in it.

    Nothing for a very long one.
    """
    if len(name) > MAX_NAME_CHARS:
        return []
    lower = name.lower()
    parts = lower.replace("-", " ").replace("_", " ").split() if name == lower else _NAME_PART.findall(name)
    return [lower, *("~" + part.lower() for part in parts)]


def text_keys(text: str) -> list[str]:
    """Returns what is looked up for a text: its first words, pairs of them, and ("=" before it) all of a short one."""
    words = _first_words(text)
    keys = words + [f"{first} {second}" for first, second in itertools.pairwise(words)]
    if 0 < len(words) < MAX_WORDS:
        keys.append("=" + " ".join(words))
    return keys


def _first_words(text: str) -> list[str]:
    """Returns the words at a text's beginning, in lower case; numbers are all the same."""
    words = _WORD.findall(text[:MAX_TEXT_CHARS].lower())[:MAX_WORDS]
    return ["0" if word.isdigit() else word for word in words]


class WordScores:
    """Log odds, in tenths, that what bears a name or begins with a word is main text (above 0) or is not (below 0).

    `names` and `texts` hold them by the keys of `name_keys` and `text_keys`.
    """

    def __init__(self, names: Mapping[str, int], texts: Mapping[str, int]) -> None:
        self._names = names
        self._texts = texts
        self._pairs: dict[str, dict[str, int]] = {}  # the pairs of `texts` by their first word: few words begin one
        for key, score in texts.items():
            if " " in key and key[0] != "=":
                first, second = key.split(" ")
                self._pairs.setdefault(first, {})[second] = score
        self._of_name = functools.lru_cache(maxsize=20_000)(self._find_name)
        self.of_names = functools.lru_cache(maxsize=20_000)(self._find_names)
        self.of_text = functools.lru_cache(maxsize=20_000)(self._find_text)

    def _find_name(self, name: str) -> list[int]:
        return [score for score in map(self._names.get, name_keys(name)) if score is not None]

    def _find_names(self, names: str) -> tuple[float, float, float]:
        """Returns the largest (0 or more), the smallest (0 or less) and a shrunken mean of the names' scores."""
        found: list[int] = []
        for name in names.split()[:MAX_NAMES]:
            found += self._of_name(name)
        if not found:
            return 0.0, 0.0, 0.0
        return max(0, *found), min(0, *found), sum(found) / (len(found) + 1)

    def _find_text(self, text: str) -> tuple[float, float, float]:
        """Returns the mean, smallest and largest of the scores of a text's keys; zeros if none is known."""
        words = _first_words(text)
        found = [score for score in map(self._texts.get, words) if score is not None]
        for first, second in itertools.pairwise(words):
            if first in self._pairs and second in self._pairs[first]:
                found.append(self._pairs[first][second])
        if len(words) < MAX_WORDS and (score := self._texts.get("=" + " ".join(words))) is not None:
            found.append(score)
        if not found:
            return 0.0, 0.0, 0.0
        return sum(found) / len(found), min(found), max(found)


# ---------------------------------------------------------------- columns


@dataclass(frozen=True, slots=True)
class _Texts:
    """Numbers of the blocks' own texts, each of shape (blocks,)."""

    words: Array
    chars: Array
    links: Array
    score: Array
    sentence: Array


@dataclass(frozen=True, slots=True)
class _Elements:
    """Numbers of the elements, each of shape (elements,), and of each block its element, shape (blocks,)."""

    of_block: Indices
    parent: Indices
    first: Indices
    ends: Indices
    depth: Indices
    tag: Indices
    flags: Indices
    signature: Indices
    names: Array  # (3, elements): largest, smallest, mean score
    alike: Indices  # siblings that look the same, with itself


def _elements_of(page: Blocks, scores: WordScores) -> _Elements:
    parent, first, depth, tag, flags, signature, _ = page.elements
    found: list[float] = []
    for of_element in page.names:
        found += scores.of_names(of_element) if of_element else (0.0, 0.0, 0.0)
    _, group, sizes = np.unique(parent * (len(parent) + 1) + signature, return_inverse=True, return_counts=True)
    names = np.array(found, dtype=np.float64).reshape(-1, 3).T
    return _Elements(page.blocks.element, parent, first, page.ends, depth, tag, flags, signature, names, sizes[group])


def block_columns(page: Blocks, scores: WordScores) -> dict[str, Array]:
    """Returns the columns by name, each of shape (blocks,); the page must have blocks."""
    elements = _elements_of(page, scores)
    columns, texts = _text_columns(page, scores)
    tag = elements.tag[elements.of_block]
    signature = elements.signature[elements.of_block]
    columns |= _ancestor_columns(elements, texts)
    columns |= _inherited_columns(elements)
    columns |= _group_columns(signature, texts)
    is_long = (texts.words >= LONG_PARAGRAPH) & (columns["link_share"] < 0.4)
    columns |= _position_columns(tag, is_long, texts, columns)
    columns |= _page_columns(elements, is_long, texts, columns)
    columns |= _neighbour_columns(columns)
    return columns


_SENTENCE_ENDS = '.!?:)"\u201d\u2019'


def _text_columns(page: Blocks, scores: WordScores) -> tuple[dict[str, Array], _Texts]:
    """Returns columns of the blocks' own texts. Text without spaces counts as words by its length."""
    copies = Counter(page.lines)
    found: list[float] = []
    for line in page.lines:
        found += (line[-1] in _SENTENCE_ENDS, copies[line], *scores.of_text(line[:MAX_TEXT_CHARS]))
    table = np.array(found, dtype=np.float64).reshape(-1, 5).T
    sentence, n_copies, mean, low, high = np.ascontiguousarray(table)
    numbers = page.blocks
    chars, links = numbers.n_chars.astype(np.float64), numbers.n_link_chars.astype(np.float64)
    words = np.maximum(numbers.n_words, chars // CHARS_OF_WORD)
    columns = {
        "words": words,
        "link_share": np.minimum(1, links / chars),
        "sentence": sentence,
        "copies": n_copies,
        "text_mean": mean,
        "text_min": low,
        "text_max": high,
    }
    return columns, _Texts(words, chars, links, mean, sentence)


# For the element of a block (0), its parent (1) and so on: what is asked of each.
_ANCESTOR_COLUMNS = (
    "mean min words block_words link_share text tag alike sentences",
    "mean min words block_words text tag alike",
    "mean min words block_words link_share text",
    "words block_words text sentences",
    "words text",
    "words text",
)


def _ancestor_columns(elements: _Elements, texts: _Texts) -> dict[str, Array]:
    """Returns what the elements that a block lies in are called and hold: "a0_words", "a1_words", ..."""
    n_blocks = np.maximum(1, elements.ends - elements.first)
    totals = np.cumsum(np.stack([texts.words, texts.chars, texts.links, texts.score, texts.sentence]), axis=1)
    totals = np.concatenate([np.zeros((len(totals), 1)), totals], axis=1)  # (5, blocks + 1)
    n_words, n_chars, n_links, score, sentences = totals[:, elements.ends] - totals[:, elements.first]
    table = {
        "mean": elements.names[2],
        "min": elements.names[1],
        "words": n_words / max(1.0, n_words[0]),
        "block_words": n_words / n_blocks,
        "link_share": n_links / np.maximum(1, n_chars),
        "text": score / n_blocks,
        "tag": elements.tag,
        "alike": elements.alike,
        "sentences": sentences / n_blocks,
    }
    columns = {"depth": elements.depth[elements.of_block].astype(np.float64)}
    ancestor = elements.of_block
    for level, names in enumerate(_ANCESTOR_COLUMNS):
        columns |= {f"a{level}_{name}": table[name][ancestor].astype(np.float64) for name in names.split()}
        ancestor = elements.parent[ancestor]
    return columns


def _inherited_columns(elements: _Elements) -> dict[str, Array]:
    """Returns of a block's elements together: summed and smallest name score, most siblings alike; and some flags.

    Each round looks twice as far up as the one before.
    """
    _, low, total = elements.names
    alike, ancestor = elements.alike, elements.parent
    while ancestor.any():
        total = total + total[ancestor]
        low = np.minimum(low, low[ancestor])
        alike = np.maximum(alike, alike[ancestor])
        ancestor = ancestor[ancestor]
    flags = elements.flags[elements.of_block]
    return {
        "names_sum": total[elements.of_block],
        "names_min": low[elements.of_block],
        "repeats": alike[elements.of_block].astype(np.float64),
        **{f"in_{name}": (flags & FLAGS[name] != 0).astype(np.float64) for name in _FLAG_COLUMNS},
    }


_FLAG_COLUMNS = ("aside", "form", "main", "article", "list")


def _group_columns(signature: Indices, texts: _Texts) -> dict[str, Array]:
    """Returns of the blocks in elements that look the same: how many, share of words, words each, share of links."""
    n_blocks = np.bincount(signature)
    n_words = np.bincount(signature, texts.words)
    n_links, n_chars = np.bincount(signature, texts.links), np.bincount(signature, texts.chars)
    return {
        "group_blocks": n_blocks[signature].astype(np.float64),
        "group_share": (n_words / max(1.0, n_words.sum()))[signature],
        "group_words": (n_words / np.maximum(1, n_blocks))[signature],
        "group_links": (n_links / np.maximum(1, n_chars))[signature],
    }


def _position_columns(
    tag: Indices, is_long: NDArray[np.bool_], texts: _Texts, columns: dict[str, Array]
) -> dict[str, Array]:
    """Returns where a block stands: in the page, after the first h1 and the last heading, among the long paragraphs."""
    n = len(tag)
    index = np.arange(n, dtype=np.float64)
    words = np.cumsum(texts.words)
    first_h1 = np.flatnonzero(tag == TAG_NUMBERS["h1"])[:1]
    long = np.flatnonzero(is_long)
    first_long, last_long = (long[0], long[-1]) if len(long) else (0, n - 1)
    is_heading = (tag >= TAG_NUMBERS["h1"]) & (tag <= TAG_NUMBERS["h6"])
    heading = np.maximum.accumulate(np.where(is_heading, np.arange(n), -1))
    known = heading >= 0
    return {
        "position": index / n,
        "words_before": (words - texts.words) / max(1.0, words[-1]),
        "index_from_end": np.minimum(n - index, 400.0),
        "from_h1": np.clip(index - first_h1[0], -200.0, 200.0) if len(first_h1) else np.full(n, -300.0),
        "from_heading": np.where(known, np.minimum(index - heading, 99.0), -1.0),
        "heading_text": np.where(known, columns["text_mean"][heading], 0.0),
        "heading_names": np.where(known, columns["names_sum"][heading], 0.0),
        "heading_tag": np.where(known, tag[heading], 0.0),
        "from_first_long": np.clip(index - first_long, -100.0, 100.0),
        "to_last_long": np.clip(last_long - index, -100.0, 100.0),
    }


def _page_columns(
    elements: _Elements, is_long: NDArray[np.bool_], texts: _Texts, columns: dict[str, Array]
) -> dict[str, Array]:
    """Returns what kind of page it is: the same number for every block."""
    words, n = texts.words, len(texts.words)
    total = max(1.0, words.sum())
    tag = elements.tag[elements.of_block]
    values = {
        "page_blocks": n,
        "page_words": total,
        "page_links": texts.links.sum() / max(1.0, texts.chars.sum()),
        "page_p_share": words[tag == TAG_NUMBERS["p"]].sum() / total,
        "page_main_share": words[columns["in_main"] > 0].sum() / total,
        "page_article_share": words[columns["in_article"] > 0].sum() / total,
        "page_list_share": words[columns["in_list"] > 0].sum() / total,
        "page_h1": np.count_nonzero(tag == TAG_NUMBERS["h1"]),
        "page_repeats": columns["repeats"].max(),
        "page_long_share": words[is_long].sum() / total,
        "page_long": np.count_nonzero(is_long),
        "page_text": np.cumsum(texts.score)[-1] / n,
    }
    return {name: np.full(n, float(value)) for name, value in values.items()}


def _neighbour_columns(columns: dict[str, Array]) -> dict[str, Array]:
    """Returns the names' scores and tags of the two blocks before and after, and the words around outside of links."""
    found: dict[str, Array] = {}
    for offset, names in ((-2, _OFF_TWO), (-1, _OFF_ONE), (1, _OFF_ONE), (2, _OFF_TWO)):
        found |= {f"b{offset}_{name}": _shifted(columns[name], offset) for name in names}
    n = len(columns["words"])
    total = np.concatenate(([0.0], np.cumsum(np.round(columns["words"] * (1 - columns["link_share"]), 3))))
    index = np.arange(n)
    found["around"] = total[np.minimum(index + WINDOW + 1, n)] - total[np.maximum(index - WINDOW, 0)]
    return found


_OFF_ONE = ("names_sum", "names_min", "a0_tag", "text_mean")
_OFF_TWO = ("names_sum", "names_min")


def _shifted(values: Array, offset: int) -> Array:
    """Returns for each block the value of the one `offset` positions on, BEYOND where there is none."""
    shifted = np.full(len(values), BEYOND)
    if offset > 0:
        shifted[:-offset] = values[offset:]
    else:
        shifted[-offset:] = values[:offset]
    return shifted
