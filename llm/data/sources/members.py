"""Gzip files member by member: a damaged member costs itself, and reading goes on at the next one.

A member is a compressed piece with a checksum of its own; WARC files hold one per record. zlib alone would end at the
first damage, and take a file that was cut off for one that is complete.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from fastwarc.stream_io import GzipReader

MAGIC = b"\x1f\x8b\x08"
READ_BYTES = 32 * 1024
"""A piece inflates to at most a thousand times its size, so this also bounds what a bomb costs: 32 MiB."""
SCAN_BYTES = 2**20
MAX_TRIED_BYTES = 64 * 2**20
"""So much is inflated, or as much as the file has, in search of a member that is whole: what looks like the beginning
of one may stand in a hostile file at every tenth byte, and each would be inflated to the end."""
HEADER_BYTES = 512
"""In so many bytes a gzip header ends and its content begins, as a rule."""
SMALL_MEMBER_BYTES = 64 * 1024

CUT_OFF = "cut off"
DAMAGED = "damaged"
TOO_LARGE = "too large"


@dataclass(frozen=True)
class Member:
    """A gzip member from byte `start` to `stop` (exclusive) of its file.

    `raw` is the member itself and `data` what it holds, both b"" if `problem` is not "": it is then CUT_OFF (the file
    ends inside), DAMAGED, or TOO_LARGE.
    """

    start: int
    stop: int
    raw: bytes
    data: bytes
    problem: str = ""


@dataclass(frozen=True)
class Damage:
    """A hole in a stream of bytes: what stood from byte `start` to `stop` (exclusive) of the file is not usable."""

    start: int
    stop: int
    problem: str
    detail: str = ""


def read_member(file: BinaryIO, start: int, max_bytes: int) -> Member:
    """Returns the member at byte `start`; TOO_LARGE if it holds more than `max_bytes`, though it is read to its end."""
    file.seek(start)
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    raw: list[bytes] = []
    data: list[bytes] = []
    n_raw = n_data = 0
    while not inflate.eof:
        piece = file.read(READ_BYTES)
        if not piece:
            return Member(start, start + n_raw, b"", b"", CUT_OFF)
        try:
            inflated = inflate.decompress(piece)
        except zlib.error:
            return Member(start, start + n_raw + len(piece), b"", b"", DAMAGED)
        used = piece[: len(piece) - len(inflate.unused_data)]
        n_raw, n_data = n_raw + len(used), n_data + len(inflated)
        if n_data <= max_bytes:
            raw.append(used)
            data.append(inflated)
        else:
            raw.clear()
            data.clear()
    if n_data > max_bytes:
        return Member(start, start + n_raw, b"", b"", TOO_LARGE)
    return Member(start, start + n_raw, b"".join(raw), b"".join(data))


def _small_member(file: BinaryIO, start: int, max_bytes: int) -> Member | None:
    """Returns what `read_member` gives for a small, sound member, at twice its speed; None for any other.

    FastWARC inflates faster than Python's zlib, but does not say where a member ends, and takes a cut for an end. So it
    is given the bytes up to what looks like the next member, and the length that a member ends with is compared.
    """
    file.seek(start)
    piece = file.read(SMALL_MEMBER_BYTES)
    n_raw = piece.find(MAGIC, len(MAGIC))
    if n_raw < 0 or not piece.startswith(MAGIC):
        return None
    raw = piece[:n_raw]
    n_data = int.from_bytes(raw[-4:], "little")
    if n_data > max_bytes:
        return None
    try:
        data = GzipReader(io.BytesIO(raw)).read(n_data + 1)
    except OSError:
        return None
    return Member(start, start + n_raw, raw, data) if len(data) == n_data else None


def gzip_members(file: BinaryIO, max_bytes: int, *, prefix: bytes = b"") -> Iterator[Member]:
    """Yields all members of a file; after damage it goes on at the next member, whose content begins with `prefix`.

    Bytes that belong to no member come as one damaged member.
    """
    start = 0
    while has_byte(file, start):
        member = _small_member(file, start, max_bytes) or read_member(file, start, max_bytes)
        if member.problem in (CUT_OFF, DAMAGED):
            following = next_member(file, start + 1, prefix)
            if following is None:
                yield Member(start, file.seek(0, 2), b"", b"", member.problem)
                return
            # Damage can look like the end of the file, when it makes the rest look like one member.
            member = Member(start, following, b"", b"", DAMAGED)
        yield member
        start = member.stop


def gzip_stream(file: BinaryIO) -> Iterator[bytes | Damage]:
    """Yields the content of a gzip file in pieces, whatever its size, with a `Damage` where a member is not usable.

    Of a member that is cut off by the end of the file, everything before the cut comes. A member with a wrong checksum
    is left out whole: nobody can say which of its bytes are right. So each member is read twice, first to check it.
    """
    for member in gzip_members(file, 0):
        if member.problem == DAMAGED:
            yield Damage(member.start, member.stop, DAMAGED)
            continue
        yield from inflated(file, member.start)
        if member.problem == CUT_OFF:
            yield Damage(member.stop, member.stop, CUT_OFF)


def inflated(file: BinaryIO, start: int) -> Iterator[bytes]:
    """Yields the content of the member at byte `start` in pieces, to its end or the file's.

    Zlib.error where it is damaged.
    """
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    position = start
    while not inflate.eof:
        file.seek(position)  # another reader of the same file may have moved
        piece = file.read(READ_BYTES)
        if not piece:
            return
        position += len(piece)
        yield inflate.decompress(piece)


def next_member(file: BinaryIO, start: int, prefix: bytes) -> int | None:
    """Returns the byte, at or after `start`, at which the next member begins; None if there is none.

    A member is known by the beginning of its content; without a `prefix` it must be whole, and after MAX_TRIED_BYTES
    in vain the rest counts as having none.
    """
    n_left = max(MAX_TRIED_BYTES, file.seek(0, 2))
    while True:
        file.seek(start)
        piece = file.read(SCAN_BYTES)
        position = piece.find(MAGIC)
        while position >= 0:
            at = start + position
            is_member = _begins(piece[position : position + HEADER_BYTES], prefix) if prefix else None
            if is_member is None and n_left > 0:
                n_tried, is_member = _tried(file, at, prefix)
                n_left -= n_tried
            if is_member:
                return at
            position = piece.find(MAGIC, position + 1)
        if len(piece) < SCAN_BYTES:
            return None
        start += len(piece) - len(MAGIC) + 1


def _begins(head: bytes, prefix: bytes) -> bool | None:
    """Returns whether the content of a member begins with `prefix`, by its first bytes; None: they do not say."""
    try:
        content = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, len(prefix))
    except zlib.error:
        return False
    return None if len(content) < len(prefix) and prefix.startswith(content) else content == prefix


def _tried(file: BinaryIO, start: int, prefix: bytes) -> tuple[int, bool | None]:
    """Returns how many bytes were read to tell whether a member begins, and the answer."""
    if prefix:
        file.seek(start)
        return READ_BYTES, _begins(file.read(READ_BYTES), prefix)
    member = read_member(file, start, 0)
    return READ_BYTES + member.stop - member.start, member.problem not in (CUT_OFF, DAMAGED)


def has_byte(file: BinaryIO, position: int) -> bool:
    """Returns whether the file goes on at `position`."""
    file.seek(position)
    return bool(file.read(1))
