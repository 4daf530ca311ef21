"""Common Crawl: whole archives from a list of paths, or single records from an index, by byte ranges."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...redact import public_url, redacted
from ..common.bounded import bounded_rows
from ..common.credential import PUBLIC, Access, opened
from .config import SourceConfig
from .download import download
from .locate import SourceFile, is_remote, local_path
from .members import Damage
from .text_files import split_file

INDEX_COLUMNS = {
    "file": ("filename", "warc_filename"),
    "offset": ("offset", "warc_record_offset"),
    "length": ("length", "warc_record_length"),
}
MAX_SPAN_BYTES = 2**30
MERGED_GAP_BYTES = 64 * 1024
"""Records closer together than this come with one request."""
MERGED_BYTES = 8 * 2**20
"""A request is not made larger than this to save another one."""


def listed_files(source: SourceConfig, downloads: Path) -> list[SourceFile]:
    """Returns the archives of a path list in its order, or those of an index by name, each with the records wanted.

    Raises ValueError for a list or an index that cannot be understood.
    """
    access = opened(source.credential)
    if source.path_list:
        return _listed_files(source, local_path(source.path_list, downloads, access))
    return _indexed_files(source, local_path(str(source.index), downloads, access))


def _listed_files(source: SourceConfig, path_list: Path) -> list[SourceFile]:
    names = [line.strip() for line in _lines(path_list) if line.strip()]
    if not names:
        raise ValueError(f"{source.name}: path_list {source.path_list} is empty")
    return [_below_base(source, name, ()) for name in names[: source.max_files]]


def _indexed_files(source: SourceConfig, index: Path) -> list[SourceFile]:
    spans: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for number, row in enumerate(_index_rows(index), 1):
        try:
            name, offset, length = (_value(row, what) for what in ("file", "offset", "length"))
            start, stop = int(offset), int(offset) + int(length)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{source.name}: index {source.index}, row {number}, has no file, offset and length: {error}; "
                f"they are called {INDEX_COLUMNS}"
            ) from error
        if not 0 <= start < stop <= start + MAX_SPAN_BYTES:
            raise ValueError(
                f"{source.name}: index {source.index}, row {number}: bytes {start} to {stop} are no record"
            )
        spans[str(name)].add((start, stop))
    if not spans:
        raise ValueError(f"{source.name}: index {source.index} is empty")
    return [_below_base(source, name, tuple(sorted(spans[name]))) for name in sorted(spans)]


def _index_rows(index: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of an index, Parquet or a JSON object a line, which in CDXJ stands behind key and time."""
    with open(index, "rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    if is_parquet:
        yield from bounded_rows(index)
        return
    for number, line in enumerate(_lines(index), 1):
        if line.strip():
            try:
                yield json.loads(line[line.index("{") :])
            except ValueError as error:
                raise ValueError(
                    f"index {index}, line {number}, has no JSON object: {redacted(line)[:100]!r}"
                ) from error


def _value(row: dict[str, Any], what: str) -> Any:
    return row[next((name for name in INDEX_COLUMNS[what] if name in row), what)]


def _lines(path: Path) -> Iterator[str]:
    """Yields the lines of a text file, inflated if it is gzip; raises OSError for a damaged one."""
    for line in split_file(path, b"\n"):
        if isinstance(line, Damage):
            reason = ", ".join(filter(None, (line.problem, line.detail)))
            raise OSError(f"{path} is damaged ({reason}); delete it and run again")
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise OSError(f"{path} is damaged ({error}); delete it and run again") from error


def _below_base(source: SourceConfig, name: str, spans: tuple[tuple[int, int], ...]) -> SourceFile:
    """Returns the file `name` of a list or an index, which must lie below `base_url`: the list came from outside."""
    if is_remote(name) or name.startswith("/") or ".." in name.split("/") or not re.fullmatch(r"[!-~]+", name):
        raise ValueError(
            f"{source.name}: {redacted(name)[:200]!r} is no path below base_url; is this a list of archives?"
        )
    n_bytes = sum(stop - start for start, stop in spans) if spans else None
    location = f"{source.base_url.rstrip('/')}/{name}"
    label = public_url(location)[len(location) - len(name) :] if is_remote(location) else name
    return SourceFile(label, location, n_bytes, spans)


def read_spans(file: SourceFile, downloads: Path, access: Access = PUBLIC) -> Iterator[tuple[int, bytes]]:
    """Yields the first byte and the content of each wanted span of a file, fetching nothing else but small gaps."""
    for start, stop, spans in merged(file.spans):
        content = _content(file.location, (start, stop), downloads, access)
        yield from ((first, content[first - start : after - start]) for first, after in spans)


def _content(location: str, span: tuple[int, int], downloads: Path, access: Access) -> bytes:
    """Returns the bytes of a file in a span, fewer where it ends before."""
    start, stop = span
    if location.startswith(("http://", "https://")):
        return download(location, downloads, span, access).path.read_bytes()
    if is_remote(location):
        import fsspec

        system, inner = fsspec.core.url_to_fs(location)
        return system.cat_file(inner, start, stop)
    with open(location, "rb") as archive:
        archive.seek(start)
        return archive.read(stop - start)


def merged(spans: tuple[tuple[int, int], ...]) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Returns sorted spans grouped into requests: (first byte, byte after the last, the spans within)."""
    requests: list[tuple[int, int, list[tuple[int, int]]]] = []
    for start, stop in spans:
        if requests:
            first, after, members = requests[-1]
            if start - after <= MERGED_GAP_BYTES and max(stop, after) - first <= MERGED_BYTES:
                requests[-1] = (first, max(stop, after), [*members, (start, stop)])
                continue
        requests.append((start, stop, [(start, stop)]))
    return requests
