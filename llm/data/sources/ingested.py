"""The files of an ingest artifact: written record by record in each partition, then put together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ...counts import Counts
from ..common.texts import TEXT_SCHEMA
from ..common.warc_write import MAX_FILE_BYTES, PAGE_SCHEMA
from .found import Found, FoundPage, Skipped

SKIPPED_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("source", "file", "place", "reason", "detail")] + [("n_records", pa.int64())]
)
FILE_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("file", pa.string()),
        ("n_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("n_records", pa.int64()),
        ("n_skipped", pa.int64()),
    ]
)
ROW_GROUP_ROWS = 1_000
ROW_GROUP_CHARS = 8_000_000
"""A row group ends at so many rows or characters of text: this much stands in memory, here and where it is read."""

Place = Callable[[Path, Path], None]
"""Puts a file under a second name, `place(path, target)`: by a hard link where that is possible."""


class RowWriter:
    """Writes a Parquet file row by row with bounded memory; the same rows give the same bytes.

    Where no row comes there is no file.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._n_chars = 0
        self._file: Any = None

    def add(self, row: dict[str, Any], n_chars: int = 0) -> None:
        """Appends a row that holds about `n_chars` characters."""
        self._rows.append(row)
        self._n_chars += n_chars
        if len(self._rows) >= ROW_GROUP_ROWS or self._n_chars >= ROW_GROUP_CHARS:
            self._flush()

    def _flush(self) -> None:
        if self._file is None:
            self._file = pq.ParquetWriter(self._path, self._schema, compression="zstd", write_page_checksum=True)
        self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._n_chars = [], 0

    def close(self) -> None:
        """Writes what is left and ends the file."""
        if self._rows:
            self._flush()
        if self._file is not None:
            self._file.close()


class PartitionWriter:
    """The files of one partition: pages, texts, what was skipped, and the totals of each file; a context manager."""

    def __init__(self, out_dir: Path, source: str) -> None:
        self._out_dir = out_dir
        self._source = source
        self._pages = RowWriter(out_dir / "pages.parquet", PAGE_SCHEMA)
        self._texts = RowWriter(out_dir / "texts.parquet", TEXT_SCHEMA)
        self._skipped = RowWriter(out_dir / "skipped.parquet", SKIPPED_SCHEMA)
        self._files = RowWriter(out_dir / "files.parquet", FILE_SCHEMA)
        self._warc: BinaryIO | None = None
        self._n_warcs = 0
        self.n_used = 0
        self.n_pages = 0
        self.reasons: Counter[str] = Counter()

    def __enter__(self) -> PartitionWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._warc:
            self._warc.close()
        for table in (self._pages, self._texts, self._skipped, self._files):
            table.close()

    def add(self, found: Found, file: str) -> None:
        """Writes down what was found in a file."""
        if isinstance(found, Skipped):
            self._skipped.add({"source": self._source, "file": file, **asdict(found)})
            self.reasons[found.reason] += found.n_records
            return
        self.n_used += 1
        if isinstance(found, FoundPage):
            self._add_page(found)
        else:
            self._texts.add(asdict(found), len(found.text))

    def _add_page(self, page: FoundPage) -> None:
        if self._warc is None or self._warc.tell() + len(page.member) > MAX_FILE_BYTES:
            if self._warc:
                self._warc.close()
            self._warc = open(self._out_dir / f"pages-{self._n_warcs:05d}.warc.gz", "wb")  # noqa: SIM115 - see __exit__
            self._n_warcs += 1
        row = {
            "url": page.url,
            "status": page.status,
            "content_type": page.content_type,
            "segment": Path(self._warc.name).name,
            "offset": self._warc.tell(),
            "n_bytes": len(page.body),
            "sha256": hashlib.sha256(page.body).hexdigest(),
            "depth": 0,
            "source": self._source,
        }
        self._warc.write(page.member)
        self._pages.add(row)
        self.n_pages += 1

    def end_file(self, file: str, before: tuple[int, int], n_bytes: int | None, sha256: str | None) -> None:
        """Writes the totals of a file; `before` is what `totals` was at its beginning."""
        n_used, n_skipped = (now - then for now, then in zip(self.totals, before, strict=True))
        row = {"source": self._source, "file": file, "n_bytes": n_bytes, "sha256": sha256}
        self._files.add({**row, "n_records": n_used + n_skipped, "n_skipped": n_skipped})

    @property
    def totals(self) -> tuple[int, int]:
        """Records used and skipped so far."""
        return self.n_used, self.reasons.total()

    @property
    def counts(self) -> Counts:
        """What came in, was used and was skipped for which reason, in records."""
        n_used, n_skipped = self.totals
        figures = {"n_pages": self.n_pages, "n_texts": n_used - self.n_pages}
        return Counts("records", n_used + n_skipped, n_used, dict(self.reasons), figures)


def gather(folders: Sequence[Path], out_dir: Path, place: Place) -> None:
    """Puts the partitions' files into one artifact, in order: WARC and text files with running numbers, single tables.

    `pages.parquet` is there if there are pages, `texts-*.parquet` if there are texts; `skipped.parquet` and
    `files.parquet` always.
    """
    _gather_pages(folders, out_dir, place)
    texts = [folder / "texts.parquet" for folder in folders if (folder / "texts.parquet").exists()]
    for number, path in enumerate(texts):
        place(path, out_dir / f"texts-{number:05d}.parquet")
    for name, schema in (("skipped.parquet", SKIPPED_SCHEMA), ("files.parquet", FILE_SCHEMA)):
        with pq.ParquetWriter(out_dir / name, schema, compression="zstd", write_page_checksum=True) as file:
            for table in _tables(folders, name):
                file.write_table(table)


def _gather_pages(folders: Sequence[Path], out_dir: Path, place: Place) -> None:
    if not any((folder / "pages.parquet").exists() for folder in folders):
        return
    n_warcs = 0
    with pq.ParquetWriter(
        out_dir / "pages.parquet", PAGE_SCHEMA, compression="zstd", write_page_checksum=True
    ) as index:
        for folder in folders:
            names = {}
            for path in sorted(folder.glob("pages-*.warc.gz")):
                names[path.name] = f"pages-{n_warcs:05d}.warc.gz"
                place(path, out_dir / names[path.name])
                n_warcs += 1
            for table in _tables([folder], "pages.parquet"):
                segments = pa.array([names[name] for name in table["segment"].to_pylist()], pa.string())
                index.write_table(table.set_column(PAGE_SCHEMA.get_field_index("segment"), "segment", segments))


def _tables(folders: Sequence[Path], name: str) -> Iterator[pa.Table]:
    """The row groups of the partitions' tables called `name`, one in memory at a time."""
    for folder in folders:
        if (folder / name).exists():
            with pq.ParquetFile(folder / name, page_checksum_verification=True) as file:
                for number in range(file.num_row_groups):
                    yield file.read_row_group(number)


def require_records(out_dir: Path, expected: dict[str, int | None]) -> None:
    """Compares the records of each source with what the recipe says (None: any number above 0 that can be used).

    Raises ValueError that names the source, what was found, and what was skipped for which reason.
    """
    n_records: Counter[str] = Counter()
    n_skipped: Counter[str] = Counter()
    for table in _tables([out_dir], "files.parquet"):
        for row in table.to_pylist():
            n_records[row["source"]] += row["n_records"]
            n_skipped[row["source"]] += row["n_skipped"]
    for source, wanted in expected.items():
        found = n_records[source]
        if wanted is not None and found != wanted:
            raise ValueError(
                f"{source}: {found:,} records came, but n_records is {wanted:,}; mend the source, or correct n_records"
            )
        if found == n_skipped[source]:
            reasons = _reasons(out_dir, source)
            raise ValueError(f"{source}: none of its {found:,} records can be used ({reasons}); check kind and fields")


def _reasons(out_dir: Path, source: str) -> str:
    reasons: Counter[str] = Counter()
    example = ""
    for table in _tables([out_dir], "skipped.parquet"):
        for row in table.to_pylist():
            if row["source"] == source:
                reasons[row["reason"]] += row["n_records"]
                example = example or f"; first: {row['file']}, {row['place']}: {row['reason']} {row['detail']}".rstrip()
    return (
        ", ".join(f"{reason}: {n:,}" for reason, n in sorted(reasons.items())) or "there is nothing in it"
    ) + example
