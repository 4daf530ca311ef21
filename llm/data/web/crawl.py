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
from pathlib import Path
from types import FrameType
from typing import Any

from ...config import from_dict
from ...counts import Counts
from ...process import MetricsLog, Stopped, run_job
from ..common.warc_write import write_crawl
from .config import CrawlConfig
from .frontier import Frontier
from .outcome import Refusal
from .revisit import EarlierCrawl
from .spider import run_spider

logger = logging.getLogger(__name__)


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
    """Returns the earlier crawl, or None with a warning when it cannot be read: it only saves time."""
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
