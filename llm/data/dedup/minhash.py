"""MinHash signatures (Broder, 1997, "On the resemblance and containment of documents") of many texts at once.

A signature holds, for each of some random permutations of all 32-bit numbers, the smallest number that the permutation
gives to any shingle (word n-gram) of a text. Two texts agree in an entry with a probability that is the Jaccard
similarity of their sets of shingles. The permutations are those of datasketch 2 ("affine32"): x -> a x + b modulo 2^32
with an odd `a`, after a fixed mixing of the bits; equal shingle hashes give its very signatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..common.ngrams import Hashes, Offsets, hash_shingles, hash_texts, hash_words

Signatures = npt.NDArray[np.uint32]
ShingleHashes = npt.NDArray[np.uint32]

BLOCK_SHINGLES = 2**16
"""Shingles permuted at once: they and the result stay in the processor's cache."""


@dataclass(frozen=True)
class Shingles:
    """The shingles of some texts as 32-bit hashes, repeated ones too.

    `hashes` is `(n_shingles,)`; text `i` has those from `starts[i]` to `starts[i + 1]`, at least one. In two sets of
    1,000 shingles each, two that differ have equal hashes with a chance of 1 in 4,000: then the Jaccard similarity is
    off by 0.001.
    """

    hashes: ShingleHashes
    starts: Offsets

    def of(self, index: int) -> frozenset[int]:
        """Returns the set of shingles of one text."""
        return frozenset(self.hashes[self.starts[index] : self.starts[index + 1]].tolist())


def hash_batch(texts: Sequence[str], ngram: int) -> tuple[Hashes, Shingles]:
    """Returns the content hash of each text, `(n_texts,)`, and their shingles; for a batch, not a corpus."""
    words = hash_words(texts)
    hashes, starts = hash_shingles(words, ngram)
    return hash_texts(words), Shingles((hashes >> np.uint64(32)).astype(np.uint32), starts)


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """Returns the size of the intersection over that of the union of two sets that are not both empty."""
    n_common = len(a & b)
    return n_common / (len(a) + len(b) - n_common)


def signatures(shingles: Shingles, n_permutations: int, seed: int) -> Signatures:
    """Returns the signatures, `(n_texts, n_permutations)`: the share of equal entries estimates the similarity."""
    factors, summands = _permutations(n_permutations, seed)
    starts = shingles.starts
    rows = np.empty((len(starts) - 1, n_permutations), dtype=np.uint32)
    first = 0
    while first < len(rows):
        end = max(first + 1, int(np.searchsorted(starts, starts[first] + BLOCK_SHINGLES)) - 1)
        numbers = _mix(shingles.hashes[starts[first] : starts[end]])
        rows[first:end] = _smallest(numbers, starts[first:end] - starts[first], factors, summands).T
        first = end
    return rows


def _smallest(numbers: ShingleHashes, starts: Offsets, factors: ShingleHashes, summands: ShingleHashes) -> Signatures:
    """The smallest permuted number of each text, `(n_permutations, n_texts)`."""
    smallest = np.empty((len(factors), len(starts)), dtype=np.uint32)
    permuted = np.empty_like(numbers)
    for row, factor, summand in zip(smallest, factors, summands, strict=True):
        np.multiply(numbers, factor, out=permuted)  # modulo 2^32, as is the sum
        np.add(permuted, summand, out=permuted)
        np.minimum.reduceat(permuted, starts, out=row)
    return smallest


def _permutations(n: int, seed: int) -> tuple[ShingleHashes, ShingleHashes]:
    """Odd factors and summands, `(n,)` each. RandomState: its numbers never change between versions of numpy."""
    random = np.random.RandomState(seed)
    factors = random.randint(0, 2**31, n, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, random.randint(0, 2**32, n, dtype=np.uint32)


def _mix(hashes: ShingleHashes) -> ShingleHashes:
    """Spreads every bit of a 32-bit number over all its bits: the finalizer of MurmurHash3 (Appleby, 2011)."""
    hashes = hashes ^ (hashes >> np.uint32(16))
    hashes *= np.uint32(0x85EBCA6B)
    hashes ^= hashes >> np.uint32(13)
    hashes *= np.uint32(0xC2B2AE35)
    hashes ^= hashes >> np.uint32(16)
    return hashes
