"""Parquet files, row group by row group: a damaged one costs itself, and memory holds some rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from ..common.bounded import MAX_ROW_BYTES, BoundedTable, HoldsTooMuch
from .config import SourceConfig
from .found import Found, Skipped
from .members import TOO_LARGE
from .text_files import text_record


def read_parquet(path: Path, label: str, source: SourceConfig) -> Iterator[Found]:
    """Yields the texts of a Parquet file in order of its rows.

    Reasons: "damaged" (the rows of a row group that cannot be read; one record where the whole file cannot), "too
    large" (a row; all that is left of a file that holds more than `bounded.Allowance` allows), and those of
    `text_record`. Raises ValueError when a column that the recipe names is not there.
    """
    try:
        table = BoundedTable(path, list(source.fields))
    except HoldsTooMuch as error:
        yield Skipped("file", TOO_LARGE, str(error))
        return
    except (OSError, pa.ArrowInvalid) as error:
        yield Skipped("file", "damaged", str(error)[:200])
        return
    with table:
        source.require_fields(table.names, label)
        first = 0
        for number in range(table.metadata.num_row_groups):
            n_rows = table.metadata.row_group(number).num_rows
            for found in _read_group(table, number, (first, n_rows), label, source):
                yield found
                if isinstance(found, Skipped) and found.reason == TOO_LARGE and found.n_records > 1:
                    return
            first += n_rows


def _read_group(
    table: BoundedTable, number: int, rows: tuple[int, int], label: str, source: SourceConfig
) -> Iterator[Found]:
    """Yields the texts of one row group, `rows` being the number of its first row, and how many it has."""
    first, n_rows = rows
    row = first
    try:
        for values in table.rows(number):
            if values is None:
                yield Skipped(f"row {row}", TOO_LARGE, f"more than {MAX_ROW_BYTES:,} bytes")
            else:
                yield text_record(values, label, f"row {row}", source)
            row += 1
    except HoldsTooMuch as error:
        yield Skipped(f"row {row}", TOO_LARGE, str(error), table.metadata.num_rows - row)
    except (OSError, pa.ArrowInvalid, UnicodeDecodeError) as error:
        yield Skipped(f"row {row}", "damaged", str(error)[:200], first + n_rows - row)
