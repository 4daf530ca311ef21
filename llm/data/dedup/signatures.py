"""Texts made ready to be compared, in memory or in files, and their comparison."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ..common.keyed import Numbers
from ..common.ngrams import Hashes, batches
from .candidates import are_likely
from .minhash import Shingles, Signatures, hash_batch, jaccard, signatures

PAIRS_AT_ONCE = 2**14
"""The signatures of so many pairs are held in memory."""

FILES = {"numbers": np.int64, "signatures": np.uint32, "shingles": np.uint32}
"""Arrays of text signatures, each a file of its bytes: so those of many partitions are joined by copying."""


@dataclass(frozen=True)
class TextSignatures:
    """Texts ready to be compared: their numbers, ascending, `(n,)`; signatures, `(n, n_permutations)`; shingles."""

    numbers: Numbers
    rows: Signatures
    shingles: Shingles

    def signatures_of(self, positions: Numbers) -> Signatures:
        """Returns the signatures of the texts at some positions, `(n_positions, n_permutations)`."""
        return self.rows[positions]

    def shingles_of(self, position: int) -> frozenset[int]:
        """Returns the shingles of the text at a position."""
        return self.shingles.of(position)


class StoredTexts:
    """The texts that `join_signatures` has written, with the methods of `TextSignatures`, read from the files.

    Read, not mapped: mapped pages would count as memory of the process, up to the whole files.
    """

    def __init__(self, folder: Path, n_permutations: int, signatures: BinaryIO, shingles: BinaryIO) -> None:
        self.numbers: Numbers = np.fromfile(folder / "numbers", dtype=np.int64)
        self._starts = np.fromfile(folder / "starts", dtype=np.int64)
        self._n_permutations = n_permutations
        self._signatures = signatures
        self._shingles = shingles

    @staticmethod
    @contextlib.contextmanager
    def open(folder: Path, n_permutations: int) -> Iterator[StoredTexts]:
        """Yields the texts in a folder, whose files are open while the block runs."""
        with open(folder / "signatures", "rb") as signatures, open(folder / "shingles", "rb") as shingles:
            yield StoredTexts(folder, n_permutations, signatures, shingles)

    def signatures_of(self, positions: Numbers) -> Signatures:
        """Returns the signatures of the texts at some positions, `(n_positions, n_permutations)`."""
        wanted, inverse = np.unique(positions, return_inverse=True)
        n_bytes = 4 * self._n_permutations
        rows = [os.pread(self._signatures.fileno(), n_bytes, position * n_bytes) for position in wanted.tolist()]
        return np.frombuffer(b"".join(rows), dtype=np.uint32).reshape(-1, self._n_permutations)[inverse]

    def shingles_of(self, position: int) -> frozenset[int]:
        """Returns the shingles of the text at a position."""
        start, stop = self._starts[position : position + 2].tolist()
        return frozenset(
            np.frombuffer(os.pread(self._shingles.fileno(), 4 * (stop - start), 4 * start), np.uint32).tolist()
        )


def sign_texts(
    texts: Sequence[str], numbers: Numbers, *, ngram: int, n_permutations: int, seed: int
) -> tuple[Hashes, TextSignatures]:
    """Returns the content hashes of some texts, `(n,)`, and the texts ready to be compared, under the numbers given."""
    hashes, lengths = [np.zeros(0, dtype=np.uint64)], [np.zeros(1, dtype=np.int64)]
    shingles = [np.zeros(0, dtype=np.uint32)]
    rows = [np.zeros((0, n_permutations), dtype=np.uint32)]
    for batch in batches(texts):
        content, found = hash_batch(batch, ngram)
        hashes.append(content)
        shingles.append(found.hashes)
        lengths.append(np.diff(found.starts))
        rows.append(signatures(found, n_permutations, seed))
    all_shingles = Shingles(np.concatenate(shingles), np.cumsum(np.concatenate(lengths)))
    return np.concatenate(hashes), TextSignatures(numbers, np.concatenate(rows), all_shingles)


def similarities(pairs: Numbers, texts: TextSignatures | StoredTexts, threshold: float) -> npt.NDArray[np.float64]:
    """Returns the Jaccard similarity of each pair of numbers, `(n_pairs,)`.

    0 if the signatures rule out the threshold.
    """
    found = np.zeros(len(pairs))
    shingles_of = functools.lru_cache(1024)(texts.shingles_of)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        first, second = np.searchsorted(texts.numbers, pairs[start : start + PAIRS_AT_ONCE]).T
        likely = are_likely(texts.signatures_of(first), texts.signatures_of(second), threshold)
        for i in np.flatnonzero(likely):
            found[start + i] = jaccard(shingles_of(int(first[i])), shingles_of(int(second[i])))
    return found


def save_signatures(folder: Path, group: str, signatures: TextSignatures) -> None:
    """Writes a group of text signatures into a folder, which may hold several."""
    arrays = (signatures.numbers, signatures.rows, signatures.shingles.hashes)
    for (name, dtype), array in zip(FILES.items(), arrays, strict=True):
        np.asarray(array, dtype=dtype).tofile(folder / f"{group}-{name}")
    np.diff(signatures.shingles.starts).tofile(folder / f"{group}-lengths")


def join_signatures(folders: Sequence[Path], groups: Sequence[str], out_dir: Path) -> None:
    """Writes the text signatures of some folders into one, made or made anew: the first group of all folders first."""
    out_dir.mkdir(exist_ok=True)
    for name in FILES:
        with open(out_dir / name, "wb") as joined:
            for group, folder in itertools.product(groups, folders):
                with open(folder / f"{group}-{name}", "rb") as file:
                    shutil.copyfileobj(file, joined)
    with open(out_dir / "starts", "wb") as joined:
        start = np.zeros(1, dtype=np.int64)
        start.tofile(joined)
        for group, folder in itertools.product(groups, folders):
            lengths = np.fromfile(folder / f"{group}-lengths", dtype=np.int64)
            (start + np.cumsum(lengths)).tofile(joined)
            start += lengths.sum()
