"""Which blocks of a labelled page are its main content: of each the share of its words that are in the marked text."""

from __future__ import annotations

from collections import Counter

from .pages import word_list

NGRAM = 4
"""Words in sequence that show that a block is part of the marked text, and not only uses the same words."""

SHORT_SHARES = {1: 0.3, 2: 0.55, 3: 0.6}
"""What a block of so few words counts when they occur in the marked text, but not as a line."""

Words = tuple[str, ...]


def block_labels(texts: list[str], truth: str) -> list[float]:
    """For each block, from 0 to 1, how much of it is in `truth`."""
    blocks = [tuple(word_list(text)) for text in texts]
    shares = _shares(blocks, truth)
    surroundings = _Surroundings(blocks, shares)
    labels = [
        float(_is_content(share, surroundings.content_share(i))) if 0 < len(block) < NGRAM and share > 0 else share
        for i, (block, share) in enumerate(zip(blocks, shares, strict=True))
    ]
    _drop_copies(blocks, labels, word_list(truth), surroundings)
    return labels


def _shares(blocks: list[Words], truth: str) -> list[float]:
    """For each block the share of its words in n-grams of `truth`; short blocks not alone on a line get less."""
    words = word_list(truth)
    ngrams = {n: {tuple(words[i : i + n]) for i in range(len(words) - n + 1)} for n in range(1, NGRAM + 1)}
    lines = {tuple(word_list(line)) for line in truth.split("\n")}
    shares = []
    for block in blocks:
        share = _covered(block, ngrams[min(NGRAM, len(block))]) if block else 0.0
        if len(block) < NGRAM and block not in lines:
            share *= SHORT_SHARES.get(len(block), 0.0)
        shares.append(share)
    return shares


def _covered(block: Words, ngrams: set[Words]) -> float:
    n = min(NGRAM, len(block))
    covered = [False] * len(block)
    for i in range(len(block) - n + 1):
        if block[i : i + n] in ngrams:
            covered[i : i + n] = [True] * n
    return sum(covered) / len(block)


def _is_content(share: float, content_around: float) -> bool:
    """Whether a short block that occurs in the marked text is part of it, judged by what stands around."""
    return (share >= 0.99 and content_around > 0.2) or (share > 0.25 and content_around > 0.6)


class _Surroundings:
    """How much of what stands around a block is main content without doubt."""

    def __init__(self, blocks: list[Words], shares: list[float]) -> None:
        self._content = [
            min(len(block), 30) if share > 0.7 and len(block) >= NGRAM else 0
            for block, share in zip(blocks, shares, strict=True)
        ]
        self._other = [
            min(len(block), 30) if share < 0.3 and len(block) >= 2 else 0
            for block, share in zip(blocks, shares, strict=True)
        ]

    def content_share(self, i: int, reach: int = 4) -> float:
        """The share of content words in up to `reach` blocks on each side, drawn towards 1/2 where there are few."""
        near = slice(max(0, i - reach), i + reach + 1)
        content, other = sum(self._content[near]), sum(self._other[near])
        return (content + 1) / (content + other + 2)


def _drop_copies(blocks: list[Words], labels: list[float], truth: list[str], surroundings: _Surroundings) -> None:
    """Sets labels of copies to 0 that stand more often in the page than in the marked text, the farthest off first."""
    wanted = Counter(truth)
    kept = [i for i, label in enumerate(labels) if label > 0.5]
    found = Counter(word for i in kept for word in blocks[i])
    copies = Counter(blocks[i] for i in kept)
    for i in sorted((i for i in kept if copies[blocks[i]] > 1), key=lambda i: surroundings.content_share(i, 6)):
        block = blocks[i]
        n_surplus = sum(found[word] > wanted[word] for word in block)
        if copies[block] > 1 and n_surplus > 0.7 * len(block):
            labels[i] = 0.0
            copies[block] -= 1
            found.subtract(block)
