"""Paragraphs that stand in many documents: navigation, licence lines, notices, texts inherited from a template.

A paragraph is what stands between empty lines; in a text without empty lines (a plain-text extract), every line is one.
Two are the same if they are equal but for white space at their ends.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from ..common.keyed import Numbers
from ..common.ngrams import Hashes


def split_paragraphs(text: str) -> tuple[list[str], str]:
    """Returns the paragraphs of a text, and what stands between them: joined with that they are the text again."""
    separator = "\n\n" if "\n\n" in text else "\n"
    return text.split(separator), separator


def paragraph_key(paragraph: str) -> int:
    """Returns a 64-bit hash, equal for paragraphs that differ only in white space at their ends."""
    return xxhash.xxh3_64_intdigest(paragraph.strip().encode("utf-8", "surrogatepass"))


def paragraph_keys(texts: Sequence[str], min_chars: int) -> tuple[Hashes, Numbers]:
    """Returns the keys of paragraphs of at least `min_chars` characters, and the index of their texts, `(n,)` each."""
    keys: list[int] = []
    owners: list[int] = []
    for index, text in enumerate(texts):
        for paragraph in split_paragraphs(text)[0]:
            if len(paragraph) >= min_chars:
                keys.append(paragraph_key(paragraph))
                owners.append(index)
    return np.array(keys, dtype=np.uint64), np.array(owners, dtype=np.int64)


def is_in(keys: Hashes, wanted: Hashes) -> npt.NDArray[np.bool_]:
    """Returns whether each key is one of the `wanted` ones, which are sorted, `(n,)`."""
    if not len(wanted):
        return np.zeros(len(keys), dtype=bool)
    return wanted[np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)] == keys


def without_paragraphs(text: str, unwanted: Container[int], min_chars: int) -> str:
    """Returns the text without the paragraphs of at least `min_chars` characters whose keys are in `unwanted`."""
    paragraphs, separator = split_paragraphs(text)
    kept = [part for part in paragraphs if len(part) < min_chars or paragraph_key(part) not in unwanted]
    return separator.join(kept).strip() if len(kept) < len(paragraphs) else text
