"""WARC and WET files: pages out of response records, texts out of conversion records; digests are checked."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from fastwarc.warc import WarcRecord, WarcRecordType

from ..common.texts import TextRecord
from ..common.warc_write import encode_record
from .found import MAX_RECORD_BYTES, Found, FoundPage, Skipped, decoded, is_unicode
from .warc_split import RawRecord, measured, raw_records

HTML_TYPES = ("text/html", "application/xhtml+xml")
DIGESTS = ("md5", "sha1", "sha256", "sha512")
PAGES = (WarcRecordType.response, WarcRecordType.resource, WarcRecordType.revisit, WarcRecordType.continuation)
"""Records that stand for a page. Only responses hold it; the others are counted and skipped."""


def read_warc(file: BinaryIO, first_byte: int = 0) -> Iterator[Found]:
    """Yields the pages of a WARC file in order; every other record that stands for a page comes as skipped.

    Places are counted from `first_byte`, which is not 0 where `file` is only a piece of one.

    Reasons: "damaged", "cut off", "too large", "wrong digest", "not a response", "not HTTP", "HTTP status", "not HTML",
    "no URL", "content encoding".
    """
    for raw, record in _records(file, first_byte):
        if isinstance(record, Skipped):
            yield record
        elif record.record_type in PAGES:
            yield _page(raw, record)


def read_wet(file: BinaryIO, source: str, first_byte: int = 0) -> Iterator[Found]:
    """Yields the texts of a WET file in order, as Common Crawl extracted them.

    Reasons as in `read_warc`, and "not UTF-8".
    """
    for raw, record in _records(file, first_byte):
        if isinstance(record, Skipped):
            yield record
        elif record.record_type == WarcRecordType.conversion:
            yield _text(raw, record, source)


def _records(file: BinaryIO, first_byte: int) -> Iterator[tuple[RawRecord, WarcRecord | Skipped]]:
    """The records of a file, parsed, with what is damaged as skipped."""
    for found in raw_records(file):
        raw = dataclasses.replace(found, offset=found.offset + first_byte) if first_byte else found
        if raw.problem:
            yield raw, _skipped(raw, raw.problem)
            continue
        try:
            yield raw, WarcRecord.from_bytes(raw.data)
        except OSError as error:
            yield raw, _skipped(raw, "damaged", str(error))


def _skipped(raw: RawRecord, reason: str, detail: str = "") -> Skipped:
    return Skipped(f"byte {raw.offset}", reason, detail)


def _text(raw: RawRecord, record: WarcRecord, source: str) -> Found:
    url = _url(record)
    block = _block(raw)
    text = decoded(block)
    if not url:
        return _skipped(raw, "no URL")
    if problem := _wrong_digest(record, "WARC-Block-Digest", block):
        return _skipped(raw, "wrong digest", f"{url} {problem}")
    return _skipped(raw, "not UTF-8", url) if text is None else TextRecord(url, "", text, source)


def _page(raw: RawRecord, record: WarcRecord) -> Found:
    url = _url(record)
    if not url:
        return _skipped(raw, "no URL")
    if problem := _wrong_digest(record, "WARC-Block-Digest", _block(raw)):
        return _skipped(raw, "wrong digest", f"{url} {problem}")
    if record.record_type != WarcRecordType.response:
        return _skipped(raw, "not a response", f"{url} {record.record_type}")
    return _http_page(raw, record, url)


def _http_page(raw: RawRecord, record: WarcRecord, url: str) -> Found:
    """The page of a response record, or why there is none."""
    try:
        record.parse_http()
        headers, status = record.http_headers, record.http_headers.status_code
        body = record.reader.read()
    except (OSError, AttributeError) as error:  # None where there is no HTTP header
        return _skipped(raw, "not HTTP", f"{url} {error}")
    if not record.is_http or not status:
        return _skipped(raw, "not HTTP", url)
    content_type = headers.get("Content-Type") or ""
    if status != 200:
        return _skipped(raw, "HTTP status", f"{url} {status}")
    if content_type and content_type.partition(";")[0].strip().lower() not in HTML_TYPES:
        return _skipped(raw, "not HTML", f"{url} {content_type[:100]}")
    plain = _without_encodings(raw, headers, body)
    if plain is None or len(plain) > MAX_RECORD_BYTES:
        return _skipped(raw, "content encoding" if plain is None else "too large", url)
    if _wrong_digest(record, "WARC-Payload-Digest", body) and _wrong_digest(record, "WARC-Payload-Digest", plain):
        return _skipped(raw, "wrong digest", f"{url} {record.headers.get('WARC-Payload-Digest')}")
    return FoundPage(url, status, content_type, plain, _member(raw, record, url, body, plain))


def _without_encodings(raw: RawRecord, headers: Any, body: bytes) -> bytes | None:
    """The body without Transfer-Encoding and Content-Encoding; None for an encoding that is wrong or unknown."""
    encodings = [headers.get(name) or "" for name in ("Transfer-Encoding", "Content-Encoding")]
    if all(encoding.strip().lower() in ("", "identity") for encoding in encodings):
        return body
    try:
        record = WarcRecord.from_bytes(raw.data)
        record.parse_http(auto_decode="all")
        return record.reader.read(MAX_RECORD_BYTES + 1)
    except OSError:
        return None


def _member(raw: RawRecord, record: WarcRecord, url: str, body: bytes, plain: bytes) -> bytes:
    """The record as one gzip member: as it stands in the file where a reader needs nothing else, or written anew."""
    if raw.member and plain is body and record.headers.get("WARC-Target-URI") == url:
        return raw.member
    headers = record.http_headers
    return encode_record(url, headers.status_code or 0, headers.to_tuples(), plain)


def _url(record: WarcRecord) -> str:
    """The address of a record, "" if there is none that can be written down; WARC 1.0 puts it in angle brackets."""
    url = record.headers.get("WARC-Target-URI") or ""
    url = url.strip().removeprefix("<").removesuffix(">")
    return url if is_unicode(url) else ""


def _block(raw: RawRecord) -> bytes:
    n_header, n_block = measured(raw.data)
    return raw.data[n_header : n_header + n_block]


def _wrong_digest(record: WarcRecord, name: str, data: bytes) -> str:
    """The record's digest if `data` has another one; "" if it agrees, is absent, or is of a kind not known here."""
    digest = record.headers.get(name) or ""
    kind, _, value = digest.partition(":")
    if kind.lower() not in DIGESTS:
        return ""
    found = hashlib.new(kind.lower(), data, usedforsecurity=False).digest()
    return "" if value.lower() == found.hex() or _from_base32(value) == found else digest


def _from_base32(value: str) -> bytes:
    try:
        return base64.b32decode(value.upper())
    except binascii.Error:
        return b""
