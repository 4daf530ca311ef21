"""Web pages in WARC files: records whose bytes depend on the page alone, the files of a crawl artifact, and readers.

A record is one gzip member, so the artifact is made by copying members in URL order, and a page is read by seeking.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import itertools
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from fastwarc.warc import ArchiveIterator, WarcRecordType

from ..files import atomic_path, read_rows, sha256_file, write_table

GZIP_LEVEL = 5
"""On the 51 MB of Python's documentation, digests included: level 6 takes 1.02 s and 7.50 MB, 5 takes 0.68 s and
7.68 MB, 4 takes 0.54 s and 8.02 MB."""

FIXED_DATE = "2000-01-01T00:00:00Z"
"""WARC-Date of every record; when a page was fetched stands in `fetched.parquet`."""

KEPT_HEADERS = ("content-language", "content-type", "x-robots-tag")
"""HTTP headers that a record keeps: they describe the content. Any other may change from one answer to the next."""

MAX_FILE_BYTES = 64 * 2**20

PAGE_SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("status", pa.int16()),
        ("content_type", pa.string()),
        ("segment", pa.string()),
        ("offset", pa.int64()),
        ("n_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("depth", pa.int16()),
        ("source", pa.string()),
    ]
)
REFUSED_SCHEMA = pa.schema([("url", pa.string()), ("reason", pa.string())])
FETCHED_SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("fetched_at", pa.timestamp("ms", tz="UTC")),
        ("etag", pa.string()),
        ("last_modified", pa.string()),
        ("reused", pa.bool_()),
    ]
)
"""`etag` and `last_modified` are the headers by which a later crawl asks whether the page has changed; `reused` says
that it had not, and that the body is that of an earlier crawl."""


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
        """The pages of the slice, in order of URL."""
        return read_pages(self.crawl_dir, self.start, self.stop)


class JournalPage(NamedTuple):
    """A stored page and the place of its record (one gzip member) in the journal; `fetched_at` in ms since 1970.

    The last three are columns of `fetched.parquet`.
    """

    url: str
    status: int
    content_type: str
    path: Path
    offset: int
    n_stored_bytes: int
    n_bytes: int
    sha256: str
    depth: int
    fetched_at: int
    etag: str = ""
    last_modified: str = ""
    reused: bool = False


def encode_record(url: str, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """The response record of a page as one gzip member; equal pages give equal bytes (with the same zlib)."""
    kept = sorted((name.title(), value) for name, value in headers if name.lower() in KEPT_HEADERS)
    status_line = f"HTTP/1.1 {status} {http.client.responses.get(status, 'Unknown')}"
    http_head = _header_block(status_line, [*kept, ("Content-Length", str(len(body)))])
    warc_head = _header_block(
        "WARC/1.0",
        [
            ("WARC-Record-ID", _record_id(url, body)),
            ("WARC-Date", FIXED_DATE),
            ("WARC-Type", "response"),
            ("WARC-Target-URI", url),
            ("WARC-Payload-Digest", _sha1(body)),
            ("WARC-Block-Digest", _sha1(http_head, body)),
            ("Content-Type", "application/http; msgtype=response"),
            ("Content-Length", str(len(http_head) + len(body))),
        ],
    )
    gzip_member = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    parts = [gzip_member.compress(part) for part in (warc_head, http_head, body, b"\r\n\r\n")]
    return b"".join([*parts, gzip_member.flush()])


def _header_block(first_line: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """The first line, the headers and an empty line; line breaks in a value would make further headers of it."""
    lines = [first_line, *(f"{name}: {' '.join(value.splitlines())}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _sha1(*parts: bytes) -> str:
    """SHA-1 in the form that WARC files use, over all parts together."""
    hasher = hashlib.sha1(usedforsecurity=False)
    for part in parts:
        hasher.update(part)
    return f"sha1:{base64.b32encode(hasher.digest()).decode()}"


def _record_id(url: str, body: bytes) -> str:
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{url} {hashlib.sha256(body).hexdigest()}')}>"


def write_crawl(
    out_dir: Path,
    pages: Sequence[JournalPage],
    refused: Iterable[tuple[str, str]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes a crawl artifact from journal records: WARC files of about 64 MiB in order of URL, and the tables.

    `refused` holds (URL, reason). The journal files must have been verified. Only `fetched.parquet` holds times.
    """
    ordered = sorted(pages)
    places: list[tuple[str, int]] = []
    for number in itertools.count():
        if len(places) == len(ordered):
            break
        name = f"pages-{number:05d}.warc.gz"
        places += [(name, offset) for offset in _write_segment(out_dir / name, ordered[len(places) :])]
        progress(len(places), len(ordered))
    write_table(out_dir / "pages.parquet", _page_table(ordered, places))
    rows = [{"url": url, "reason": reason} for url, reason in sorted(refused)]
    write_table(out_dir / "refused.parquet", pa.Table.from_pylist(rows, schema=REFUSED_SCHEMA))
    fetched = [{name: getattr(page, name) for name in FETCHED_SCHEMA.names} for page in ordered]
    write_table(out_dir / "fetched.parquet", pa.Table.from_pylist(fetched, schema=FETCHED_SCHEMA))


def _write_segment(path: Path, pages: Sequence[JournalPage]) -> list[int]:
    """Copies records of the first pages, as many as fit, into the file `path`; returns their offsets."""
    offsets: list[int] = []
    size = 0
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        for page in pages:
            if offsets and size + page.n_stored_bytes > MAX_FILE_BYTES:
                break
            file.write(_read_member(page))
            offsets.append(size)
            size += page.n_stored_bytes
    return offsets


def _read_member(page: JournalPage) -> bytes:
    with open(page.path, "rb") as journal:
        journal.seek(page.offset)
        return journal.read(page.n_stored_bytes)


def _page_table(pages: Sequence[JournalPage], places: Sequence[tuple[str, int]]) -> pa.Table:
    rows = [
        {
            "url": page.url,
            "status": page.status,
            "content_type": page.content_type,
            "segment": segment,
            "offset": offset,
            "n_bytes": page.n_bytes,
            "sha256": page.sha256,
            "depth": page.depth,
            "source": urlsplit(page.url).hostname or "",
        }
        for page, (segment, offset) in zip(pages, places, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=PAGE_SCHEMA)


def check_sha256(path: Path, sha256: str) -> None:
    """Raises OSError when the file `path` is absent or its content is not the one that was written."""
    if not path.is_file() or sha256_file(path) != sha256:
        raise OSError(f"{path}: missing or damaged; delete {path.parent.parent} and crawl again")


def n_pages(crawl_dir: Path) -> int:
    """How many pages a crawl artifact holds."""
    return pq.read_metadata(crawl_dir / "pages.parquet").num_rows


def page_slices(crawl_dir: Path, pages_per_partition: int) -> list[PageSlice]:
    """The artifact's pages cut into partitions of `pages_per_partition` (the last may be smaller), in order of URL."""
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
    """The kept headers and the body of the page in a row of `pages.parquet`.

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
