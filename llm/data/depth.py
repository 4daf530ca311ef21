"""Pages nested so deep that no parser should be given them."""

from __future__ import annotations

import re
from collections import Counter

MAX_UNCHECKED_TAGS, MAX_DEPTH = 10_000, 1_000
"""The HTML standard's parser takes time quadratic in the depth: 200,000 nested elements took three minutes here."""

_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9:-]*)")
# Elements that do not nest in themselves: void ones, and those that the next sibling or the parent's end closes.
_UNNESTED_TAGS = frozenset(
    re.findall(
        r"\w+",
        """area base br col colgroup dd dt embed hr img input li link meta
        optgroup option p param path source tbody td tfoot th thead tr track wbr""",
    )
)


def is_too_deep(source: str) -> bool:
    """Whether elements nest so deep that parsing would take minutes (an estimate: tags in comments count too)."""
    if source.count("<") <= MAX_UNCHECKED_TAGS:
        return False
    n_open: Counter[str] = Counter()
    depth = 0
    for closing, tag in _TAG.findall(source):
        name = tag.lower()
        if closing and n_open[name] > 0:
            n_open[name] -= 1
            depth -= 1
        elif not closing and name not in _UNNESTED_TAGS:
            n_open[name] += 1
            depth += 1
            if depth > MAX_DEPTH:
                return True
    return False
