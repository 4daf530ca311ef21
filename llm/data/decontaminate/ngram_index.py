"""An index of word n-grams of several lengths, and the search for them in many texts at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..common.keyed import Numbers, runs
from ..common.ngrams import Hashes, Words, batches, hash_ngrams_of, hash_words

FILTER_BITS_PER_KEY = 64
"""A table of bits says quickly that an n-gram is not in the index, and is wrong about one of so many."""


@dataclass(frozen=True)
class NgramIndex:
    """N-grams as hashes, sorted, with the item that each stands in, `(n,)` both; an n-gram of k items is there k times.

    `lengths` are the numbers of words that n-grams have, ascending.
    """

    keys: Hashes
    items: Numbers
    lengths: tuple[int, ...]

    @staticmethod
    def build(texts: Iterable[tuple[int, str]], ngram: int, min_words: int, max_items: int) -> NgramIndex:
        """Returns the index of some texts, each with the number of its item.

        A text of fewer than `ngram` words is one n-gram if it has at least `min_words`. What stands in more than
        `max_items` items is left out.
        """
        texts = list(texts)
        keys, items = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
        used: set[int] = set()
        n_before = 0
        for batch in batches(text for _, text in texts):
            words = hash_words(batch, punctuation=False)
            owners = np.array([owner for owner, _ in texts[n_before : n_before + len(batch)]])
            lengths = range(min_words, ngram + 1)
            for length, hashes in zip(lengths, hash_ngrams_of(words, lengths), strict=True):
                position, text = _positions_to_index(words, length, ngram)
                keys.append(_with_length(hashes[position], length))
                items.append(owners[text])
                used.update([length] if len(position) else [])
            n_before += len(batch)
        return NgramIndex(*_not_common(np.concatenate(keys), np.concatenate(items), max_items), tuple(sorted(used)))

    def save(self, folder: Path) -> None:
        """Writes the index into a folder."""
        folder.mkdir(exist_ok=True)
        np.save(folder / "keys.npy", np.stack([self.keys, self.items.view(np.uint64)]))
        np.save(folder / "lengths.npy", np.array(self.lengths, dtype=np.int64))

    @staticmethod
    def load(folder: Path) -> NgramIndex:
        """Returns the index in a folder."""
        keys, items = np.load(folder / "keys.npy")
        return NgramIndex(keys, items.view(np.int64), tuple(np.load(folder / "lengths.npy").tolist()))

    def items_of(self, keys: Hashes) -> tuple[Numbers, Numbers]:
        """Returns the items in which some n-grams stand: indices of keys, ascending, and items, `(n,)` each."""
        first, end = (np.searchsorted(self.keys, keys, side=side) for side in ("left", "right"))
        counts = end - first
        owner = np.repeat(np.arange(len(keys)), counts)
        position = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        return owner, self.items[first[owner] + position]


def find_ngrams(texts: Sequence[str], index: NgramIndex) -> Numbers:
    """Returns the n-grams of the index in some texts, `(4, n)`: text, key, number of its first word, number of words.

    In order of text and position; an n-gram that a text has several times is there once.
    """
    bits = _key_bits(index.keys)
    found = [np.zeros((4, 0), dtype=np.int64)]
    n_before = 0
    for batch in batches(texts):
        words = hash_words(batch, punctuation=False)
        for length, hashes in zip(index.lengths, hash_ngrams_of(words, index.lengths), strict=True):
            keys = _with_length(hashes, length)
            position = np.flatnonzero(_may_hold(bits, keys))
            in_batch = _in_one_text(keys[position], position, length, words, index)
            in_batch[0] += n_before
            found.append(in_batch)
        n_before += len(batch)
    every = np.concatenate(found, axis=1)
    every = every[:, np.lexsort((every[2], every[1], every[0]))]
    is_new = np.ones(every.shape[1], dtype=bool)
    is_new[1:] = np.any(every[:2, 1:] != every[:2, :-1], axis=0)
    every = every[:, is_new]
    return every[:, np.lexsort((every[1], every[2], every[0]))]


def _positions_to_index(words: Words, length: int, ngram: int) -> tuple[Numbers, Numbers]:
    """First words of the n-grams of `length` words that stand for a text, and their texts, `(n,)` each.

    Of `ngram` words, all; of fewer, only whole texts.
    """
    n_words = np.diff(words.starts)
    if length < ngram:
        text = np.flatnonzero(n_words == length)
        return words.starts[text], text
    counts = np.maximum(n_words - length + 1, 0)
    text = np.repeat(np.arange(len(n_words)), counts)
    return np.arange(len(text)) + np.repeat(words.starts[:-1] - np.cumsum(counts) + counts, counts), text


def _in_one_text(keys: Hashes, position: Numbers, length: int, words: Words, index: NgramIndex) -> Numbers:
    """The n-grams that are in the index and do not run from one text into the next, as `find_ngrams` gives them."""
    text = np.searchsorted(words.starts, position, side="right") - 1
    known = np.searchsorted(index.keys, keys, side="right") > np.searchsorted(index.keys, keys, side="left")
    real = known & (position + length <= words.starts[text + 1])
    first = position - words.starts[text]
    columns = (text, keys.view(np.int64), first, np.full(len(position), length))
    return np.stack([column[real] for column in columns])


def _key_bits(keys: Hashes) -> npt.NDArray[np.uint8]:
    """A table in which the bit is set that the first bits of each key name, eight to the byte."""
    n_bits = max(16, (len(keys) * FILTER_BITS_PER_KEY - 1).bit_length())
    bits = np.zeros(2 ** (n_bits - 3), dtype=np.uint8)
    np.bitwise_or.at(bits, *_byte_and_bit(keys, n_bits))
    return bits


def _may_hold(bits: npt.NDArray[np.uint8], keys: Hashes) -> npt.NDArray[np.bool_]:
    """Whether the bit of each key is set, `(n,)`."""
    byte, bit = _byte_and_bit(keys, len(bits).bit_length() + 2)
    return bits[byte] & bit != 0


def _byte_and_bit(keys: Hashes, n_bits: int) -> tuple[Hashes, npt.NDArray[np.uint8]]:
    position = keys >> np.uint64(64 - n_bits)
    return position >> np.uint64(3), np.uint8(1) << (position & np.uint64(7)).astype(np.uint8)


def _with_length(hashes: Hashes, length: int) -> Hashes:
    """Keys that differ for n-grams of different lengths."""
    return hashes ^ np.uint64(length)


def _not_common(keys: Hashes, items: Numbers, max_items: int) -> tuple[Hashes, Numbers]:
    """Each key and item once, sorted, without the keys of more than `max_items` items."""
    order = np.lexsort((items, keys))
    keys, items = keys[order], items[order]
    is_new = np.ones(len(keys), dtype=bool)
    is_new[1:] = (keys[1:] != keys[:-1]) | (items[1:] != items[:-1])
    keys, items = keys[is_new], items[is_new]
    _, lengths = runs(keys)
    stays = np.repeat(lengths, lengths) <= max_items
    return keys[stays], items[stays]
