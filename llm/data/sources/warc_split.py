"""WARC files cut into records without losing one silently: gzip by record, gzip as a whole, or not compressed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from .found import MAX_RECORD_BYTES
from .members import (
    CUT_OFF,
    DAMAGED,
    READ_BYTES,
    TOO_LARGE,
    Damage,
    gzip_members,
    gzip_stream,
    inflated,
    next_member,
)

PREFIX = b"WARC/"
MAX_HEADER_BYTES = 64 * 1024
END = b"\r\n\r\n"
MAX_EMPTY_BYTES = 8
"""After a record come two line breaks; some writers make it fewer or more."""
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
_NEXT = re.compile(rb"WARC/1\.\d\r\n")
_INSIDE = re.compile(rb"\nWARC/1\.\d\r\n")
_NEXT_BYTES = len(b"WARC/1.0\r\n")


@dataclass(frozen=True)
class RawRecord:
    """A record with its header, as it stands in the file; `data` is b"" if `problem` is not "".

    `offset` counts bytes of the file, or of what is in it where the file is compressed as a whole. `member` is the
    record as a gzip member, b"" if it is not one.
    """

    offset: int
    data: bytes
    member: bytes = b""
    problem: str = ""


def raw_records(file: BinaryIO) -> Iterator[RawRecord]:
    """Yields all records of a WARC file in order; what cannot be read comes as a record with a problem."""
    file.seek(0)
    begins_plain = file.read(len(PREFIX)) == PREFIX
    first = None if begins_plain else next_member(file, 0, PREFIX)
    if first is None:
        return split_records(_pieces(file))
    return _members(file) if _holds_one_record(file, first) else split_records(gzip_stream(file))


def _members(file: BinaryIO) -> Iterator[RawRecord]:
    for member in gzip_members(file, MAX_RECORD_BYTES, prefix=PREFIX):
        problem = member.problem or _problem(member.data)
        yield RawRecord(member.start, b"" if problem else member.data, b"" if problem else member.raw, problem)


def _problem(data: bytes) -> str:
    """Returns DAMAGED unless `data` is one record: a header that ends, as much content as announced, empty lines."""
    n_header, n_block = measured(data)
    stop = n_header + n_block
    return "" if n_header and len(data) >= stop and not data[stop:].strip(b"\r\n") else DAMAGED


def measured(data: bytes) -> tuple[int, int]:
    """Returns the bytes of the header of the record that `data` begins with, and of its block.

    (0, 0) if there is no header.
    """
    return _measured(data, data.find(END, 0, MAX_HEADER_BYTES) + len(END))


def _measured(data: bytes | bytearray, n_header: int) -> tuple[int, int]:
    """Returns `measured` of data whose first empty line ends at byte `n_header`.

    A header in which another one begins has lost its end. Without that rule a file of nothing but beginnings costs a
    search of 64 KiB for each of them.
    """
    if n_header < len(END) or not data.startswith(PREFIX) or _INSIDE.search(data, 0, n_header):
        return 0, 0
    length = _LENGTH.search(data, 0, n_header)
    return (n_header, int(length[1])) if length else (0, 0)


def _holds_one_record(file: BinaryIO, start: int) -> bool:
    """Returns whether the member at `start` ends with its first record; else the file was compressed whole."""
    data = bytearray()
    try:
        for piece in inflated(file, start):
            data += piece
            n_header, n_block = measured(bytes(data[:MAX_HEADER_BYTES]))
            if n_header and data[n_header + n_block :].strip(b"\r\n"):
                return False
            if len(data) > MAX_RECORD_BYTES:
                break
    except zlib.error:
        pass
    return True


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    position = 0
    while True:
        file.seek(position)
        piece = file.read(READ_BYTES)
        if not piece:
            return
        position += len(piece)
        yield piece


class _Buffer:
    """The next bytes of a stream; `offset` is the position of the first of them."""

    def __init__(self, pieces: Iterable[bytes | Damage]) -> None:
        self._pieces = iter(pieces)
        self.data = bytearray()
        self.offset = 0
        self.damage: Damage | None = None
        self._end = self._searched = 0

    def measured(self) -> tuple[int, int]:
        """Returns `measured` of what is there. No byte is searched twice for the end of a header."""
        if self._end - len(END) < self.offset:
            begin = max(self._searched - self.offset, 0)
            found = self.data.find(END, begin, MAX_HEADER_BYTES)
            if found < 0:
                n_searched = min(len(self.data), MAX_HEADER_BYTES) - len(END) + 1
                self._searched = max(self._searched, self.offset + n_searched)
                return 0, 0
            self._end = self.offset + found + len(END)
        n_header = self._end - self.offset
        return _measured(self.data, n_header) if n_header <= MAX_HEADER_BYTES else (0, 0)

    def fill(self, n_bytes: int) -> bool:
        """Reads until `n_bytes` are there; False if damage or the end comes before."""
        while len(self.data) < n_bytes and self.damage is None:
            piece = next(self._pieces, None)
            if piece is None:
                return False
            if isinstance(piece, Damage):
                self.damage = piece
            else:
                self.data += piece
        return len(self.data) >= n_bytes

    def drop(self, n_bytes: int) -> None:
        """Drops bytes from the front."""
        del self.data[:n_bytes]
        self.offset += n_bytes


def split_records(pieces: Iterable[bytes | Damage]) -> Iterator[RawRecord]:
    """Yields the records of a stream that is not (or no longer) compressed.

    After damage it goes on at the next record.
    """
    buffer = _Buffer(pieces)
    while buffer.fill(MAX_HEADER_BYTES) or buffer.data or buffer.damage:
        yield _next_record(buffer)


def _next_record(buffer: _Buffer) -> RawRecord:
    """Takes the next record off the buffer; one with a problem if what is there is none."""
    offset = buffer.offset
    n_header, n_block = buffer.measured()
    stop = n_header + n_block
    too_large = stop > MAX_RECORD_BYTES
    if n_header and not too_large and _is_complete(buffer, stop):
        data = bytes(buffer.data[:stop])
        buffer.drop(stop)
        buffer.drop(len(buffer.data) - len(buffer.data.lstrip(b"\r\n")))
        return RawRecord(offset, data)
    begins = bytes(buffer.data[: len(PREFIX)])
    has_hole = buffer.damage is not None and buffer.damage.problem == DAMAGED
    found = _resynchronise(buffer)
    if too_large:
        return RawRecord(offset, b"", problem=TOO_LARGE)
    ends_early = not has_hole and not found and PREFIX.startswith(begins)
    return RawRecord(offset, b"", problem=CUT_OFF if ends_early else DAMAGED)


def _is_complete(buffer: _Buffer, stop: int) -> bool:
    """Returns whether all bytes before `stop` are there, and after them the empty lines, another record, or the end."""
    buffer.fill(stop + MAX_EMPTY_BYTES + len(PREFIX))
    following = bytes(buffer.data[stop : stop + MAX_EMPTY_BYTES + len(PREFIX)])
    is_record = PREFIX.startswith(following.lstrip(b"\r\n")[: len(PREFIX)])
    return len(buffer.data) >= stop and (is_record or following.startswith(END))


def _resynchronise(buffer: _Buffer) -> bool:
    """Drops everything before the next record, past a hole if one comes first; False if there is no further record.

    It searches rather than counts: what a damaged record says of its length may be wrong.
    """
    start = len(PREFIX) if buffer.data else 0  # what the buffer begins with is no record
    while not (found := _NEXT.search(buffer.data, start)):
        if len(buffer.data) > _NEXT_BYTES:
            buffer.drop(len(buffer.data) - _NEXT_BYTES)
            start = 0
        if not buffer.fill(len(buffer.data) + READ_BYTES) and not _NEXT.search(buffer.data, start):
            has_hole, buffer.damage = buffer.damage is not None, None
            buffer.drop(len(buffer.data))
            start = 0
            if not has_hole:
                return False
    buffer.drop(found.start())
    return True
