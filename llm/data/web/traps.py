"""Which links are followed: the recipe's patterns, and guards against sites that grow addresses without end."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from .links import MAX_URL_CHARS, is_cut

MAX_PATH_SEGMENTS = 20
"""Deeper paths are not followed (Heritrix's TooManyPathSegments rule has the same limit)."""

MAX_BLOCK = 4
"""Longest block of path segments whose repetition is looked for, as in `/a/b/a/b/a/b`."""


class LinkRules:
    """Says why a link is not followed. The rules look at the URL alone, so the order of discovery plays no part."""

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = (), max_path_repeats: int = 3) -> None:
        """Takes regular expressions, searched for in the URL; without `allow`, all may pass."""
        self._allow, self._deny = compiled("allow", allow), compiled("deny", deny)
        self._max_path_repeats = max_path_repeats
        self.rejection_reason = functools.lru_cache(maxsize=2**16)(self._rejection_reason)

    def _rejection_reason(self, url: str) -> tuple[str, str] | None:
        """Returns the reason and detail of the refusal of a canonical URL; None when it may be followed."""
        if is_cut(url):
            return "url too long", f"more than {MAX_URL_CHARS} characters"
        if denied := next((pattern.pattern for pattern in self._deny if pattern.search(url)), None):
            return "denied", f"by the pattern {denied}"
        if self._allow and not any(pattern.search(url) for pattern in self._allow):
            return "not allowed", "by any pattern"
        return self._trap(urlsplit(url).path.split("/")[1:])

    def _trap(self, segments: list[str]) -> tuple[str, str] | None:
        if len(segments) > MAX_PATH_SEGMENTS:
            return "trap", f"the path has more than {MAX_PATH_SEGMENTS} parts"
        if n_repeats(segments) > self._max_path_repeats:
            return "trap", f"a part of the path comes more than {self._max_path_repeats} times in a row"
        return None


def n_repeats(segments: list[str]) -> int:
    """Returns how many times a block of up to four path segments stands in a row, at most: 3 in `/x/a/b/a/b/a/b`."""
    most = 1
    for size in range(1, MAX_BLOCK + 1):
        n_equal = 0
        for first, second in zip(segments, segments[size:], strict=False):
            n_equal = n_equal + 1 if first == second else 0
            most = max(most, 1 + n_equal // size)
    return most


def compiled(field: str, patterns: Iterable[str]) -> list[re.Pattern[str]]:
    """Returns the patterns, ready for use.

    Raises ValueError that names `field` for one that is no regular expression.
    """
    found = []
    for pattern in patterns:
        try:
            found.append(re.compile(pattern))
        except re.error as error:
            raise ValueError(
                f"{field}: {pattern!r} is no regular expression ({error}); "
                "allowed: such as '/docs/' or '\\.html$', searched for in the whole address"
            ) from None
    return found
