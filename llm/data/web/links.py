"""URLs of a crawl: their canonical form, and which of them belong to the crawl."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from urllib.parse import urljoin, urlsplit, urlunsplit

from w3lib.url import safe_url_string

MAX_URL_CHARS = 2083
"""Longer URLs are not followed (the limit of old browsers, and of Scrapy's): traps grow them without end."""

_PLAIN = re.compile(r"(?!\.)[\w-]+(/[\w-]+)*(\.[a-z]+)?")
"""A relative path of plain names, which the standard's joining (slower by ten times) would only append."""

CUT = "#"
"""Ends a URL that was cut; no canonical URL has a fragment, so it equals none that could be fetched."""

DEFAULT_PORTS = {"http": 80, "https": 443}


class Scope:
    """The hosts and ports of the seeds (canonical URLs).

    The default ports of http and https count as one, because sites redirect from the one to the other.
    """

    def __init__(self, seeds: Iterable[str]) -> None:
        self._hosts = {_host_and_port(seed) for seed in seeds}
        self.ports = frozenset(urlsplit(seed).port or DEFAULT_PORTS[urlsplit(seed).scheme] for seed in seeds)

    def contains(self, url: str) -> bool:
        """Returns whether a canonical URL lies on one of the seeds' hosts."""
        return _host_and_port(url) in self._hosts


@functools.lru_cache(maxsize=2**16)
def host_of(url: str) -> str:
    """Returns the host of a URL, with its port where it has one."""
    return urlsplit(url).netloc


@functools.lru_cache(maxsize=2**16)
def _host_and_port(url: str) -> tuple[str, int | None]:
    """Returns the host and port of a canonical URL, None for the default port."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port


def canonical_url(base: str, href: str) -> str | None:
    """Returns the absolute http(s) URL of a link without its fragment; None for links that are not followed.

    Host in lower case, default port and surrounding space removed, an empty path made "/", unsafe characters escaped:
    the form in which Scrapy requests it. Links with a user name or password are not followed.
    """
    url = canonical_or_cut(base, href)
    return None if url is None or is_cut(url) else url


def canonical_or_cut(base: str, href: str) -> str | None:
    """Returns `canonical_url`, but of a URL that is too long its first characters and a mark (see `is_cut`)."""
    href = href.strip()
    if len(href) <= MAX_URL_CHARS:
        return _canonical_or_none(base, href)
    url = _canonical_or_none(base, href[:MAX_URL_CHARS])
    return url and url[:MAX_URL_CHARS].removesuffix(CUT) + CUT


def is_cut(url: str) -> bool:
    """Returns whether a URL is the beginning of one that is too long."""
    return url.endswith(CUT)


def _canonical_or_none(base: str, href: str) -> str | None:
    try:
        if "?" not in base and _PLAIN.fullmatch(href):
            return _canonical(base[: base.rindex("/") + 1] + href)
        return _canonical(urljoin(base, href))
    except ValueError:
        return None


@functools.lru_cache(maxsize=2**16)
def _canonical(url: str) -> str | None:
    """Caches the result, as the pages of a site link to the same URLs; escaping is the costly part (30 us a link)."""
    parts = urlsplit(safe_url_string(url))
    port = parts.port
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.username is not None:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = host if port in (None, DEFAULT_PORTS[parts.scheme]) else f"{host}:{port}"
    url = urlunsplit((parts.scheme, netloc, parts.path or "/", parts.query, ""))
    return url if len(url) <= MAX_URL_CHARS else url[:MAX_URL_CHARS] + CUT


def parse_host_port(text: str) -> tuple[str, int]:
    """Returns the host (lower case, no brackets) and port of "host:port"; raises ValueError for any other form."""
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if not parts.hostname or port is None or parts.path or parts.query or parts.fragment or parts.username is not None:
        shown = text.rpartition("@")[2]  # what stands before may be a password
        raise ValueError(f"{shown!r} is not allowed; allowed: 'host:port', such as '127.0.0.1:8000' or '[::1]:8000'")
    return parts.hostname.rstrip("."), port
