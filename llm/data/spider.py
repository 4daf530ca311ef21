"""The Scrapy side of a crawl: spider, scheduler, pipeline and settings around the durable frontier.

Scrapy downloads (connections, delays, timeouts, TLS, decompression); the frontier decides what and when. The spider
yields one page at a time and never a Request, redirects and retries are the frontier's rows, and robots.txt and egress
are our own (see robots.py, egress.py). One run per process: the reactor cannot be started twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import scrapy
from scrapy import signals
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

from .egress import EgressPolicy, EgressRefused, GuardedHandler, GuardedResolver
from .frontier import FetchedPage, Frontier, Refusal, Row
from .links import Scope, canonical_url, page_links
from .robots import RobotsMiddleware, RobotsRefused

if TYPE_CHECKING:  # crawl.py runs as __main__ and must not be loaded twice
    from .crawl import CrawlConfig

logger = logging.getLogger(__name__)

HTML_TYPES = ("text/html", "application/xhtml+xml")
NETWORK_FAILURES = {
    CannotResolveHostError: "host name not found",
    DownloadConnectionRefusedError: "connection refused",
    DownloadTimeoutError: "no complete answer in time",
    DownloadFailedError: "connection failed",
    ResponseDataLossError: "connection lost before the page was complete",
}
"""Fixed words, since an error's own text may name ports, addresses in memory or seconds."""


class PageSpider(scrapy.Spider):  # type: ignore[misc]
    """Turns answers into pages and refusals."""

    name = "pages"

    def __init__(self, config: CrawlConfig, frontier: Frontier, progress: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config, self.frontier, self._progress = config, frontier, progress
        self.scope = Scope(config.seed_urls)
        self.storage_error: Exception | None = None

    @classmethod
    def from_crawler(cls, crawler: Any, *args: Any, **kwargs: Any) -> PageSpider:
        """Made by Scrapy."""
        spider: PageSpider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.on_headers, signals.headers_received)
        crawler.signals.connect(spider.on_error, signals.spider_error)
        crawler.signals.connect(spider.on_opened, signals.spider_opened)
        return spider

    async def start(self) -> AsyncIterator[Any]:
        """Nothing: the seeds are rows of the frontier."""
        return
        yield

    async def _report(self) -> None:
        while True:
            self._progress()
            await asyncio.sleep(0.5)

    def on_opened(self) -> None:
        """Starts the progress reports."""
        self._reports = asyncio.get_running_loop().create_task(self._report())

    def on_headers(self, headers: Any, request: Any) -> None:
        """Stops the download of a page that is not HTML before its body comes."""
        if "row" in request.meta and not is_html(_header(headers, "Content-Type")):
            raise StopDownload(fail=False)

    def on_error(self, failure: Any, response: Any) -> None:
        """Settles the row of a callback that raised, which would otherwise stay in flight for ever."""
        row = getattr(response, "request", response).meta.get("row")
        if row is not None and self.frontier.in_flight(row):
            self._refuse(row, Refusal("failed", f"could not be processed ({failure.type.__name__})"))

    def parse(self, response: Any, **kwargs: Any) -> Iterator[FetchedPage]:
        """Callback for every answer, whatever its status."""
        row: Row = response.meta["row"]
        refusal = self._refusal(response, row)
        if refusal is not None:
            self._refuse(row, refusal)
            return
        headers = tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in response.headers.items()
            for value in values
        )
        links = page_links(response.url, response.body, self.scope)
        yield FetchedPage(row, response.status, headers, response.body, links, int(time.time() * 1000))

    def _refusal(self, response: Any, row: Row) -> Refusal | None:
        """Why an answer is no page to be stored; None when it is one."""
        if 300 <= response.status < 400:
            return self._redirect(response)
        if not 200 <= response.status < 300:
            again = response.status >= 500 or response.status == 429
            return Refusal(f"http {response.status}", transient=again)
        content_type = _header(response.headers, "Content-Type")
        if not is_html(content_type):
            return Refusal("not html", content_type[:200])
        if response.headers.get("Content-Encoding"):
            return Refusal("failed", "a content encoding that cannot be decoded")
        return None

    def _redirect(self, response: Any) -> Refusal:
        location = _header(response.headers, "Location")
        target = canonical_url(response.url, location) if location else None
        if target is None:
            return Refusal("redirect", "to no web address")
        inside = self.scope.contains(target)
        return Refusal(
            "redirect",
            f"to {target}" if inside else f"to {target}, which is outside the seeds' hosts",
            redirect_to=target if inside else None,
        )

    def on_failure(self, failure: Any) -> None:
        """Errback for every request without an answer."""
        row = failure.request.meta["row"]
        if self.frontier.in_flight(row):
            self._refuse(row, self._describe(failure.value))

    def _describe(self, error: Exception) -> Refusal:
        if isinstance(error, RobotsRefused):
            return Refusal("robots", str(error), transient=error.transient)
        if isinstance(error, EgressRefused):
            return Refusal("egress refused", str(error))
        if isinstance(error, DownloadCancelledError) or "DOWNLOAD_MAXSIZE" in str(error):
            return Refusal("too large", f"more than {self.config.max_page_bytes} bytes")
        if isinstance(error, DownloadFailedError) and "certificate" in str(error):
            return Refusal("failed", "the TLS certificate was not accepted")
        for kind, words in NETWORK_FAILURES.items():
            if isinstance(error, kind):
                return Refusal("failed", words, transient=True)
        return Refusal("failed", type(error).__name__)

    def _refuse(self, row: Row, refusal: Refusal) -> None:
        with self.storage():
            self.frontier.refuse(row, refusal)

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
        """Called by Scrapy at the end."""
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
        """Made by Scrapy."""
        return cls(crawler)

    def has_pending_requests(self) -> bool:
        """Whether the crawl is still going on."""
        return not self._crawler.spider.frontier.finished

    def enqueue_request(self, request: Any) -> bool:
        """False: URLs enter through the frontier only."""
        return False

    def next_request(self) -> Any:
        """A request for the frontier's next row, or None."""
        spider: PageSpider = self._crawler.spider
        row = None
        with spider.storage():
            row = spider.frontier.next_row()
            if row is None:
                self._wake_after(spider.frontier.pause_s())
        if row is None:
            return None
        meta = {"row": row, "dont_redirect": True, "download_slot": row.host}  # Scrapy's slots leave out the port
        return scrapy.Request(row.url, spider.parse, errback=spider.on_failure, meta=meta, dont_filter=True)

    def _wake_after(self, pause_s: float) -> None:
        """Makes the engine ask again after a pause (it would, but only every five seconds)."""
        if pause_s > 0 and self._timer is None:
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
        """Made by Scrapy."""
        return cls(crawler)

    def process_item(self, item: FetchedPage) -> None:
        """Stores one page."""
        with self._spider.storage():
            self._spider.frontier.store(item)


def is_html(content_type: str) -> bool:
    """Whether a Content-Type header stands for HTML; a missing header does."""
    return not content_type or content_type.partition(";")[0].strip().lower() in HTML_TYPES


def _header(headers: Any, name: str) -> str:
    """A header's text; servers send addresses as UTF-8 as well as in the standard's Latin-1."""
    value: bytes = headers.get(name) or b""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def scrapy_settings(config: CrawlConfig) -> dict[str, Any]:
    """Settings of Scrapy 2.19. Never JOBDIR: it keeps pickles, and a kill loses pages."""
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
        "DOWNLOAD_DELAY": config.delay_s,
        "DOWNLOAD_DELAY_JITTER": 0,
        "CONCURRENT_ITEMS": 1,  # Scrapy starts that many tasks for every page
        "CONCURRENT_REQUESTS": config.n_connections,
        "CONCURRENT_REQUESTS_PER_DOMAIN": config.max_connections_per_host,
        "LOG_LEVEL": "WARNING",
        "LOG_INSTALL_ROOT_HANDLER": False,  # the process has its handler already
        "STATS_DUMP": False,
    }


def run_spider(config: CrawlConfig, frontier: Frontier, progress: Callable[[], None]) -> str:
    """Crawls until the frontier is finished, and returns Scrapy's finish reason ("shutdown" after SIGTERM).

    Raises what kept the frontier from writing. Whether the crawl is complete, the frontier says: Scrapy reports
    "finished" even when one of its components failed to start.
    """
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.levelno >= logging.WARNING or not record.name.startswith("scrapy"))
    process = AsyncCrawlerProcess(scrapy_settings(config))
    crawler = process.create_crawler(PageSpider)
    crawling = process.crawl(crawler, config=config, frontier=frontier, progress=progress)
    process.start()
    if crawling.done() and not crawling.cancelled() and (error := crawling.exception()) is not None:
        raise error
    if crawler.spider is not None and crawler.spider.storage_error is not None:
        raise crawler.spider.storage_error
    return str(crawler.stats.get_value("finish_reason"))
