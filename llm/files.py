"""Files that are either whole or absent: temporary name, fsync, rename; and hashes to prove it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq


def sha256_file(path: Path) -> str:
    """Returns the SHA-256 of a file's content, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_directory(path: Path) -> None:
    """Makes renames and removals inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Makes the content of `path` durable."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` and renames it there when the block ends well.

    When the block raises (a full disk, say), the temporary file is removed and `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        fsync_file(temporary)
        os.replace(temporary, path)
        fsync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def link_or_copy(path: Path, target: Path) -> None:
    """Gives a file a second name: a hard link, or a copy on file systems that have none."""
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK):
            raise
        shutil.copyfile(path, target)


def put_new(path: Path, content: bytes) -> bool:
    """Writes a file that must not be there yet; returns whether this call has written it.

    Of several that try at the same time, in other processes or on other machines that share the file system, one gets
    True; the file appears whole.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        fsync_file(temporary)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)
    return True


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON with sorted keys atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Returns the value of a JSON file."""
    return json.loads(path.read_bytes())


def write_table(path: Path, table: pa.Table, *, row_group_size: int = 65_536) -> None:
    """Writes a Parquet file (zstd, page checksums) atomically; the same table always gives the same bytes."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=row_group_size, write_page_checksum=True)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Reads a Parquet file with its page checksums verified; raises OSError for a damaged page."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read(columns=columns)


def read_rows(path: Path, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Yields rows `start` to `stop` (exclusive) of a Parquet file in order, one row group in memory at a time.

    Only the row groups that hold them are read; raises OSError for a damaged page.
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        first = 0
        for number in range(file.num_row_groups):
            after = first + file.metadata.row_group(number).num_rows
            if start < after and stop > first:
                begin = max(start, first)
                rows = file.read_row_group(number).slice(begin - first, min(stop, after) - begin)
                yield from rows.to_pylist()
            first = after


def remove(path: Path) -> None:
    """Removes a file or a directory tree, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on the file `path` (made if absent), waiting for it.

    The kernel releases it when the process dies, so a killed holder never blocks anybody.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
