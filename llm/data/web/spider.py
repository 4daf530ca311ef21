"""The Scrapy side of a crawl: spider, scheduler, pipeline and settings around the durable frontier.

Scrapy downloads (connections, timeouts, TLS, decompression); the frontier decides what and when, delays included. The
spider yields one page at a time and never a Request, redirects and retries are the frontier's rows, and robots.txt and
egress are our own (see robots.py, egress.py). One run per process: the reactor cannot be started twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import scrapy
from scrapy import signals
from scrapy.core.downloader.handlers import http11
from scrapy.core.scheduler import BaseScheduler
from scrapy.crawler import AsyncCrawlerProcess
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    ResponseDataLossError,
    StopDownload,
)
from twisted.web._newclient import ParseError

from .answers import Answer, Judge, is_html
from .config import CrawlConfig
from .egress import EgressPolicy, EgressRefused, GuardedHandler, GuardedResolver
from .frontier import Frontier
from .links import Scope
from .outcome import PAGE, FetchedPage, Refusal, Row
from .revisit import EarlierCrawl
from .robots import RobotsMiddleware, RobotsRefused, product_token

logger = logging.getLogger(__name__)

EARLIER_LOST = Refusal("failed", "not changed, but the earlier copy is damaged", transient=True)
HEADERS_TOO_LONG = "the headers are too long"
NETWORK_FAILURES = {
    CannotResolveHostError: "host name not found",
    DownloadConnectionRefusedError: "connection refused",
    DownloadTimeoutError: "no complete answer in time",
    DownloadFailedError: "connection failed",
    ResponseDataLossError: "connection lost before the page was complete",
}
"""Fixed words, since an error's own text may name ports, addresses in memory or seconds."""


MAX_HEADER_BYTES = 256 * 1024
"""Twisted reads headers for as long as they come: without this limit, 500 MB in five seconds."""


class _BoundedParser(http11._LenientHTTPClientParser):  # type: ignore[misc]
    """Scrapy's parser of answers, which gives up when status line and headers exceed `MAX_HEADER_BYTES`."""

    def lineReceived(self, line: bytes) -> None:
        self.n_header_bytes = getattr(self, "n_header_bytes", 0) + len(line)
        if self.n_header_bytes > MAX_HEADER_BYTES:
            raise ParseError(HEADERS_TOO_LONG, line[:100])
        super().lineReceived(line)


class PageSpider(scrapy.Spider):  # type: ignore[misc]
    """Turns answers into pages and refusals."""

    name = "pages"

    def __init__(
        self,
        config: CrawlConfig,
        frontier: Frontier,
        progress: Callable[[], None],
        earlier: EarlierCrawl | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.config, self.frontier, self._progress, self._earlier = config, frontier, progress, earlier
        self._judge = Judge(Scope(config.seed_urls), product_token(config.user_agent), config.max_page_bytes)
        self.storage_error: Exception | None = None

    @classmethod
    def from_crawler(cls, crawler: Any, *args: Any, **kwargs: Any) -> PageSpider:
        """Returns an instance; Scrapy calls this."""
        spider: PageSpider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.on_headers, signals.headers_received)
        crawler.signals.connect(spider.on_error, signals.spider_error)
        crawler.signals.connect(spider.on_opened, signals.spider_opened)
        return spider

    async def start(self) -> AsyncIterator[Any]:
        """Yields nothing: the seeds are rows of the frontier."""
        return
        yield

    def request(self, row: Row) -> Any:
        """Returns the request for a row.

        It asks for a page that is known from an earlier crawl only if it has changed.
        """
        meta = {"row": row, "dont_redirect": True, "download_slot": row.host}  # Scrapy's slots leave out the port
        headers = self._earlier.conditions(row.url) if self._earlier is not None and row.kind == PAGE else None
        return scrapy.Request(
            row.url, self.parse, errback=self.on_failure, headers=headers, meta=meta, dont_filter=True
        )

    async def _report(self) -> None:
        while True:
            self._progress()
            await asyncio.sleep(0.5)

    def on_opened(self) -> None:
        """Starts the progress reports."""
        self._reports = asyncio.get_running_loop().create_task(self._report())

    def on_headers(self, headers: Any, request: Any) -> None:
        """Stops the download of a page that is not HTML before its body comes."""
        row = request.meta.get("row")
        if row is not None and row.kind == PAGE and not is_html(_text(headers.get("Content-Type") or b"")):
            raise StopDownload(fail=False)

    def on_error(self, failure: Any, response: Any) -> None:
        """Settles the row of a callback that raised, which would otherwise stay in flight for ever."""
        row = getattr(response, "request", response).meta.get("row")
        if row is not None and self.frontier.in_flight(row):
            self._refuse(row, Refusal("failed", f"could not be processed ({failure.type.__name__})"))

    def parse(self, response: Any, **kwargs: Any) -> Iterator[FetchedPage]:
        """Handles every answer, whatever its status."""
        row: Row = response.meta["row"]
        answer = self._answer(response)
        outcome = self._judge.outcome(row, answer) if answer is not None else EARLIER_LOST
        if isinstance(outcome, FetchedPage):
            yield outcome
        else:
            self._refuse(row, outcome, response.meta.get("sitemaps", ()))

    def _answer(self, response: Any) -> Answer | None:
        """Returns the answer, or the earlier one when the server says it is unchanged; None if that is damaged."""
        now = int(time.time() * 1000)
        if response.status == 304 and self._earlier is not None and _is_conditional(response.request):
            earlier = self._earlier.page(response.meta["row"].url)
            return None if earlier is None else Answer(*earlier, now, reused=True)
        headers = tuple(
            (name.decode("latin-1"), _text(value)) for name, values in response.headers.items() for value in values
        )
        return Answer(response.status, headers, response.body, now)

    def on_failure(self, failure: Any) -> None:
        """Handles every request without an answer."""
        row = failure.request.meta["row"]
        if self.frontier.in_flight(row):
            self._refuse(row, self._describe(failure.value), failure.request.meta.get("sitemaps", ()))

    def _describe(self, error: Exception) -> Refusal:
        if isinstance(error, RobotsRefused):
            return Refusal("robots", str(error), transient=error.transient)
        if isinstance(error, EgressRefused):
            return Refusal("egress refused", str(error))
        if isinstance(error, DownloadCancelledError) or "DOWNLOAD_MAXSIZE" in str(error):
            return Refusal("too large", f"more than {self.config.max_page_bytes} bytes")
        if HEADERS_TOO_LONG in str(error):
            return Refusal("too large", f"headers of more than {MAX_HEADER_BYTES} bytes")
        if isinstance(error, DownloadFailedError) and "certificate" in str(error):
            return Refusal("failed", "the TLS certificate was not accepted")
        for kind, words in NETWORK_FAILURES.items():
            if isinstance(error, kind):
                return Refusal("failed", words, transient=True)
        return Refusal("failed", type(error).__name__)

    def _refuse(self, row: Row, refusal: Refusal, sitemaps: Iterable[str] = ()) -> None:
        """Settles a row without a page; `sitemaps` are those that its host's robots.txt declares."""
        with self.storage():
            self.frontier.refuse(row, self._judge.with_declared(row, refusal, sitemaps))

    @contextlib.contextmanager
    def storage(self) -> Iterator[None]:
        """Closes the spider when the block fails (on a full disk): Scrapy itself would log the error and go on."""
        try:
            yield
        except Exception as error:
            if self.storage_error is None:
                self.storage_error = error
                self.frontier.finished = True
                closing = self.crawler.engine.close_spider_async(reason="storage_error")
                self._closing = asyncio.get_running_loop().create_task(closing)

    def closed(self, reason: str) -> None:
        """Ends the crawl; Scrapy calls this."""
        self._reports.cancel()
        if self.storage_error is None:
            with self.storage():
                self.frontier.commit()


class FrontierScheduler(BaseScheduler):  # type: ignore[misc]
    """Scrapy's scheduler, which hands out what the frontier says and takes no requests from anybody else."""

    def __init__(self, crawler: Any) -> None:
        self._crawler = crawler
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def from_crawler(cls, crawler: Any) -> FrontierScheduler:
        """Returns an instance; Scrapy calls this."""
        return cls(crawler)

    def has_pending_requests(self) -> bool:
        """Returns whether the crawl is still going on."""
        return not self._crawler.spider.frontier.finished

    def enqueue_request(self, request: Any) -> bool:
        """Returns false: URLs enter through the frontier only."""
        return False

    def next_request(self) -> Any:
        """Returns a request for the frontier's next row, or None."""
        spider: PageSpider = self._crawler.spider
        row = None
        with spider.storage():
            row = spider.frontier.next_row()
            if row is None:
                self._wake_after(spider.frontier.pause_s())
        if row is None:
            return None
        return spider.request(row)

    def _wake_after(self, pause_s: float) -> None:
        """Makes the engine ask again after a pause (it would, but only every five seconds)."""
        if pause_s > 0:
            if self._timer is not None:
                self._timer.cancel()  # it may have been set for a host that waits longer
            self._timer = asyncio.get_running_loop().call_later(pause_s + 0.01, self._wake)

    def _wake(self) -> None:
        self._timer = None
        if (slot := self._crawler.engine._slot) is not None:
            slot.nextcall.schedule()


class CommitPipeline:
    """Item pipeline that puts pages into the frontier."""

    def __init__(self, crawler: Any) -> None:
        self._spider: PageSpider = crawler.spider

    @classmethod
    def from_crawler(cls, crawler: Any) -> CommitPipeline:
        """Returns an instance; Scrapy calls this."""
        return cls(crawler)

    def process_item(self, item: FetchedPage) -> None:
        """Stores one page."""
        with self._spider.storage():
            self._spider.frontier.store(item)


def _is_conditional(request: Any) -> bool:
    """Returns whether a request asks for a page only if it has changed."""
    return "If-None-Match" in request.headers or "If-Modified-Since" in request.headers


def _text(value: bytes) -> str:
    """Returns a header's text; servers send addresses as UTF-8 as well as in the standard's Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def scrapy_settings(config: CrawlConfig) -> dict[str, Any]:
    """Returns the settings of Scrapy 2.19. Never JOBDIR: it keeps pickles, and a kill loses pages."""
    scope = Scope(config.seed_urls)
    return {
        "SCHEDULER": FrontierScheduler,
        "ITEM_PIPELINES": {CommitPipeline: 100},
        "EGRESS_POLICY": EgressPolicy(config.allow_private, {80, 443} | scope.ports),
        "TWISTED_DNS_RESOLVER": GuardedResolver,
        "DOWNLOAD_HANDLERS": {"http": GuardedHandler, "https": GuardedHandler}
        | dict.fromkeys(("file", "data", "ftp", "s3")),
        "DOWNLOADER_MIDDLEWARES": {
            "scrapy.downloadermiddlewares.offsite.OffsiteMiddleware": None,
            RobotsMiddleware: 100,
        },
        "SPIDER_MIDDLEWARES": {
            "scrapy.spidermiddlewares.depth.DepthMiddleware": None,
        },
        "EXTENSIONS": {"scrapy.extensions.feedexport.FeedExporter": None},
        "ROBOTSTXT_OBEY": False,  # RobotsMiddleware does it
        "USER_AGENT": config.user_agent,
        "HTTPERROR_ALLOW_ALL": True,
        "REDIRECT_ENABLED": True,  # for robots.txt only: pages carry dont_redirect
        "REDIRECT_MAX_TIMES": 5,
        "METAREFRESH_ENABLED": False,
        "RETRY_ENABLED": False,  # the frontier tries again, at the end of the level
        "HTTPPROXY_ENABLED": False,
        "COOKIES_ENABLED": False,
        "TELNETCONSOLE_ENABLED": False,
        "REMOTE_CONTROL_ENABLED": False,
        "DOWNLOAD_VERIFY_CERTIFICATES": True,
        "DOWNLOAD_MAXSIZE": config.max_page_bytes,
        "DOWNLOAD_WARNSIZE": 0,
        "DOWNLOAD_TIMEOUT": config.timeout_s,
        "DOWNLOAD_DELAY": 0,  # the frontier hands out a host's rows at the host's pace, and no more than it may have
        "CONCURRENT_ITEMS": 1,  # Scrapy starts that many tasks for every page
        "CONCURRENT_REQUESTS": config.n_connections,
        "CONCURRENT_REQUESTS_PER_DOMAIN": config.n_connections,
        "LOG_LEVEL": "WARNING",
        "LOG_INSTALL_ROOT_HANDLER": False,  # the process has its handler already
        "STATS_DUMP": False,
    }


def run_spider(
    config: CrawlConfig, frontier: Frontier, progress: Callable[[], None], earlier: EarlierCrawl | None = None
) -> str:
    """Crawls until the frontier is finished, and returns Scrapy's finish reason ("shutdown" after SIGTERM).

    Pages that have not changed are taken from `earlier`. Raises what kept the frontier from writing. Whether the crawl
    is complete, the frontier says: Scrapy reports "finished" even when one of its components failed to start.
    """
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.levelno >= logging.WARNING or not record.name.startswith("scrapy"))
    http11._LenientHTTPClientParser = _BoundedParser
    process = AsyncCrawlerProcess(scrapy_settings(config))
    crawler = process.create_crawler(PageSpider)
    crawling = process.crawl(crawler, config=config, frontier=frontier, progress=progress, earlier=earlier)
    process.start()
    if crawling.done() and not crawling.cancelled() and (error := crawling.exception()) is not None:
        raise error
    if crawler.spider is not None and crawler.spider.storage_error is not None:
        raise crawler.spider.storage_error
    return str(crawler.stats.get_value("finish_reason"))
