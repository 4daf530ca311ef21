"""Quality filters: small functions with a paper's limits as their parameters. Each says which rule a text breaks."""

from __future__ import annotations

from dataclasses import dataclass

from ....config import Config
from .c4 import C4, c4
from .fineweb import FineWeb, fineweb
from .gopher import GopherQuality, GopherRepetition, gopher_quality, gopher_repetition
from .parts import Failure, TextParts


@dataclass(frozen=True, kw_only=True)
class Filters(Config):
    """Which quality filters run, in this order; null is off. `{}` takes the limits of the paper."""

    gopher_repetition: GopherRepetition | None = None
    """Drop what repeats itself (Rae et al. 2021)."""

    gopher_quality: GopherQuality | None = None
    """Drop what is no running text (Rae et al. 2021)."""

    c4: C4 | None = None
    """Remove lines that are no sentences, and drop what is left with too few (Raffel et al. 2020)."""

    fineweb: FineWeb | None = None
    """Drop lists and fragments (Penedo et al. 2024)."""


def apply_filters(text: str, language: str, filters: Filters) -> tuple[str, Failure | None]:
    """Returns the text after the filters (C4 removes lines), and the first broken rule, None for a good text.

    `language` is an ISO code, "" if unknown.
    """
    parts = TextParts(text, language)
    failure = gopher_repetition(parts, filters.gopher_repetition) if filters.gopher_repetition else None
    if not failure and filters.gopher_quality:
        failure = gopher_quality(parts, filters.gopher_quality)
    if not failure and filters.c4:
        text, failure = c4(text, filters.c4)
        parts = TextParts(text, language)
    if not failure and filters.fineweb:
        failure = fineweb(parts, filters.fineweb)
    return text, failure
