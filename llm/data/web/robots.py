"""robots.txt after RFC 9309, for Scrapy.

Scrapy's own middleware (2.19) lets the third and later concurrent request to a host pass unchecked: several waiters
share one Deferred, and only the first of them receives the rules. (Of 40 concurrent requests to a host that disallows
all, 13 were fetched.) It also treats a robots.txt that cannot be fetched as permission.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from protego import Protego
from scrapy import Request
from scrapy.exceptions import DownloadCancelledError, IgnoreRequest
from scrapy.http.request import NO_CALLBACK

MAX_ROBOTS_BYTES = 512 * 1024
MAX_CRAWL_DELAY_S = 30.0
"""A longer Crawl-delay is shortened to this: one hostile file must not stop the whole crawl."""


def product_token(user_agent: str) -> str:
    """Returns the name by which robots.txt speaks to a user agent (RFC 9309, 2.2.1): "sourdough" of "sourdough/0.1"."""
    return user_agent.strip().partition("/")[0].partition(" ")[0]


def crawl_delay_s(rules: Protego, agent: str) -> float:
    """Returns the seconds between two requests that the rules ask for, 0 if none, at most `MAX_CRAWL_DELAY_S`."""
    delay = rules.crawl_delay(agent)
    return min(max(0.0, float(delay)), MAX_CRAWL_DELAY_S) if delay else 0.0


class RobotsRefused(IgnoreRequest):  # type: ignore[misc]
    """A page that robots.txt forbids, or (`transient`) whose robots.txt could not be fetched."""

    def __init__(self, why: str, *, transient: bool) -> None:
        super().__init__(why)
        self.transient = transient


class RobotsMiddleware:
    """Downloader middleware: a page is fetched only after its origin's robots.txt has been read and allows it.

    404 and other 4xx allow everything; 429, 5xx, timeouts and unfollowed redirects forbid everything until another
    attempt succeeds. Each origin's file is fetched once, however many requests wait for it.
    """

    def __init__(self, crawler: Any) -> None:
        self._crawler = crawler
        self._agent = product_token(crawler.settings["USER_AGENT"])
        self._rules: dict[str, asyncio.Future[Protego | Exception]] = {}
        self._attempts: dict[str, int] = {}

    @classmethod
    def from_crawler(cls, crawler: Any) -> RobotsMiddleware:
        """Returns an instance; Scrapy calls this."""
        return cls(crawler)

    async def process_request(self, request: Any) -> None:
        """Raises RobotsRefused for a page that must not be fetched, or what kept robots.txt from being fetched."""
        row = request.meta.get("row")
        if row is None:
            return  # robots.txt itself
        rules = await self._rules_for(request.url, row.attempts)
        if isinstance(rules, Exception):
            raise rules.with_traceback(None)
        request.meta["sitemaps"] = tuple(rules.sitemaps)
        self._crawler.spider.frontier.set_pace(row.host, crawl_delay_s(rules, self._agent))
        if not rules.can_fetch(request.url, self._agent):
            raise RobotsRefused("disallowed by robots.txt", transient=False)

    async def _rules_for(self, url: str, attempt: int) -> Protego | Exception:
        """Returns the origin's rules, fetched by the first who asks; a failure holds until a later attempt."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        known = self._rules.get(origin)
        failed = known is not None and known.done() and isinstance(known.result(), Exception)
        if known is None or (failed and attempt > self._attempts[origin]):
            self._attempts[origin] = attempt
            known = self._rules[origin] = asyncio.get_running_loop().create_future()
            known.set_result(await self._load(origin))
        return await asyncio.shield(known)

    async def _load(self, origin: str) -> Protego | Exception:
        """Fetches and parses one robots.txt; never raises, so that no waiter waits for ever."""
        meta = {"download_maxsize": MAX_ROBOTS_BYTES, "download_slot": urlsplit(origin).netloc}
        request = Request(f"{origin}/robots.txt", callback=NO_CALLBACK, meta=meta)
        try:
            response = await self._crawler.engine.download_async(request)
        except DownloadCancelledError:
            return RobotsRefused(f"robots.txt is larger than {MAX_ROBOTS_BYTES} bytes", transient=True)
        except Exception as error:
            return error  # a host that cannot be reached: the page's own request would have failed alike
        if response.status >= 500 or response.status == 429 or 300 <= response.status < 400:
            return RobotsRefused(f"robots.txt was answered with HTTP {response.status}", transient=True)
        text = response.body.decode("utf-8", errors="replace") if response.status < 300 else ""
        return Protego.parse(text)
