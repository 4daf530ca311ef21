"""The journal of a crawl: segment files of WARC records, in the order in which pages were stored.

A segment counts when the ledger names it; what the ledger does not name is left from a process that was killed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ...files import atomic_path, sha256_file
from ..common.warc_write import encode_record
from .outcome import FetchedPage


class Segment(NamedTuple):
    """A segment file that has been written, and the (offset, length) of each record in it."""

    name: str
    sha256: str
    positions: list[tuple[int, int]]


class Journal:
    """The segment files in `work_dir`."""

    def __init__(self, work_dir: Path) -> None:
        self.folder = work_dir / "segments"
        self.folder.mkdir(parents=True, exist_ok=True)

    def keep_only(self, named: set[str]) -> None:
        """Removes all other files; raises OSError when one of these is gone."""
        present = {path.name for path in self.folder.iterdir()}
        for name in present - named:
            (self.folder / name).unlink()
        if missing := sorted(named - present):
            raise OSError(
                f"{self.folder / missing[0]} is gone, but the crawl needs it; "
                f"delete {self.folder.parent} and crawl again"
            )

    def write(self, number: int, pages: Sequence[FetchedPage]) -> Segment:
        """Writes segment `number`, durably."""
        name = f"{number:06d}.warc.gz"
        records = [encode_record(page.row.url, page.status, page.headers, page.body) for page in pages]
        positions, offset = [], 0
        for record in records:
            positions.append((offset, len(record)))
            offset += len(record)
        content = b"".join(records)
        with atomic_path(self.folder / name) as temporary:
            temporary.write_bytes(content)
        return Segment(name, hashlib.sha256(content).hexdigest(), positions)

    def verify(self, segments: Iterable[tuple[str, str]]) -> None:
        """Raises OSError when a segment (name, SHA-256) is not what was written."""
        for name, sha256 in segments:
            path = self.folder / name
            if not path.is_file() or sha256_file(path) != sha256:
                raise OSError(f"{path}: missing or damaged; delete {self.folder.parent} and crawl again")
