"""Planted near duplicates: copies of real documents with some words replaced, to see that they are found.

They carry numbers above those of all documents, so in every order they come last and change nothing for the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from .candidates import MAX_NEIGHBOURS
from .keyed import Numbers
from .minhash import hash_batch, jaccard
from .ngrams import Hashes, split_words

N_PLANTED = 20
"""Documents of which copies are made, spread over the corpus."""

MIN_SHINGLES = 30
"""A shorter document is not copied: a few words of it are too large a share."""

FIRST_PLANTED = 2**62

AnyNumbers = TypeVar("AnyNumbers", int, Numbers)
Kind = Literal["near", "control"]
KINDS: tuple[Kind, Kind] = ("near", "control")


@dataclass(frozen=True)
class PlantedCopy:
    """A changed copy of the document `original`: a `near` duplicate, or a `control` that must not be taken for one."""

    original: int
    kind: Kind
    text: str

    @property
    def number(self) -> int:
        """The number it is compared under."""
        return FIRST_PLANTED + 2 * self.original + KINDS.index(self.kind)


def is_planted(numbers: Numbers) -> npt.NDArray[np.bool_]:
    """Which numbers are those of planted copies."""
    return numbers >= FIRST_PLANTED


def original_of(numbers: AnyNumbers) -> AnyNumbers:
    """The document that a planted copy was made of, of one or of many."""
    return (numbers - FIRST_PLANTED) // 2


def kind_of(number: int) -> Kind:
    """The kind of a planted copy."""
    return KINDS[(number - FIRST_PLANTED) % 2]


def planted_pairs(keys: Hashes, numbers: Numbers, planted_keys: Hashes, planted: Numbers) -> Numbers:
    """Pairs of a text and a planted copy under one key, `(n_pairs, 2)`; the texts' `keys` are sorted.

    Of a bucket of many the copy meets the last `MAX_NEIGHBOURS` only, and always its original.
    """
    pairs = [np.empty((0, 2), dtype=np.int64)]
    first, end = (np.searchsorted(keys, planted_keys, side=side) for side in ("left", "right"))
    for copy, start, stop in zip(planted.tolist(), first.tolist(), end.tolist(), strict=True):
        bucket = numbers[start:stop]
        met = np.union1d(bucket[-MAX_NEIGHBOURS:], bucket[bucket == 2 * original_of(copy)])
        pairs.append(np.stack([met, np.full_like(met, copy)], axis=1))
    return np.concatenate(pairs)


def planted_copies(original: int, text: str, ngram: int, threshold: float) -> Iterator[PlantedCopy]:
    """A near duplicate halfway between the threshold and equality, and a control at half the threshold.

    Nothing for a document that is too short, or so repetitive that its copies come out otherwise.
    """
    copies = [PlantedCopy(original, "near", replace_words(text, (1 + threshold) / 2, ngram))]
    copies.append(PlantedCopy(original, "control", replace_words(text, threshold / 2, ngram)))
    shingles = hash_batch([text, *(copy.text for copy in copies)], ngram)[1]
    if len(shingles.of(0)) < MIN_SHINGLES:
        return
    for i, copy in enumerate(copies, 1):
        if (jaccard(shingles.of(0), shingles.of(i)) >= threshold) == (copy.kind == "near"):
            yield copy


def replace_words(text: str, similarity: float, ngram: int) -> str:
    """The text with words at equal distances replaced by made-up ones, down to about the Jaccard similarity given.

    Of n shingles each replaced word changes `ngram`, so k of them leave (n - k ngram) / (n + k ngram).
    """
    words = split_words(text)
    n_replaced = int(len(words) * (1 - similarity) / (ngram * (1 + similarity)))
    for i in range(n_replaced):
        words[(2 * i + 1) * len(words) // (2 * n_replaced)] = f"planted{i}"
    return " ".join(words)
