"""Texts in the Parquet files of an artifact (`texts-*.parquet`): what needs no extraction, cut into partitions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ...files import read_rows

TEXT_SCHEMA = pa.schema([(name, pa.string()) for name in ("url", "title", "text", "source")])


@dataclass(frozen=True)
class TextRecord:
    """A text that needs no extraction. `source` see `Document`; `title` may be ""; `url` names the record's origin."""

    url: str
    title: str
    text: str
    source: str


@dataclass(frozen=True)
class TextSlice:
    """Some rows of an artifact's text files: the input of one partition.

    `pieces` are (file name, first row, row after the last) in the order of reading.
    """

    dir: Path
    pieces: tuple[tuple[str, int, int], ...]

    def read(self) -> Iterator[TextRecord]:
        """Yields the texts of the slice in order, one row group in memory at a time.

        Raises OSError for a damaged file.
        """
        for name, start, stop in self.pieces:
            yield from (TextRecord(**row) for row in read_rows(self.dir / name, start, stop))


def text_slices(artifact_dir: Path, n_per_partition: int) -> Iterator[TextSlice]:
    """Yields the rows of an artifact's `texts-*.parquet`, in order of file and row, cut into partitions."""
    pieces: list[tuple[str, int, int]] = []
    missing = n_per_partition
    for path in sorted(artifact_dir.glob("texts-*.parquet")):
        n_rows = pq.read_metadata(path).num_rows
        start = 0
        while start < n_rows:
            stop = min(start + missing, n_rows)
            pieces.append((path.name, start, stop))
            missing -= stop - start
            start = stop
            if missing == 0:
                yield TextSlice(artifact_dir, tuple(pieces))
                pieces, missing = [], n_per_partition
    if pieces:
        yield TextSlice(artifact_dir, tuple(pieces))
