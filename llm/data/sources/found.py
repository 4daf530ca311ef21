"""What a reader finds in a file: a page, a text, or something that cannot be used, with the reason."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from ..common.texts import TextRecord

MAX_RECORD_BYTES = 32 * 2**20
"""A larger record is skipped: it is no page and no document, and would cost every worker its memory."""


@dataclass(frozen=True)
class FoundPage:
    """A web page; `member` is its WARC record as one gzip member, whose HTTP body is `body` byte for byte."""

    url: str
    status: int
    content_type: str
    body: bytes
    member: bytes


@dataclass(frozen=True)
class Skipped:
    """Records that could not be used.

    `place` says where in the file ("byte 1200", "line 7"), `reason` is one of a few words under which they are counted,
    `detail` says more. `n_records` is above 1 where a whole block of known size is unreadable.
    """

    place: str
    reason: str
    detail: str = ""
    n_records: int = 1


Found = FoundPage | TextRecord | Skipped


def decoded(data: bytes) -> str | None:
    """Returns the UTF-8 text, without the byte order mark that some editors put first; None for anything else."""
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError:
        return None


def is_unicode(text: str) -> bool:
    """Returns whether the text can be written as UTF-8: JSON may hold half a surrogate pair, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
