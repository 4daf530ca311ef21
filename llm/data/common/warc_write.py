"""Writes web pages as WARC: records whose bytes depend on the page alone, and the files of a crawl artifact.

A record is one gzip member, so the artifact is made by copying members in URL order, and a page is read by seeking.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import itertools
import uuid
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa

from ...files import atomic_path, write_table

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


class JournalPage(NamedTuple):
    """A stored page and the position of its record (one gzip member) in the journal; `fetched_at` in ms since 1970.

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
    """Returns the response record of a page as one gzip member; equal pages give equal bytes (with the same zlib)."""
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
    positions: list[tuple[str, int]] = []
    for number in itertools.count():
        if len(positions) == len(ordered):
            break
        name = f"pages-{number:05d}.warc.gz"
        positions += [(name, offset) for offset in _write_segment(out_dir / name, ordered[len(positions) :])]
        progress(len(positions), len(ordered))
    write_table(out_dir / "pages.parquet", _page_table(ordered, positions))
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


def _page_table(pages: Sequence[JournalPage], positions: Sequence[tuple[str, int]]) -> pa.Table:
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
        for page, (segment, offset) in zip(pages, positions, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=PAGE_SCHEMA)
