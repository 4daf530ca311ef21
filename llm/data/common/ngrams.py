"""Words and word n-grams of many texts at once, as arrays of 64-bit hashes; no Python object is made for a word.

A word is what stands between white space. Scripts written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese,
Tibetan) have none, so there every character is a word. Case does not count.

The hash of a word is a polynomial of its bytes, modulo 2^64, and that of an n-gram a polynomial of its words' hashes:
both are sums over a slice, which numpy takes for a whole batch at once. Of a billion different hashes two are equal
with a chance of 1 in 37; they keep nobody from making two texts of equal hash on purpose.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

BATCH_CHARS = 2**18
"""Characters hashed at once: the arrays of a batch fit into the processor's cache."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so it has an inverse modulo 2^64
_INVERSE = np.uint64(pow(int(_MULTIPLIER), -1, 2**64))
_BYTE_VALUES: Hashes = np.random.RandomState(1).randint(1, 2**64, 256, dtype=np.uint64)
_IS_SPACE = np.isin(np.arange(256), list(b" \t\n\v\f\r\x1c\x1d\x1e\x1f"))
_IS_LETTER = np.array([byte >= 128 or chr(byte).isalnum() for byte in range(256)])

_SPACELESS = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_SPACES = "\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_NEEDS_SPACES = re.compile(f"[{_SPACES}{_SPACELESS}]")
_SPACELESS_CHARACTER = re.compile(f"([{_SPACELESS}])")
_OTHER_SPACE = re.compile(f"[{_SPACES}]")
_OTHER_PUNCTUATION = re.compile(r"[^\w\s\x00-\x7f]")


@dataclass(frozen=True)
class Words:
    """The words of some texts.

    `hashes` is `(n_words,)`; text `i` has those from `starts[i]` to `starts[i + 1]`, so `starts` is `(n_texts + 1,)`.
    """

    hashes: Hashes
    starts: Offsets


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yields consecutive texts in lists of about `BATCH_CHARS` characters; a longer text is a list of its own."""
    batch: list[str] = []
    n_chars = 0
    for text in texts:
        if batch and n_chars + len(text) > BATCH_CHARS:
            yield batch
            batch, n_chars = [], 0
        batch.append(text)
        n_chars += len(text)
    if batch:
        yield batch


def split_words(text: str, *, punctuation: bool = True) -> list[str]:
    """Returns the words of one text, lower-cased, in order: those that `hash_words` hashes.

    Without `punctuation`, a word is a run of letters and digits.
    """
    text = _spaced(text, punctuation=punctuation)
    return text.split() if punctuation else re.findall(r"[A-Za-z0-9\x80-\U0010ffff]+", text)


def hash_words(texts: Sequence[str], *, punctuation: bool = True) -> Words:
    """Returns the hashed words of every text; without `punctuation` only letters and digits make words."""
    encoded = [_spaced(text, punctuation=punctuation).encode("utf-8", "surrogatepass") for text in texts]
    data = np.frombuffer(b"\n".join([b"", *encoded, b""]), dtype=np.uint8)  # (n_bytes,), begins and ends with "\n"
    in_word = ~_IS_SPACE[data] if punctuation else _IS_LETTER[data]
    edges = np.flatnonzero(in_word[1:] != in_word[:-1]) + 1
    first, end = edges[::2], edges[1::2]  # (n_words,) each
    powers, inverses = _powers(len(data))
    sums = np.zeros(len(data) + 1, dtype=np.uint64)
    np.cumsum(_BYTE_VALUES[data] * powers[: len(data)], out=sums[1:])
    hashes = mix((sums[end] - sums[first]) * inverses[first])
    lengths = np.array([len(text) + 1 for text in encoded], dtype=np.int64)
    text_starts = np.concatenate([[0], np.cumsum(lengths)])  # where each text's leading "\n" is
    return Words(hashes, np.searchsorted(first, text_starts).astype(np.int64))


def hash_texts(words: Words) -> Hashes:
    """Returns one hash for each text, `(n_texts,)`, equal for texts of the same words in the same order."""
    n_words = len(words.hashes)
    powers, inverses = _powers(n_words + 1)
    sums = np.zeros(n_words + 1, dtype=np.uint64)
    np.cumsum(words.hashes * powers[:n_words], out=sums[1:])
    first, end = words.starts[:-1], words.starts[1:]
    return mix((sums[end] - sums[first]) * inverses[first])


def hash_ngrams(words: Words, n: int) -> Hashes:
    """Returns the hash of the `n` words from each word on, `(n_words - n + 1,)`, even into the next text."""
    return next(hash_ngrams_of(words, [n]))


def hash_ngrams_of(words: Words, lengths: Sequence[int]) -> Iterator[Hashes]:
    """Yields what `hash_ngrams` gives for each of some lengths, which are ascending, in one go."""
    hashes = words.hashes
    for n in range(1, max(lengths, default=0) + 1):
        if n > 1:
            hashes = hashes[:-1] * _MULTIPLIER + words.hashes[n - 1 :]
        if n in lengths:
            yield hashes


def hash_shingles(words: Words, n: int) -> tuple[Hashes, Offsets]:
    """Returns the hashed word n-grams of each text, repeated ones too, and where each text's begin, `(n_texts + 1,)`.

    A text of fewer than `n` words is its own only n-gram, so every text has at least one.
    """
    n_words = np.diff(words.starts)
    counts = np.maximum(n_words - n + 1, 1)
    starts = np.concatenate([[0], np.cumsum(counts)])
    ngrams = hash_ngrams(words, n)
    position = np.repeat(words.starts[:-1] - starts[:-1], counts) + np.arange(starts[-1])  # first word of each
    shingles = ngrams[np.minimum(position, len(ngrams) - 1)] if len(ngrams) else np.zeros(starts[-1], dtype=np.uint64)
    is_short = n_words < n
    shingles[starts[:-1][is_short]] = hash_texts(words)[is_short]
    return shingles, starts


def mix(hashes: Hashes) -> Hashes:
    """Spreads every bit of a 64-bit number over all its bits: the finalizer of MurmurHash3 (Appleby, 2011)."""
    hashes = hashes ^ (hashes >> np.uint64(33))
    hashes *= np.uint64(0xFF51AFD7ED558CCD)
    hashes ^= hashes >> np.uint64(33)
    hashes *= np.uint64(0xC4CEB9FE1A85EC53)
    hashes ^= hashes >> np.uint64(33)
    return hashes


def _spaced(text: str, *, punctuation: bool) -> str:
    """The text in lower case with ASCII spaces between its words."""
    text = text.lower()
    if text.isascii():
        return text
    if not punctuation:
        text = _OTHER_PUNCTUATION.sub(" ", text)
    if _NEEDS_SPACES.search(text):
        text = _SPACELESS_CHARACTER.sub(r" \1 ", _OTHER_SPACE.sub(" ", text))
    return text


def _powers(n: int) -> tuple[Hashes, Hashes]:
    """Powers 0 to at least `n - 1` of the multiplier and of its inverse."""
    return _power_tables(max(16, (n - 1).bit_length()))


@functools.lru_cache(maxsize=2)
def _power_tables(n_bits: int) -> tuple[Hashes, Hashes]:
    tables = []
    for base in (_MULTIPLIER, _INVERSE):
        table = np.full(2**n_bits, base, dtype=np.uint64)
        table[0] = 1
        tables.append(np.multiply.accumulate(table))
    return tables[0], tables[1]
