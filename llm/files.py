"""Files that are either whole or absent: temporary name, fsync, rename; and hashes to prove it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

HASHED_BYTES = 1 << 20
"""Files outside of the store up to this size count by their content, larger ones by size and time."""
NO_LINKS = (errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK)
"""What a file system that has no hard links, or no more of them, answers."""


def sha256_file(path: Path) -> str:
    """Returns the SHA-256 of a file's content, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_state(path: Path) -> str:
    """Returns the state of a file: the hash of a small one, of a large one its bytes and the time of its last change
    in ns; "absent" where there is none."""
    if not path.is_file():
        return "absent"
    state = path.stat()
    return sha256_file(path) if state.st_size <= HASHED_BYTES else f"{state.st_size} {state.st_mtime_ns}"


def changed_files(states: Mapping[str, str], root: Path = Path()) -> list[str]:
    """Returns the names of the files, relative to `root`, that have not the state that is given for them."""
    return [name for name, state in states.items() if file_state(root / name) != state]


def hash_json(value: Any) -> str:
    """Returns 32 hexadecimal digits of the SHA-256 of canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def unique_beside(path: Path, suffix: str = ".tmp") -> Path:
    """Returns a hidden name beside `path` that no other process or machine gives out: process ids come again."""
    return path.with_name(f".{path.name}.{uuid4().hex}{suffix}")


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
    temporary = unique_beside(path)
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
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(path, target)


def put_new(path: Path, content: bytes) -> bool:
    """Writes a file that must not be there yet; returns whether this call has written it.

    Of several that try at the same time, in other processes or on other machines that share the file system, one
    gets True; the file appears whole. Where there are no hard links, a lock beside it decides.
    """
    temporary = unique_beside(path)
    try:
        temporary.write_bytes(content)
        fsync_file(temporary)
        made = _linked_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)
    return made


def _linked_new(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return temporary.stat().st_nlink > 1  # over NFS the first answer may be lost, and the second try finds itself
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with exclusive_lock(path.with_name(f".{path.name}.lock")):
            if path.exists():
                return False
            os.rename(temporary, path)
    return True


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON with sorted keys atomically; NaN and infinity are refused."""
    write_text(path, json_bytes(value).decode())


def json_bytes(value: Any) -> bytes:
    """Returns indented JSON with sorted keys; raises ValueError for NaN and infinity."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Returns the value of a JSON file."""
    return json.loads(path.read_bytes())


def sealed(values: dict[str, Any]) -> bytes:
    """Returns a JSON object with a hash of itself, as the bytes of a file."""
    return json_bytes({**values, "hash": hash_json(values)})


def write_sealed(path: Path, values: dict[str, Any]) -> None:
    """Writes a JSON object with a hash of itself, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(sealed(values))


def read_sealed(path: Path) -> dict[str, Any]:
    """Returns what `sealed` gave, without the hash; raises ValueError for anything else."""
    values = read_json(path)
    if not isinstance(values, dict) or values.pop("hash", None) != hash_json(values):
        raise ValueError(f"{path} is not as it was written")
    return values


def file_entry(path: Path, root: Path) -> dict[str, Any]:
    """Returns path, size, hash and number of records of a file, after making its content durable."""
    fsync_file(path)
    entry = {"path": str(path.relative_to(root)), "bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return {**entry, "records": n_records(path)}


def file_damage(root: Path, entries: Iterable[Mapping[str, Any]], sound: Mapping[str, int] | None = None) -> list[str]:
    """Returns what is wrong with the files of some `file_entry`, one line each.

    Sizes are always checked, and hashes but of those that have the time of last change, in ns, that `sound` gives.
    """
    problems = []
    for entry in entries:
        path = root / entry["path"]
        try:
            if not path.is_file():
                problems.append(f"{entry['path']} is missing")
            elif path.stat().st_size != entry["bytes"]:
                problems.append(f"{entry['path']} has {path.stat().st_size} bytes instead of {entry['bytes']}")
            elif path.stat().st_mtime_ns != (sound or {}).get(entry["path"]) and sha256_file(path) != entry["sha256"]:
                problems.append(f"{entry['path']} has changed since it was built")
        except OSError as error:  # a bad sector, say
            problems.append(f"{entry['path']} cannot be read ({error.strerror})")
    return problems


def n_records(path: Path) -> int | None:
    """Returns the number of rows of a Parquet file or of lines of a JSONL file; None for others."""
    if path.suffix == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    if path.suffix == ".jsonl":
        with open(path, "rb") as file:
            return sum(1 for _ in file)
    return None


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


def remove_at_once(path: Path, name: Path) -> None:
    """Removes a directory that somebody may still write into: under its own name it is gone before its files are.

    It is called `name`, in the same directory, meanwhile. Who opens a file by its old path then fails, and adds
    nothing.
    """
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, name)
        remove(name)


@contextlib.contextmanager
def lock_at_once(path: Path) -> Iterator[bool]:
    """Yields whether nobody else holds the lock file `path` (made if absent); if so, holds it for the block."""
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on the file `path` (made if absent), waiting for it.

    The kernel releases it when the process dies, so a killed holder never blocks anybody.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
