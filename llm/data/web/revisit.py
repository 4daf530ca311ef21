"""A second look at sites that were crawled before: pages that have not changed are taken from the earlier crawl."""

from __future__ import annotations

import bisect
import logging
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from ...files import read_table
from ..common.warc_read import read_record

logger = logging.getLogger(__name__)


class EarlierPage(NamedTuple):
    """A page of an earlier crawl; `headers` are those that a record keeps, and ETag and Last-Modified."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class EarlierCrawl:
    """The pages of an earlier crawl artifact, with what their servers gave to recognize them by.

    Everything is read from the columns, so that a million pages take about 300 MB and no start-up time.
    """

    def __init__(self, crawl_dir: Path) -> None:
        """Opens the artifact; raises OSError when its tables cannot be read."""
        self._crawl_dir = crawl_dir
        try:
            self._pages = read_table(crawl_dir / "pages.parquet")
            self._fetched = read_table(crawl_dir / "fetched.parquet")
        except pa.ArrowException as error:
            raise OSError(f"{crawl_dir}: {error}") from error
        if self._pages["url"] != self._fetched["url"]:
            raise OSError(f"{crawl_dir}: pages.parquet and fetched.parquet name different pages")
        self._urls = self._pages["url"].combine_chunks()
        self._damaged: set[str] = set()

    def conditions(self, url: str) -> dict[str, str]:
        """Returns the request headers that ask for the page only if it has changed; none when it is not known."""
        row = self._row_of(url)
        if row is None or url in self._damaged or "etag" not in self._fetched.column_names:
            return {}
        found = {
            "If-None-Match": self._fetched["etag"][row].as_py(),
            "If-Modified-Since": self._fetched["last_modified"][row].as_py(),
        }
        return {name: value for name, value in found.items() if value}

    def page(self, url: str) -> EarlierPage | None:
        """Returns the earlier page at a URL; None, and no conditions from now on, when it is damaged."""
        row = self._row_of(url)
        if row is None:
            return None
        entry = self._pages.slice(row, 1).to_pylist()[0]
        try:
            headers, body = read_record(self._crawl_dir, entry)
        except OSError as error:
            logger.warning("%s; the page is fetched anew", error)
            self._damaged.add(url)
            return None
        names = {"ETag": "etag", "Last-Modified": "last_modified"}
        known = tuple((name, self._fetched[column][row].as_py()) for name, column in names.items())
        kept = tuple((name, value) for name, value in headers if name.lower() != "content-type")
        content_type = (("Content-Type", entry["content_type"]),) if entry["content_type"] else ()
        return EarlierPage(entry["status"], (*content_type, *kept, *known), body)

    def _row_of(self, url: str) -> int | None:
        """The row of a URL in the tables, which are in order of URL."""
        row = bisect.bisect_left(range(len(self._urls)), url, key=lambda index: self._urls[index].as_py())
        return row if row < len(self._urls) and self._urls[row].as_py() == url else None
