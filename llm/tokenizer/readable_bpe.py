"""Byte pair encoding from scratch, to be read beside the textbooks; the pipeline uses `tokenizer.py`.

Training: write every piece of text (a word with the space before it) as bytes; then again and again replace the pair of
neighbouring tokens that occurs most often by one new token. Encoding: write a piece as bytes and do the same
replacements, those learnt first coming first (Gage 1994; Sennrich, Haddow and Birch 2016, algorithm 1).

Same merges and same ids as `Tokenizer.train` and `Tokenizer.encode`, which the tests hold. What is left out is speed:
this code counts all pairs again after every merge, so it suits some 100 kB of text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import tokenizers
from tokenizers import pre_tokenizers

from .tokenizer import MIN_PAIR_COUNT, MIN_VOCAB_SIZE, SPECIAL_TOKENS, SPLIT_PATTERN

Pair = tuple[int, int]
"""The ids of two tokens that stand side by side."""


def _is_printable(byte: int) -> bool:
    """Whether a byte, read as Latin-1, is a visible character (GPT-2's list, which leaves out the soft hyphen)."""
    return 33 <= byte <= 126 or (161 <= byte <= 255 and byte != 173)


# The files of `tokenizers` spell bytes with visible characters. In their order the bytes get their ids.
BYTE_ORDER = sorted(range(256), key=lambda byte: (not _is_printable(byte), byte))
FIRST_BYTE_ID = len(SPECIAL_TOKENS)


@dataclass
class ReadableBPE:
    """A vocabulary.

    `tokens`: the bytes that each id stands for; ids 0 to 5 are the special tokens and stand for none. `merges`: the
    pairs that become one token and the id of that token, in the order learnt.
    """

    tokens: list[bytes] = field(default_factory=lambda: [b""] * FIRST_BYTE_ID + [bytes([byte]) for byte in BYTE_ORDER])
    merges: dict[Pair, int] = field(default_factory=dict)

    @staticmethod
    def train(texts: Iterable[str], vocab_size: int) -> ReadableBPE:
        """Returns a vocabulary of `vocab_size` tokens, or of fewer when no pair occurs twice any more.

        Raises ValueError when `vocab_size` has no room for the special tokens and the bytes.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise ValueError(f"vocab_size is {vocab_size}; allowed: {MIN_VOCAB_SIZE} (special tokens, bytes) or more")
        bpe = ReadableBPE()
        pieces = Counter(piece for text in texts for piece in split(text))
        words = {tuple(byte_ids(piece)): count for piece, count in pieces.items()}
        while len(bpe.tokens) < vocab_size:
            pairs = count_pairs(words)
            pair = most_frequent(pairs)
            if pairs[pair] < MIN_PAIR_COUNT:
                break
            new_id = bpe._add_merge(pair)
            words = {tuple(merge(word, pair, new_id)): count for word, count in words.items()}
        return bpe

    def _add_merge(self, pair: Pair) -> int:
        """Records a merge and returns the id of its token; "a" + "bc" is the same token as "ab" + "c"."""
        token = self.tokens[pair[0]] + self.tokens[pair[1]]
        if token not in self.tokens:
            self.tokens.append(token)
        self.merges[pair] = self.tokens.index(token)
        return self.merges[pair]

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text."""
        return [token for piece in split(text) for token in self._encode_piece(piece)]

    def _encode_piece(self, piece: str) -> list[int]:
        """Merges one pair at a time: the one learnt first, and of several such the leftmost."""
        rank = {pair: i for i, pair in enumerate(self.merges)}
        ids = byte_ids(piece)
        while True:
            ranked = [(rank[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in rank]
            if not ranked:
                return ids
            _, i = min(ranked)
            ids[i : i + 2] = [self.merges[ids[i], ids[i + 1]]]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids; bytes that are not UTF-8 (half a character) become U+FFFD."""
        return b"".join(self.tokens[i] for i in ids).decode(errors="replace")


def split(text: str) -> list[str]:
    """Returns the pieces of a text, of which no token covers two: words with the space before them, numbers, ..."""
    splitter = pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated")
    return [piece for piece, _ in splitter.pre_tokenize_str(text)]


def byte_ids(piece: str) -> list[int]:
    """Returns a piece as UTF-8 bytes, each with the id of its token."""
    return [FIRST_BYTE_ID + BYTE_ORDER.index(byte) for byte in piece.encode()]


def count_pairs(words: dict[tuple[int, ...], int]) -> Counter[Pair]:
    """Returns how often each pair of neighbours occurs in the words, which are given with their own counts."""
    pairs: Counter[Pair] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs


def most_frequent(pairs: Counter[Pair]) -> Pair:
    """Returns the pair that occurs most often, of equally frequent ones that with the lowest ids.

    (0, 0) if there is none.
    """
    return min(pairs, key=lambda pair: (-pairs[pair], pair), default=(0, 0))


def merge(word: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """Returns the word with every occurrence of the pair replaced by `new_id`, from left to right."""
    merged: list[int] = []
    i = 0
    while i < len(word):
        if tuple(word[i : i + 2]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return merged
