"""JSONL and plain text files, also compressed: records come one by one, and a bad one costs itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from ..common.bounded import VALUE_BYTES, Allowance, HoldsTooMuch
from ..common.texts import TextRecord
from .config import SourceConfig
from .found import MAX_RECORD_BYTES, Found, Skipped, decoded, is_unicode
from .members import CUT_OFF, DAMAGED, MAGIC, TOO_LARGE, Damage, gzip_stream

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
READ_BYTES = 64 * 1024
"""When a zstd file breaks off, up to so many bytes before the break are lost with it."""


def read_jsonl(path: Path, label: str, source: SourceConfig) -> Iterator[Found]:
    """Yields the texts of a file with one JSON object a line, in order; lines of white space are no records.

    Reasons: "damaged", "cut off", "too large", "not UTF-8", "not JSON", and those of `text_record`.
    """
    for number, line in enumerate(split_file(path, b"\n"), 1):
        if isinstance(line, Damage):
            yield Skipped(f"line {number}", line.problem, line.detail)
        elif line.strip():
            yield _json_record(line, number, label, source)


def _json_record(line: bytes, number: int, label: str, source: SourceConfig) -> Found:
    text = decoded(line)
    if text is None:
        return Skipped(f"line {number}", "not UTF-8")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Skipped(f"line {number}", "not JSON", str(error)[:200])
    if not isinstance(values, dict):
        return Skipped(f"line {number}", "not JSON", f"{type(values).__name__} instead of an object")
    return text_record(values, label, f"line {number}", source)


def text_record(values: dict[str, Any], label: str, place: str, source: SourceConfig) -> Found:
    """Returns the text of a row, or why it has none: "no text field", "text is not a string", "empty", "not Unicode".

    Without a URL of its own its address is made of the source, the file and the place, so it differs for each record.
    """
    if source.text_field not in values:
        known = ", ".join(sorted(values))[:200]
        return Skipped(place, "no text field", f"there is no {source.text_field!r}; there are {known}")
    text = values[source.text_field]
    title = values.get(source.title_field) if source.title_field else ""
    url = values.get(source.url_field) if source.url_field else ""
    if not isinstance(text, str):
        return Skipped(place, "text is not a string", type(text).__name__)
    if not text.strip():
        return Skipped(place, "empty")
    title, url = str(title or ""), str(url or f"{source.name}:{label}#{place.rpartition(' ')[2]}")
    if not (is_unicode(text) and is_unicode(title) and is_unicode(url)):
        return Skipped(place, "not Unicode", "half a surrogate pair")
    return TextRecord(url, title, text, source.name)


def read_text(path: Path, label: str, source: SourceConfig) -> Iterator[Found]:
    """Yields the documents of a text file in order: one for the whole file, or one between any two separators.

    Reasons: "damaged", "cut off", "too large", "not UTF-8". The rest of a document beside a damaged part is not used.
    """
    separator = source.separator.encode() if source.separator else None
    after_hole = False
    for number, piece in enumerate(split_file(path, separator), 1):
        place = f"document {number}"
        if isinstance(piece, Damage):
            yield Skipped(place, piece.problem, piece.detail)
        elif after_hole:
            yield Skipped(place, DAMAGED, "its beginning is lost")
        elif piece.strip():
            text = decoded(piece)
            yield (
                Skipped(place, "not UTF-8")
                if text is None
                else text_record({source.text_field: text}, label, place, source)
            )
        after_hole = isinstance(piece, Damage) and piece.problem == DAMAGED


def split_file(path: Path, separator: bytes | None) -> Iterator[bytes | Damage]:
    """Yields what stands between the separators of a file, inflated; see `split_pieces`.

    A file that holds more than `bounded.Allowance` allows ends there, with a Damage that is TOO_LARGE and says so. An
    empty line counts as well: 300,000 bytes of gzip hold 300 million, two minutes of work.
    """
    allowance = Allowance(path)
    with open(path, "rb") as file:
        try:
            for piece in split_pieces(_bounded(_pieces(file), allowance), separator):
                allowance.spend(VALUE_BYTES)
                yield piece
        except HoldsTooMuch as error:
            yield Damage(0, 0, TOO_LARGE, str(error))


def _bounded(pieces: Iterator[bytes | Damage], allowance: Allowance) -> Iterator[bytes | Damage]:
    for piece in pieces:
        allowance.spend(0 if isinstance(piece, Damage) else len(piece))
        yield piece


def _pieces(file: BinaryIO) -> Iterator[bytes | Damage]:
    """Yields the content of a file in pieces, inflated if it is gzip or zstd; told by its first bytes, not by its name.

    zstd has no place at which reading could go on after damage: the rest is lost, and named. Damage in a zstd file
    without checksums (its command line tool writes them) may go unnoticed.
    """
    start = file.read(4)
    if start.startswith(MAGIC):
        yield from gzip_stream(file)
        return
    file.seek(0)
    stream = pa.CompressedInputStream(pa.PythonFile(file), "zstd") if start == ZSTD_MAGIC else file
    try:
        while piece := stream.read(READ_BYTES):
            yield piece
    except OSError as error:
        yield Damage(0, 0, CUT_OFF if "runcated" in str(error) else DAMAGED)


def split_pieces(pieces: Iterator[bytes | Damage], separator: bytes | None) -> Iterator[bytes | Damage]:
    """Yields what stands between separators (None: all of it), however the stream is cut into pieces.

    What is not finished when damage comes is given up with it. More than MAX_RECORD_BYTES without a separator come as
    one Damage that is TOO_LARGE, and never stand in memory.
    """
    pending = bytearray()
    searched = 0
    too_large = False
    for piece in pieces:
        if isinstance(piece, Damage):
            yield piece
            pending.clear()
            searched, too_large = 0, False
            continue
        pending += piece
        start = 0
        while separator and (stop := pending.find(separator, max(start, searched))) >= 0:
            is_large = too_large or stop - start > MAX_RECORD_BYTES
            yield Damage(0, 0, TOO_LARGE) if is_large else bytes(pending[start:stop])
            start, too_large = stop + len(separator), False
        del pending[:start]
        searched = max(len(pending) - len(separator or b""), 0)
        if len(pending) > MAX_RECORD_BYTES:
            too_large = True
            del pending[:searched]
            searched = 0
    if too_large:
        yield Damage(0, 0, TOO_LARGE)
    elif pending:
        yield bytes(pending)
