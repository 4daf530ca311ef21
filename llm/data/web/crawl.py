"""The crawl stage: fetches a web site into WARC files, in a process of its own (`python -m llm.data.web.crawl`).

The crawl keeps its state in the job's work directory (see frontier.py for what holds after a kill) and is exported into
the output directory when it is complete.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ...config import Config, from_dict, setting
from ...counts import Counts
from ...process import MetricsLog, Stopped, run_job
from ..warc import write_crawl
from .frontier import Frontier
from .links import canonical_url, parse_host_port
from .outcome import Refusal
from .politeness import require_contact
from .revisit import EarlierCrawl
from .site import SiteConfig
from .traps import compiled

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CrawlConfig(Config):
    """Which pages are fetched, and how politely."""

    seeds: tuple[str, ...]
    """Web addresses (http or https) from which links are followed; the crawl stays on their hosts and ports."""
    snapshot: str = "1"
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
    """Loopback or private places that may be visited, each as 'host:port'; all others are refused."""
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
            _check_seed(seed)
        for place in self.allow_private:
            try:
                parse_host_port(place)
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


def _check_seed(seed: str) -> None:
    if canonical_url(seed, seed) is None:
        raise ValueError(
            f"seeds: {seed!r} is not an http or https address (without user name and password); "
            "allowed: such as 'https://docs.example.org/'"
        )


def job(values: dict[str, Any]) -> Counts:
    """Crawls and exports, or goes on where an earlier process stopped; `values` are those of the job file.

    `values`: `config` (CrawlConfig as plain values), `work_dir` (kept until the stage is done), `out_dir` (empty), and
    perhaps `earlier` (the artifact of an earlier crawl, from which pages that have not changed are taken).
    Counts are URLs: known, stored as pages, and refused by class of reason; the full reasons stand in
    `refused.parquet`. Raises ConnectionError when the network kept every page away, ValueError when there was no page
    for another reason, OSError when the disk is full or the work directory damaged, Stopped after SIGTERM.
    """
    signal.signal(signal.SIGTERM, _stop)
    config = from_dict(CrawlConfig, values["config"])
    work_dir, out_dir = Path(values["work_dir"]), Path(values["out_dir"])
    try:
        return _crawl_and_export(config, work_dir, out_dir, earlier_crawl(values.get("earlier")))
    except sqlite3.Error as error:
        raise OSError(f"{work_dir / 'frontier.db'} cannot be written: {error}; {_REMEDY}") from error
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError):
            raise
        raise OSError(error.errno, f"{error.strerror} ({error.filename or work_dir}); {_REMEDY}") from error


_REMEDY = "free disk space or mend the folder and run again: the crawl goes on where it stopped"


def _stop(signal_number: int, frame: FrameType | None) -> None:
    raise Stopped("SIGTERM")


def earlier_crawl(folder: str | None) -> EarlierCrawl | None:
    """The earlier crawl, or None with a warning when it cannot be read: it only saves time."""
    try:
        return EarlierCrawl(Path(folder)) if folder else None
    except OSError as error:
        logger.warning("%s; all pages are fetched anew", error)
        return None


def _crawl_and_export(config: CrawlConfig, work_dir: Path, out_dir: Path, earlier: EarlierCrawl | None) -> Counts:
    with contextlib.closing(Frontier(work_dir, config.seed_urls, config)) as frontier:
        progress = _Progress(frontier, MetricsLog(work_dir))
        _crawl(config, frontier, progress, earlier)
        ledger, totals = frontier.ledger, frontier.totals
        refused = ledger.refused()
        if not totals.n_stored:
            raise _nothing_stored(config, dict(refused))
        ledger.verify_segments()
        stored = ledger.stored()
        write_crawl(out_dir, stored, [(url, refusal.text) for url, refusal in refused], progress.exported)
        progress()
        logger.info(
            "%d of %d pages have not changed since the earlier crawl", sum(p.reused for p in stored), len(stored)
        )
        return Counts(
            "urls",
            n_in=totals.n_known,
            n_out=totals.n_stored,
            dropped=Counter(refusal.reason for _, refusal in refused),
            figures={"bytes": totals.n_bytes},
        )


def _crawl(config: CrawlConfig, frontier: Frontier, progress: _Progress, earlier: EarlierCrawl | None) -> None:
    from .spider import run_spider  # Scrapy and Twisted: only in the process that crawls

    reason = run_spider(config, frontier, progress, earlier)
    signal.signal(signal.SIGTERM, _stop)  # Scrapy had its own handler
    if reason == "shutdown" and not frontier.finished:
        raise Stopped("SIGTERM")
    if not frontier.finished:
        raise RuntimeError(
            f"the crawl ended early ({reason}); the log says why. Run again: it goes on where it stopped"
        )


class _Progress:
    """Writes a line to `metrics.jsonl` at every call: pages stored, of the URLs known so far."""

    def __init__(self, frontier: Frontier, log: MetricsLog) -> None:
        self._frontier, self._log = frontier, log
        self._start, self._n_before = time.monotonic(), frontier.totals.n_stored

    def __call__(self, **figures: float) -> None:
        known, stored, n_bytes = self._frontier.totals
        rate = (stored - self._n_before) / max(0.001, time.monotonic() - self._start)
        self._log.write(stored, of=known, bytes=n_bytes, pages_per_second=round(rate, 1), **figures)

    def exported(self, done: int, total: int) -> None:
        """Reports the export."""
        self(exported=done)


def _nothing_stored(config: CrawlConfig, refused: dict[str, Refusal]) -> Exception:
    """The error for a crawl without a single page: what happened to the seeds, and what to do."""
    url = next((url for url, refusal in refused.items() if refusal.reason != "redirect"), next(iter(refused), None))
    if url is None:
        return ValueError("crawl.seeds: the sitemaps list no page on the seeds' hosts; choose other seeds")
    refusal = refused[url]
    others = f" (and {len(config.seed_urls) - 1} other seeds)" if len(config.seed_urls) > 1 else ""
    kind = ConnectionError if refusal.reason == "failed" and refusal.transient else ValueError
    return kind(f"crawl.seeds: no page could be stored from {url}{others}: {refusal.text}. {_remedy(refusal)}")


def _remedy(refusal: Refusal) -> str:
    if refusal.reason == "failed" or refusal.reason.startswith("http 5"):
        return "Check that the site is up and the address right, then run again"
    return {
        "noindex": "The site does not want this page to be kept; choose other seeds",
        "redirect": "Make the target of the redirect the seed",
        "robots": "The site does not want to be crawled here; choose other seeds",
        "egress refused": "Private places must be named in crawl.allow_private",
        "too large": "Raise crawl.max_page_bytes",
        "byte budget": "Raise crawl.max_total_bytes",
        "time limit": "Raise crawl.max_seconds",
        "not html": "Choose a seed that is an HTML page",
    }.get(refusal.reason, "Check the address")


if __name__ == "__main__":
    run_job(job)
