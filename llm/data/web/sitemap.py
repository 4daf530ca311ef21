"""Sitemaps (sitemaps.org): lists of a site's pages, or of further sitemaps, as XML or as text, possibly gzipped.

They are read like HTML, not like XML: what looks like an entry counts, whatever stands around it. So broken files give
what they have, and entities and external references, with which XML can be made to explode, mean nothing.
"""

from __future__ import annotations

import html
import re
import zlib
from typing import NamedTuple
from urllib.parse import urlsplit

MAX_ENTRIES = 50_000
"""Entries that are read of one sitemap: the limit of sitemaps.org."""

GZIP_MAGIC = b"\x1f\x8b"
_ENTRY = re.compile(rb"<loc\s*>\s*(?:<!\[CDATA\[)?\s*([^<>\]\s]{1,8000})\s*(?:\]\]>)?\s*</loc", re.IGNORECASE)
_INDEX = re.compile(rb"<sitemapindex\b", re.IGNORECASE)
_XML = re.compile(rb"<(?:\?xml|urlset|sitemapindex)\b", re.IGNORECASE)
_TEXT_LINE = re.compile(rb"^[ \t]*(https?://\S{1,8000})[ \t\r]*$", re.MULTILINE)
_NAME = re.compile(r"sitemap[^/]*$|\.xml(\.gz)?$", re.IGNORECASE)


class Sitemap(NamedTuple):
    """What a sitemap lists, as it stands there: addresses of pages, or (`is_index`) of sitemaps."""

    entries: tuple[str, ...]
    is_index: bool


def parse_sitemap(body: bytes, max_bytes: int) -> Sitemap | None:
    """Returns the entries of a sitemap, the first 50,000; None for what is no sitemap.

    Raises ValueError for one of more than `max_bytes` after decompression, zlib.error for a damaged one.
    """
    text = gunzip(body, max_bytes)
    is_xml = _XML.search(text[:4096]) is not None
    found = []
    for match in (_ENTRY if is_xml else _TEXT_LINE).finditer(text):
        found.append(html.unescape(match[1].decode("utf-8", errors="replace")))
        if len(found) == MAX_ENTRIES:
            break
    if not found and not is_xml:
        return None
    return Sitemap(tuple(found), is_xml and _INDEX.search(text[:4096]) is not None)


def gunzip(body: bytes, max_bytes: int) -> bytes:
    """Returns the content of a gzip file, or `body` as it is.

    Raises ValueError for more than `max_bytes`, or gzip in gzip.
    """
    if not body.startswith(GZIP_MAGIC):
        return body
    decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)
    content = decompressor.decompress(body, max_bytes)
    if decompressor.unconsumed_tail or content.startswith(GZIP_MAGIC):
        raise ValueError(f"more than {max_bytes} bytes")
    return content


def guessed_sitemap(url: str) -> str:
    """Returns where the site of a URL has its sitemap if it follows the custom."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/sitemap.xml"


def looks_like_sitemap(url: str) -> bool:
    """Returns whether the name of a file is one of a sitemap."""
    return _NAME.search(urlsplit(url).path) is not None
