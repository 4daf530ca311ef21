"""The files of documents of an artifact as partitions, in which every document has its number in the whole corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...files import read_json, read_table
from .keyed import Numbers


@dataclass(frozen=True)
class DocumentPart:
    """One file of documents: those with the numbers `start` to `stop` (exclusive). `index` is the file's number.

    A document's number is its position in all files together, so it does not depend on how they are cut.
    """

    index: int
    path: Path
    start: int
    stop: int

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Returns the documents, in order of number; raises OSError for a damaged file."""
        return read_table(self.path, columns=columns)

    @property
    def numbers(self) -> Numbers:
        """The numbers of the documents."""
        return np.arange(self.start, self.stop)


def document_parts(files: Sequence[Path]) -> list[DocumentPart]:
    """Returns the files as partitions, in the order given."""
    ends = np.cumsum([pq.read_metadata(path).num_rows for path in files]).tolist()
    starts = [0, *ends[:-1]]
    return [
        DocumentPart(i, path, start, end) for i, (path, start, end) in enumerate(zip(files, starts, ends, strict=True))
    ]


def spread_numbers(parts: Sequence[DocumentPart], n: int) -> tuple[int, ...]:
    """Returns up to `n` document numbers at equal distances over the whole corpus: a sample from everywhere."""
    n_documents = parts[-1].stop if parts else 0
    return tuple(sorted({i * n_documents // n for i in range(n)})) if n_documents else ()


def finished_folders(listing: Path) -> list[Path]:
    """Returns the folders of the partitions of one step, in order, as a JSON file names them, from where it is."""
    return [listing.parent / name for name in read_json(listing)]
