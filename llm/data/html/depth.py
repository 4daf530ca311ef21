"""Pages nested so deep that no parser should be given them."""

from __future__ import annotations

import numpy as np

MAX_UNCHECKED_TAGS, MAX_DEPTH = 10_000, 1_000
"""The HTML standard's parser takes time quadratic in the depth: 200,000 nested elements took three minutes here."""

NAME_BYTES = 8
"""Elements are told apart by so many characters of their name, which fit into a 64-bit number."""

# Elements that do not nest in themselves: void ones, and those that the next sibling or the parent's end closes.
_UNNESTED_TAGS = """area base br col colgroup dd dt embed hr img input li link meta
    optgroup option p param path source tbody td tfoot th thead tr track wbr"""


def is_too_deep(source: str) -> bool:
    """Returns whether elements nest so deep that parsing takes minutes (an estimate: tags in comments count too)."""
    if source.count("<") <= MAX_UNCHECKED_TAGS:
        return False
    names, is_end = _tags(source)
    steps = np.where(is_end, -1, 1)
    order = np.argsort(names, kind="stable")
    kinds, first = np.unique(names[order], return_index=True)
    for name, positions in zip(kinds.tolist(), np.split(order, first[1:]), strict=False):
        # An end tag without its start tag closes nothing, so the number of open elements never falls below zero.
        n_open = np.cumsum(steps[positions])
        n_open -= np.minimum(np.minimum.accumulate(n_open), 0)
        steps[positions] = 0 if name in _UNNESTED else np.diff(n_open, prepend=0)
    return steps.size > 0 and bool(np.cumsum(steps).max() > MAX_DEPTH)


def _tags(source: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the names of all tags in order, as numbers, and which of them are end tags; each of shape (n,)."""
    text = source.encode(errors="replace") + bytes(NAME_BYTES + 2)
    letters = np.frombuffer(text, dtype=np.uint8)
    starts = np.flatnonzero(letters[: -NAME_BYTES - 2] == ord("<")) + 1
    is_end = letters[starts] == ord("/")
    eight = np.ndarray((len(text) - NAME_BYTES + 1,), dtype="<u8", buffer=text, strides=(1,))[starts + is_end]
    name = _NAME_LETTERS[eight.view(np.uint8).reshape(-1, NAME_BYTES)]  # (n, 8)
    for position in range(1, NAME_BYTES):
        name[:, position] *= name[:, position - 1] != 0  # nothing after the name's end
    is_tag = name[:, 0] >= ord("a")
    return name[is_tag].view("<u8")[:, 0], is_end[is_tag]


def _name_letters() -> np.ndarray:
    """Returns for each byte, the same in lower case if it may stand in a name, else 0; shape (256,)."""
    table = np.zeros(256, dtype=np.uint8)
    for letter in b"abcdefghijklmnopqrstuvwxyz0123456789:-":
        table[letter] = table[chr(letter).upper().encode()[0]] = letter
    return table


_NAME_LETTERS = _name_letters()
_UNNESTED = frozenset(int.from_bytes(tag.encode()[:NAME_BYTES], "little") for tag in _UNNESTED_TAGS.split())
