"""Parquet files, row group by row group: a damaged one costs itself, and memory holds some rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .config import SourceConfig
from .found import Found, Skipped
from .text_files import text_record

BATCH_ROWS = 64


def read_parquet(path: Path, label: str, source: SourceConfig) -> Iterator[Found]:
    """Yields the texts of a Parquet file in order of its rows.

    Reasons: "damaged" (the rows of a row group that cannot be read; one record where the whole file cannot), and those
    of `text_record`. Raises ValueError when a column that the recipe names is not there.
    """
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowInvalid) as error:
        yield Skipped("file", "damaged", str(error)[:200])
        return
    with file:
        source.require_fields(file.schema_arrow.names, label)
        first = 0
        for number in range(file.num_row_groups):
            n_rows = file.metadata.row_group(number).num_rows
            yield from _read_group(file, number, (first, n_rows), label, source)
            first += n_rows


def _read_group(
    file: pq.ParquetFile, number: int, rows: tuple[int, int], label: str, source: SourceConfig
) -> Iterator[Found]:
    """Yields the texts of one row group, `rows` being the number of its first row, and how many it has."""
    first, n_rows = rows
    row = first
    try:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[number], columns=list(source.fields), use_threads=False):
            for values in batch.to_pylist():
                yield text_record(values, label, f"row {row}", source)
                row += 1
    except (OSError, pa.ArrowInvalid, UnicodeDecodeError) as error:
        yield Skipped(f"row {row}", "damaged", str(error)[:200], first + n_rows - row)
