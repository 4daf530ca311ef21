"""Which pages a crawl fetches, and how politely."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from ...config import Config, setting
from ..common.addresses import private_kind
from .links import DEFAULT_PORTS, canonical_url, parse_host_port
from .traps import compiled

PYTHON_DOCS = "python-docs"

_CONTACT = re.compile(r"\+?https?://[\w-]+(\.[\w-]+)+|[\w.+-]+@[\w-]+(\.[\w-]+)+")


@dataclass(frozen=True, kw_only=True)
class SiteConfig(Config):
    """A folder of HTML that is served on this machine while it is crawled."""

    folder: str = PYTHON_DOCS
    """A folder with an index.html; or "python-docs": Python's own documentation, found or fetched."""
    port: int = setting(7930, at_least=1024, at_most=65535)
    """Port on 127.0.0.1 at which the folder is served; it is part of the pages' addresses."""


@dataclass(frozen=True, kw_only=True)
class CrawlConfig(Config):
    """Which pages are fetched, and how politely."""

    seeds: tuple[str, ...]
    """Web addresses (http or https) from which links are followed; the crawl stays on their hosts and ports."""
    snapshot: str = setting("1", name="-_.")
    """The name under which this state of the web is kept; a new name makes a new crawl."""
    max_pages: int = setting(10_000, at_least=1)
    """Request at most this many URLs. The hosts share them evenly; on each, those nearest to the seeds come first, in
    order of URL among equally near ones."""
    max_pages_per_host: int | None = setting(None, at_least=1)
    """Request at most this many URLs of one host. Empty: only `max_pages` holds."""
    max_depth: int = setting(20, at_least=0)
    """Follow at most this many links from a seed; 0 fetches the seeds only."""
    max_total_bytes: int = setting(10 * 2**30, at_least=1)
    """Store at most this many bytes of pages in all (before compression); the hosts share them evenly."""
    max_page_bytes: int = setting(10 * 2**20, at_least=1)
    """Refuse a page that is larger than this, in bytes, on the wire or decompressed."""
    timeout_s: float = setting(30.0, at_least=0.1)
    """Give up a request after this many seconds, from the connection to the last byte."""
    allow: tuple[str, ...] = ()
    """Regular expressions; only links with a match of one of them in their address are followed. Empty: all links."""
    deny: tuple[str, ...] = ()
    """Regular expressions; links with a match in their address are not followed, allowed or not."""
    sitemaps: bool = True
    """Whether the pages that a site's sitemaps list are fetched too (those named in robots.txt, and /sitemap.xml)."""
    max_path_repeats: int = setting(3, at_least=1)
    """Refuse an address in whose path a part comes more often in a row than this (/a/b/a/b/a/b/a/b): a trap."""
    max_query_variants: int = setting(500, at_least=1)
    """Request at most this many addresses that differ in their query only (calendars have them without end)."""
    max_seconds: float | None = setting(None, at_least=1)
    """Refuse what is left after this many seconds; the pages then depend on the speed of the site. Empty: no limit."""
    max_retries: int = setting(2, at_least=0, at_most=10)
    """Try a page this many times again after a failure that may pass (timeout, lost connection, HTTP 429 or 5xx)."""
    user_agent: str = "sourdough/0.1"
    """The crawler's name, for sites and robots.txt. For sites that are not your own it must say how you can be reached,
    such as "sourdough/0.1 (+https://example.org/crawler)" or "sourdough/0.1 (me@example.org)"."""
    allow_private: tuple[str, ...] = ()
    """Loopback or private hosts that may be visited, each as 'host:port'; all others are refused."""
    site: SiteConfig | None = None
    """A folder of HTML that is served on this machine for the length of the crawl; empty: the seeds are on the web."""
    delay_s: float = setting(1.0, at_least=0, execution=True)
    """Wait this many seconds between two requests to one host; robots.txt may ask for more."""
    n_connections: int = setting(16, at_least=1, at_most=256, execution=True)
    """Requests under way at the same time, over all hosts."""
    retry_pause_s: float = setting(10.0, at_least=0, at_most=3600, execution=True)
    """Wait this many seconds before a host's failed pages, or its robots.txt, are tried again; then twice as long."""
    reuse_unchanged: bool = setting(True, execution=True)
    """Ask for pages of an earlier crawl of the same seeds only if they have changed, and else take them from there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds:
            raise ValueError("seeds is empty; allowed: one or more http or https addresses")
        for seed in self.seeds:
            if canonical_url(seed, seed) is None:
                raise ValueError(
                    f"seeds: {seed!r} is not an http or https address (without user name and password); "
                    "allowed: such as 'https://docs.example.org/'"
                )
        for host in self.allow_private:
            try:
                parse_host_port(host)
            except ValueError as error:
                raise ValueError(f"allow_private: {error}") from None
        if not self.user_agent.strip() or not self.user_agent.isprintable() or not self.user_agent.isascii():
            raise ValueError(f"user_agent is {self.user_agent!r}; allowed: one line of ASCII that names the crawler")
        compiled("allow", self.allow)
        compiled("deny", self.deny)
        require_contact(self.user_agent, self.seed_urls, self.allow_private)

    @property
    def seed_urls(self) -> tuple[str, ...]:
        """The seeds in the form in which the crawl knows URLs (see `links.canonical_url`), sorted, each once."""
        return tuple(sorted({canonical_url(seed, seed) or seed for seed in self.seeds}))

    @property
    def max_connections_per_host(self) -> int:
        """All connections may go to one host without a delay (one's own, presumably), else two."""
        return min(2, self.n_connections) if self.delay_s else self.n_connections


def require_contact(user_agent: str, seeds: Iterable[str], allow_private: Iterable[str]) -> None:
    """Raises ValueError when seeds (canonical URLs) lie outside of one's own machine or network and nobody is named.

    One's own are the hosts of `allow_private`, and hosts that are by their name on this machine.
    """
    own = {parse_host_port(host) for host in allow_private}
    foreign = [seed for seed in seeds if not _is_own(seed, own)]
    if foreign and not _CONTACT.search(user_agent):
        raise ValueError(
            f"user_agent is {user_agent!r}, but {foreign[0]} is somebody else's and must be able to reach you; "
            f"add an address, such as '{user_agent} (+https://example.org/crawler)' or '{user_agent} (me@example.org)'"
        )


def _is_own(url: str, own: set[tuple[str, int]]) -> bool:
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if (host, parts.port or DEFAULT_PORTS[parts.scheme]) in own or host == "localhost":
        return True
    try:
        return private_kind(host) is not None
    except ValueError:
        return False
