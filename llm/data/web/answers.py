"""What an HTTP answer means for the crawl: a page to be kept, or a refusal with its reason and where it leads."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from .links import Scope, canonical_url
from .markup import Markup, read_markup, robots_words
from .outcome import GUESSED_SITEMAP, PAGE, READ, FetchedPage, Refusal, Row
from .sitemap import looks_like_sitemap, parse_sitemap

HTML_TYPES = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True)
class Answer:
    """An HTTP answer whose body has been decoded; `fetched_at` is in ms since 1970, `reused` see `FetchedPage`."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    fetched_at: int
    reused: bool = False

    def values(self, name: str) -> list[str]:
        """Returns the values of a header, which may come several times."""
        return [value for known, value in self.headers if known.lower() == name]

    def header(self, name: str) -> str:
        """Returns the first value of a header, "" if absent."""
        return next(iter(self.values(name)), "")


class Judge:
    """Turns answers into pages and refusals. What it says follows from the answer and the row alone."""

    def __init__(self, scope: Scope, agent: str, max_bytes: int) -> None:
        """Takes the crawler's name, and as `max_bytes` what a sitemap may hold after decompression."""
        self._scope, self._agent, self._max_bytes = scope, agent, max_bytes

    def outcome(self, row: Row, answer: Answer) -> FetchedPage | Refusal:
        """Returns the page, or why there is none.

        The text of a sitemap that was read counts as a refusal with its links.
        """
        if 300 <= answer.status < 400 and answer.status != 304:
            return self._redirect(row, answer.header("location"))
        if not 200 <= answer.status < 300:
            return Refusal(f"http {answer.status}", transient=answer.status >= 500 or answer.status == 429)
        if answer.header("content-encoding"):
            return Refusal("failed", "a content encoding that cannot be decoded")
        return self._page(row, answer) if row.kind == PAGE else self._sitemap(row.url, answer.body)

    def with_declared(self, row: Row, refusal: Refusal, declared: Iterable[str]) -> Refusal:
        """Returns the refusal of a guessed sitemap with those that robots.txt declares; any other refusal as it is."""
        if row.kind != GUESSED_SITEMAP:
            return refusal
        return dataclasses.replace(refusal, sitemaps=(*refusal.sitemaps, *self._inside(row.url, declared)))

    def _page(self, row: Row, answer: Answer) -> FetchedPage | Refusal:
        content_type = answer.header("content-type")
        if not is_html(content_type):
            return Refusal("not html", content_type[:200])
        if b"\0" in answer.body[:1024] and not answer.body.startswith((b"\xff\xfe", b"\xfe\xff")):
            return Refusal("not html", f"a binary file that is called {content_type[:200] or 'nothing'}")
        markup = read_markup(row.url, answer.body, content_type, self._scope, self._agent)
        in_header = robots_words(answer.values("x-robots-tag"), self._agent)
        links = self._links(markup, in_header)
        if "noindex" in in_header | markup.asks:
            return Refusal("noindex", "by X-Robots-Tag" if "noindex" in in_header else "by the page", links=links)
        if markup.redirect_to is not None:
            return self._redirect(row, markup.redirect_to, " (meta refresh)")
        page = FetchedPage(row, answer.status, answer.headers, answer.body, links, answer.fetched_at)
        return dataclasses.replace(page, canonical=markup.canonical, reused=answer.reused)

    def _links(self, markup: Markup, in_header: frozenset[str]) -> tuple[str, ...]:
        if "nofollow" in in_header | markup.asks:
            return ()
        return markup.links if markup.canonical is None else (*markup.links, markup.canonical)

    def _redirect(self, row: Row, location: str, how: str = "") -> Refusal:
        target = canonical_url(row.url, location) if location else None
        if target is None:
            return Refusal("redirect", "to no web address")
        if not self._scope.contains(target):
            return Refusal("redirect", f"to {target}, which is outside the seeds' hosts{how}")
        refusal = Refusal("redirect", f"to {target}{how}")
        if row.kind == PAGE:
            return dataclasses.replace(refusal, links=(target,))
        return dataclasses.replace(refusal, sitemaps=(target,) if looks_like_sitemap(target) else ())

    def _sitemap(self, url: str, body: bytes) -> Refusal:
        try:
            sitemap = parse_sitemap(body, self._max_bytes)
        except ValueError:
            return Refusal("too large", f"more than {self._max_bytes} bytes")
        except zlib.error:
            return Refusal("failed", "a damaged gzip file")
        if sitemap is None:
            return Refusal("not a sitemap")
        found = self._inside(url, sitemap.entries)
        return Refusal(READ, sitemaps=found) if sitemap.is_index else Refusal(READ, links=found)

    def _inside(self, base: str, entries: Iterable[str]) -> tuple[str, ...]:
        """Returns the canonical URLs of entries that lie within the crawl, each once."""
        found = dict.fromkeys(canonical_url(base, entry) for entry in entries)
        return tuple(url for url in found if url is not None and self._scope.contains(url))


def is_html(content_type: str) -> bool:
    """Returns whether a Content-Type header stands for HTML; a missing header does."""
    return not content_type or content_type.partition(";")[0].strip().lower() in HTML_TYPES
