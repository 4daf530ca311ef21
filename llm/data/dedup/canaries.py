"""Canaries of near duplicates: copies of real documents with some words replaced, to see that they are found.

They carry numbers above those of all documents, so in every order they come last and change nothing for the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from ..common.keyed import Numbers
from ..common.ngrams import Hashes, split_words
from .candidates import MAX_NEIGHBOURS
from .minhash import hash_batch, jaccard

N_CANARIES = 20
"""Documents of which copies are made, spread over the corpus."""

ORACLE_PERMUTATIONS = 512
ORACLE_BATCH = 10_000
"""Shingles that datasketch is given at once: it holds 4 kB for each."""

ORACLE_SIGMAS = 5
"""How far datasketch's estimate may lie from our similarity, in standard deviations of the estimate."""

ESTIMATE = np.dtype([("canary", "<i8"), ("jaccard", "<f8")])

MIN_SHINGLES = 30
"""A shorter document is not copied: a few words of it are too large a share."""

FIRST_CANARY = 2**62

AnyNumbers = TypeVar("AnyNumbers", int, Numbers)
Kind = Literal["near", "control"]
KINDS: tuple[Kind, Kind] = ("near", "control")


@dataclass(frozen=True)
class Canary:
    """A changed copy of the document `original`: a `near` duplicate, or a `control` that must not be taken for one."""

    original: int
    kind: Kind
    text: str

    @property
    def number(self) -> int:
        """The number it is compared under."""
        return FIRST_CANARY + 2 * self.original + KINDS.index(self.kind)


def is_canary(numbers: Numbers) -> npt.NDArray[np.bool_]:
    """Returns which numbers are those of canaries."""
    return numbers >= FIRST_CANARY


def original_of(numbers: AnyNumbers) -> AnyNumbers:
    """Returns the document that a canary was made of, of one or of many."""
    return (numbers - FIRST_CANARY) // 2


def kind_of(number: int) -> Kind:
    """Returns the kind of a canary."""
    return KINDS[(number - FIRST_CANARY) % 2]


def canary_pairs(keys: Hashes, numbers: Numbers, canary_keys: Hashes, canaries: Numbers) -> Numbers:
    """Returns the pairs of a text and a canary under one key, `(n_pairs, 2)`; the texts' `keys` are sorted.

    Of a bucket of many the copy meets the last `MAX_NEIGHBOURS` only, and always its original.
    """
    pairs = [np.empty((0, 2), dtype=np.int64)]
    first, end = (np.searchsorted(keys, canary_keys, side=side) for side in ("left", "right"))
    for copy, start, stop in zip(canaries.tolist(), first.tolist(), end.tolist(), strict=True):
        bucket = numbers[start:stop]
        met = np.union1d(bucket[-MAX_NEIGHBOURS:], bucket[bucket == 2 * original_of(copy)])
        pairs.append(np.stack([met, np.full_like(met, copy)], axis=1))
    return np.concatenate(pairs)


def canary_copies(original: int, text: str, ngram: int, threshold: float) -> Iterator[Canary]:
    """Yields a near duplicate halfway between the threshold and equality, and a control at half the threshold.

    Nothing for a document that is too short, or so repetitive that its copies come out otherwise.
    """
    copies = [Canary(original, "near", replace_words(text, (1 + threshold) / 2, ngram))]
    copies.append(Canary(original, "control", replace_words(text, threshold / 2, ngram)))
    shingles = hash_batch([text, *(copy.text for copy in copies)], ngram)[1]
    if len(shingles.of(0)) < MIN_SHINGLES:
        return
    for i, copy in enumerate(copies, 1):
        if (jaccard(shingles.of(0), shingles.of(i)) >= threshold) == (copy.kind == "near"):
            yield copy


def replace_words(text: str, similarity: float, ngram: int) -> str:
    """Returns the text with words at equal distances replaced by made-up ones, down to about a Jaccard similarity.

    Of n shingles each replaced word changes `ngram`, so k of them leave (n - k ngram) / (n + k ngram).
    """
    words = split_words(text)
    n_replaced = int(len(words) * (1 - similarity) / (ngram * (1 + similarity)))
    for i in range(n_replaced):
        words[(2 * i + 1) * len(words) // (2 * n_replaced)] = f"planted{i}"
    return " ".join(words)


# ---------------------------------------------------------------- an independent opinion


def datasketch_estimate(a: str, b: str, ngram: int) -> float:
    """Returns the Jaccard similarity of the word n-grams of two texts as the library datasketch estimates it."""
    return float(_datasketch_minhash(a, ngram).jaccard(_datasketch_minhash(b, ngram)))


def _datasketch_minhash(text: str, ngram: int) -> Any:
    from datasketch import MinHash  # it loads much that only this needs

    words = split_words(text)
    shingles = sorted({" ".join(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))})
    sketch = MinHash(num_perm=ORACLE_PERMUTATIONS)
    for start in range(0, len(shingles), ORACLE_BATCH):
        sketch.update_batch(
            [shingle.encode("utf-8", "surrogatepass") for shingle in shingles[start : start + ORACLE_BATCH]]
        )
    return sketch


def require_agreement(estimates: npt.NDArray[Any], similarities: npt.NDArray[np.float64]) -> None:
    """Raises ValueError where datasketch's estimates (`ESTIMATE`) of some canaries contradict our similarities.

    An estimate from n permutations has a standard deviation of sqrt(J (1 - J) / n); the 1 / n beside it allows for the
    few counts where J is near 0 or 1.
    """
    variance = (similarities * (1 - similarities) + 1 / ORACLE_PERMUTATIONS) / ORACLE_PERMUTATIONS
    is_off = np.abs(estimates["jaccard"] - similarities) > ORACLE_SIGMAS * np.sqrt(variance)
    if is_off.any():
        first = int(np.flatnonzero(is_off)[0])
        raise ValueError(
            f"canary check: for {int(is_off.sum())} of {len(estimates)} copies of documents with some words replaced "
            f"the similarity differs from that of datasketch ({similarities[first]:.3f} against "
            f"{estimates['jaccard'][first]:.3f}, document {original_of(int(estimates['canary'][first]))}). The hashes "
            "of near duplicates cannot be trusted: report this"
        )
