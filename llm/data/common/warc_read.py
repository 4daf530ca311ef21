"""Reads web pages out of the WARC files of a crawl artifact, by seeking to the record that a row of a table names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from fastwarc.warc import ArchiveIterator, WarcRecordType

from ...files import read_rows


@dataclass(frozen=True)
class WebPage:
    """A page as it was fetched; `content_type` is the HTTP header, "" if there was none, `source` see `Document`."""

    url: str
    status: int
    content_type: str
    body: bytes
    source: str = ""


@dataclass(frozen=True)
class PageSlice:
    """Rows `start` to `stop` (exclusive) of a crawl artifact's `pages.parquet`: the input of one partition."""

    crawl_dir: Path
    start: int
    stop: int

    def read(self) -> Iterator[WebPage]:
        """Yields the pages of the slice, in order of URL."""
        return read_pages(self.crawl_dir, self.start, self.stop)


def n_pages(crawl_dir: Path) -> int:
    """Returns how many pages a crawl artifact holds."""
    return pq.read_metadata(crawl_dir / "pages.parquet").num_rows


def page_slices(crawl_dir: Path, pages_per_partition: int) -> list[PageSlice]:
    """Returns the pages in partitions of `pages_per_partition` (the last may be smaller), in order of URL."""
    total = n_pages(crawl_dir)
    starts = range(0, total, pages_per_partition)
    return [PageSlice(crawl_dir, start, min(start + pages_per_partition, total)) for start in starts]


def read_pages(crawl_dir: Path, start: int, stop: int) -> Iterator[WebPage]:
    """Pages in rows `start` to `stop` (exclusive) of `pages.parquet`, in that order.

    Every body is compared with its SHA-256; a damaged or missing record raises OSError naming file and URL.
    """
    for row in read_rows(crawl_dir / "pages.parquet", start, stop):
        _, body = read_record(crawl_dir, row)
        yield WebPage(row["url"], row["status"], row["content_type"], body, row["source"])


def read_record(crawl_dir: Path, row: Mapping[str, Any]) -> tuple[tuple[tuple[str, str], ...], bytes]:
    """Returns the kept headers and the body of the page in a row of `pages.parquet`.

    The body is compared with its SHA-256; a damaged or missing record raises OSError naming file and URL.
    """
    path, url, offset = crawl_dir / row["segment"], row["url"], row["offset"]
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            record = next(ArchiveIterator(file, record_types=WarcRecordType.response, parse_http=True))
            body = record.reader.read() if record.headers["WARC-Target-URI"] == url else b""
            headers = tuple((str(name), str(value)) for name, value in record.http_headers.items())
    except Exception as error:  # FastWARC documents no common base of its errors
        raise _damaged(path, url, offset) from error
    if hashlib.sha256(body).hexdigest() != row["sha256"]:
        raise _damaged(path, url, offset)
    return headers, body


def _damaged(path: Path, url: str, offset: int) -> OSError:
    return OSError(
        f"{path}: the record of {url} at byte {offset} is missing or damaged; "
        "delete the artifact and run the crawl stage again"
    )
