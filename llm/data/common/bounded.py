"""Files of other people that hold much more than their size: how much is read of one, and Parquet files read so.

A page of 1,000 bytes can stand for 120 GB of texts: a dictionary with one long value, and a count of how often it
comes. So a file may hold a thousand times its size, or 256 MiB if that is more; the texts of rows are added up before
they are made, and only as many as fit into one piece are made at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MAX_RATIO = 1_000
"""Honest texts are compressed 2 to 50 times, logs up to 300; gzip ends at 1,032, the other forms do not end."""
FREE_BYTES = 256 * 2**20
VALUE_BYTES = 64
"""A value counts as so much at least: it costs about that in memory, and some microseconds."""
PIECE_BYTES = 32 * 2**20
MAX_ROW_BYTES = PIECE_BYTES
BATCH_ROWS = 1_024


class HoldsTooMuch(ValueError):
    """A file holds more than its size allows; the message says how much that is."""


class Allowance:
    """What may still be read of a file."""

    def __init__(self, path: Path) -> None:
        self.n_bytes = path.stat().st_size
        self.limit = self.left = max(FREE_BYTES, MAX_RATIO * self.n_bytes)

    def spend(self, n_bytes: int) -> None:
        """Takes from what may be read; raises HoldsTooMuch where it is more than is left."""
        self.left -= n_bytes
        if self.left < 0:
            raise HoldsTooMuch(
                f"{self.n_bytes:,} bytes hold more than {self.limit:,}; allowed: {MAX_RATIO:,} times the file's size, "
                f"or {FREE_BYTES:,} if that is more"
            )


class BoundedTable:
    """A Parquet file whose rows come as plain values, some at a time; a context manager."""

    def __init__(self, path: Path, columns: list[str] | None = None) -> None:
        """Opens a file for all or some of its columns; those that are not there are left out.

        Raises HoldsTooMuch, by what the file says of itself, OSError or ArrowInvalid where it is damaged.
        """
        with pq.ParquetFile(path) as file:
            self.metadata = file.metadata
        schema = self.metadata.schema
        leaves = [schema.column(index) for index in range(len(schema))]
        wanted = [i for i, leaf in enumerate(leaves) if columns is None or leaf.path.split(".")[0] in columns]
        texts = [leaves[i].path for i in wanted if leaves[i].physical_type == "BYTE_ARRAY" and _is_text(leaves[i])]
        self.file = pq.ParquetFile(path, metadata=self.metadata, read_dictionary=texts, page_checksum_verification=True)
        self.names: list[str] = self.file.schema_arrow.names
        self._columns = None if columns is None else [name for name in columns if name in self.names]
        self._allowance = Allowance(path)
        said = Allowance(path)
        for group in map(self.metadata.row_group, range(self.metadata.num_row_groups)):
            for index in wanted:
                chunk, n_each = group.column(index), max(VALUE_BYTES, leaves[index].length or 0)
                said.spend(max(chunk.num_values * n_each, group.num_rows * n_each, chunk.total_uncompressed_size))

    def __enter__(self) -> BoundedTable:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def rows(self, number: int) -> Iterator[dict[str, Any] | None]:
        """Yields the rows of a row group, None for one of more than MAX_ROW_BYTES.

        Raises HoldsTooMuch as soon as all that was read is more than the file may hold.
        """
        group = self.metadata.row_group(number)
        n_rows = PIECE_BYTES * group.num_rows // max(group.total_byte_size, 1)
        size = min(max(n_rows, 16), BATCH_ROWS)
        for batch in self.file.iter_batches(size, row_groups=[number], columns=self._columns, use_threads=False):
            for piece in self._pieces(batch):
                yield from _plain(piece).to_pylist() if piece is not None else [None]

    def _pieces(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch | None]:
        """Yields a batch in pieces whose values fit into PIECE_BYTES, None for a row that does not."""
        n_bytes = sum(expanded_bytes(column) for column in batch.columns)
        if n_bytes <= PIECE_BYTES:
            self._allowance.spend(n_bytes)
            yield batch
        elif batch.num_rows == 1:
            self._allowance.spend(VALUE_BYTES)
            yield None
        else:
            middle = batch.num_rows // 2
            yield from self._pieces(batch.slice(0, middle))
            yield from self._pieces(batch.slice(middle))


def bounded_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a Parquet file; raises ValueError for a file or a row that holds too much, OSError or
    ArrowInvalid for damage."""
    with BoundedTable(path) as table:
        place = 0
        for number in range(table.metadata.num_row_groups):
            for row in table.rows(number):
                place += 1
                if row is None:
                    raise HoldsTooMuch(f"row {place} holds more than {MAX_ROW_BYTES:,} bytes, which is the limit")
                yield row


def expanded_bytes(array: pa.Array) -> int:
    """Returns about what the values of an array take when each stands for itself."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary)
        return VALUE_BYTES * len(array) + (pc.sum(pc.take(lengths, array.indices)).as_py() or 0)
    if pa.types.is_struct(kind):
        return VALUE_BYTES * len(array) + sum(expanded_bytes(field) for field in array.flatten())
    if pa.types.is_map(kind):
        first, stop = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return sum(expanded_bytes(part.slice(first, stop - first)) for part in (array.keys, array.items))
    if pa.types.is_nested(kind):  # lists of any kind
        return VALUE_BYTES * len(array) + expanded_bytes(array.flatten())
    return VALUE_BYTES * len(array) + int(array.nbytes)


def _is_text(leaf: Any) -> bool:
    return leaf.logical_type.type in ("STRING", "NONE", "JSON", "ENUM")


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Returns a batch whose columns of texts are no dictionaries: they become Python's values twenty times as fast."""
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
