"""A URL of a crawl on its way: handed out as a row, and back as a page or as a refusal with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

PAGE, SITEMAP, GUESSED_SITEMAP = 0, 1, 2
"""What a URL is thought to hold. A guessed sitemap (`/sitemap.xml`) is not counted: most sites have none."""

READ = "sitemap"
"""The reason of a sitemap that was read: it gave its links and is neither a page nor a loss."""


class Row(NamedTuple):
    """A URL handed out to be fetched; `host` has a port where the URL has one, `attempts` counts failed tries."""

    id: int
    url: str
    host: str
    depth: int
    attempts: int
    kind: int = PAGE


@dataclass(frozen=True)
class Refusal:
    """Why a URL gave no page: a short class, the detail in words, and whether another try may help.

    `links` are pages that are to be crawled all the same (the target of a redirect, the links of a page that asks not
    to be indexed), `sitemaps` are sitemaps to be read.
    """

    reason: str
    detail: str = ""
    transient: bool = False
    links: tuple[str, ...] = ()
    sitemaps: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Reason and detail in one line."""
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(frozen=True)
class FetchedPage:
    """A page to be stored; `links` are canonical URLs to be crawled, `fetched_at` is in ms since 1970.

    `canonical` is the URL that the page names as its own, None if that is where it was found. `reused` says that the
    body is that of an earlier crawl, because the server said that it had not changed.
    """

    row: Row
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    links: tuple[str, ...]
    fetched_at: int
    canonical: str | None = None
    reused: bool = False

    def header(self, name: str) -> str:
        """Returns the value of a header, "" if absent."""
        return next((value for known, value in self.headers if known.lower() == name), "")
