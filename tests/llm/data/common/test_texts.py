"""Slices of an artifact's records: every record once, in order, whatever the files and their row groups."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm.data.clean.clean import record_slices
from llm.data.common.texts import TEXT_SCHEMA, TextRecord, TextSlice
from llm.data.common.warc_read import PageSlice
from llm.data.common.warc_write import encode_record
from llm.data.sources.config import SourceConfig
from tests.llm.data.sources.ingesting import ingested


def write_texts(folder, sizes, group=3):
    """Text files with so many rows each; returns all records in order."""
    records = []
    for number, size in enumerate(sizes):
        rows = [TextRecord(f"u{number}-{row}", "title", "text \u00fc" * row, "s") for row in range(size)]
        table = pa.Table.from_pylist([vars(row) for row in rows], schema=TEXT_SCHEMA)
        pq.write_table(table, folder / f"texts-{number:05d}.parquet", row_group_size=group, write_page_checksum=True)
        records += rows
    return records


def page_artifact(folder, n_pages):
    """An artifact of so many pages."""
    records = [encode_record(f"http://a.example/{number}", 200, [], b"<p>page") for number in range(n_pages)]
    (folder / "a.warc.gz").write_bytes(b"".join(records))
    return ingested(folder, SourceConfig(name="s", kind="warc", paths=(str(folder / "a.warc.gz"),)))[0]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
@pytest.mark.parametrize("files", [(10,), (4, 0, 9, 1), (1, 1, 1), (0,), ()])
def test_slices_cover_every_text_once_in_order(tmp_path, files, size):
    records = write_texts(tmp_path, files)
    slices = record_slices(tmp_path, size)
    assert [record for part in slices for record in part.read()] == records
    assert len(slices) == -(-len(records) // size)
    assert all(sum(stop - start for _, start, stop in part.pieces) == size for part in slices[:-1])


def test_pages_come_before_texts(tmp_path):
    artifact = page_artifact(tmp_path, 5)
    records = write_texts(artifact, (3,))
    slices = record_slices(artifact, 2)
    assert [type(part) for part in slices] == [PageSlice] * 3 + [TextSlice] * 2
    found = [record for part in slices for record in part.read()]
    assert [page.url for page in found[:5]] == [f"http://a.example/{number}" for number in range(5)]
    assert found[5:] == records


def test_a_crawl_has_pages_only(tmp_path):
    artifact = page_artifact(tmp_path, 3)
    assert record_slices(artifact, 10) == [PageSlice(artifact, 0, 3)]


@pytest.mark.parametrize("place", range(4, 500, 31))
def test_a_damaged_file_never_gives_a_wrong_text(tmp_path, place):
    records = write_texts(tmp_path, (9,))
    [path] = tmp_path.glob("texts-*")
    content = bytearray(path.read_bytes())
    content[place] ^= 8
    path.write_bytes(content)
    try:
        found = [record for part in record_slices(tmp_path, 4) for record in part.read()]
    except OSError:
        return
    assert found == records
