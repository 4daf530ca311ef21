"""URLs of a crawl: their canonical form, the links of a page, and which of them belong to the crawl."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from urllib.parse import urljoin, urlsplit, urlunsplit

from selectolax.lexbor import LexborHTMLParser
from w3lib.url import safe_url_string

from .depth import is_too_deep

MAX_URL_CHARS = 2083
"""Longer URLs are not followed (the limit of old browsers, and of Scrapy's): traps grow them without end."""

DEFAULT_PORTS = {"http": 80, "https": 443}


class Scope:
    """The hosts and ports of the seeds (canonical URLs).

    The default ports of http and https count as one, because sites redirect from the one to the other.
    """

    def __init__(self, seeds: Iterable[str]) -> None:
        self._places = {_place(seed) for seed in seeds}
        self.ports = frozenset(urlsplit(seed).port or DEFAULT_PORTS[urlsplit(seed).scheme] for seed in seeds)

    def contains(self, url: str) -> bool:
        """Whether a canonical URL lies on one of the seeds' hosts."""
        return _place(url) in self._places


def _place(url: str) -> tuple[str, int | None]:
    """Host and port of a canonical URL, None for the default port."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port


def canonical_url(base: str, href: str) -> str | None:
    """The absolute http(s) URL of a link without its fragment; None for links that are not followed.

    Host in lower case, default port and surrounding space removed, an empty path made "/", unsafe characters escaped:
    the form in which Scrapy requests it. Links with a user name or password are not followed.
    """
    try:
        return _canonical(urljoin(base, href.strip()))
    except ValueError:
        return None


@functools.lru_cache(maxsize=2**16)
def _canonical(url: str) -> str | None:
    """Cached, because the pages of a site link to the same places; escaping is the costly part (30 us a link)."""
    parts = urlsplit(safe_url_string(url))
    port = parts.port
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.username is not None:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = host if port in (None, DEFAULT_PORTS[parts.scheme]) else f"{host}:{port}"
    url = urlunsplit((parts.scheme, netloc, parts.path or "/", parts.query, ""))
    return url if len(url) <= MAX_URL_CHARS else None


def page_links(url: str, body: bytes, scope: Scope) -> tuple[str, ...]:
    """The canonical URLs within `scope` that a page links to, in order of first appearance."""
    if is_too_deep(body.decode("latin-1")):
        return ()  # the parser would take minutes
    tree = LexborHTMLParser(body)
    base = tree.css_first("base[href]")
    base_url = (canonical_url(url, base.attributes.get("href") or "") if base is not None else None) or url
    # Most links of a page differ in their fragment only: they are made one before the costly part.
    hrefs = dict.fromkeys((a.attributes.get("href") or "").partition("#")[0] for a in tree.css("a[href]"))
    found = dict.fromkeys(canonical_url(base_url, href) for href in hrefs if href)
    return tuple(link for link in found if link is not None and scope.contains(link))


def parse_host_port(text: str) -> tuple[str, int]:
    """Host (lower case, no brackets) and port of "host:port"; raises ValueError for any other form."""
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if not parts.hostname or port is None or parts.path or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{text!r} is not allowed; allowed: 'host:port', such as '127.0.0.1:8000' or '[::1]:8000'")
    return parts.hostname.rstrip("."), port
