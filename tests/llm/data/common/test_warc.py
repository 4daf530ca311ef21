"""WARC files of a crawl: read back by an independent reader, and damaged in every way that a disk can think of."""

import hashlib
import io
import random
import re
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
from warcio.archiveiterator import ArchiveIterator

from llm.data.common import warc_write
from llm.data.common.warc_read import PageSlice, WebPage, n_pages, page_slices, read_pages
from llm.data.common.warc_write import JournalPage, encode_record, write_crawl

HEADERS = [("Content-Type", "text/html; charset=latin-1"), ("Date", "Fri, 20 Nov 2026 14:00:00 GMT")]


@pytest.fixture
def bodies():
    rng = random.Random(4)
    return {f"http://a.example/{n:02d}": rng.randbytes(rng.randrange(0, 3000)) for n in range(20)}


def export(folder, bodies, seed=0):
    """An artifact with these pages, whose journal segments hold them in random order."""
    (folder / "segments").mkdir(parents=True)
    (folder / "out").mkdir()
    pages, urls = [], list(bodies)
    random.Random(seed).shuffle(urls)
    for number, url in enumerate(urls):
        path = folder / f"segments/{number // 6}.warc.gz"
        with open(path, "ab") as segment:
            place = segment.tell()
            record = encode_record(url, 200, HEADERS, bodies[url])
            segment.write(record)
        digest = hashlib.sha256(bodies[url]).hexdigest()
        sizes = (place, len(record), len(bodies[url]))
        pages.append(JournalPage(url, 200, HEADERS[0][1], path, *sizes, digest, 1, 1_700_000_000_000 + number))
    write_crawl(folder / "out", pages, [("http://a.example/z", "http 404"), ("http://a.example/q", "robots")])
    return folder / "out"


def test_warcio_reads_what_was_written_and_all_digests_agree(tmp_path, bodies):
    out_dir = export(tmp_path, bodies)
    with open(out_dir / "pages-00000.warc.gz", "rb") as file:
        found = {
            record.rec_headers["WARC-Target-URI"]: record.content_stream().read()
            for record in ArchiveIterator(file, check_digests="raise")
        }
    assert found == bodies
    assert list(found) == sorted(bodies)


def test_bytes_depend_on_the_pages_alone(tmp_path, bodies):
    first, second = export(tmp_path / "a", bodies, seed=1), export(tmp_path / "b", bodies, seed=2)
    for name in ("pages-00000.warc.gz", "pages.parquet", "refused.parquet"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert (first / "fetched.parquet").read_bytes() != (second / "fetched.parquet").read_bytes()


def test_a_record_keeps_no_header_that_changes_from_fetch_to_fetch():
    volatile = [
        "Date",
        "Set-Cookie",
        "Age",
        "Expires",
        "ETag",
        "Server-Timing",
        "Connection",
        "Transfer-Encoding",
        "X-Id",
    ]
    kept = [("content-type", "text/html"), ("Content-Language", "en")]
    first = encode_record("http://a/", 200, kept + [(name, "1") for name in volatile], b"body")
    second = encode_record("http://a/", 200, [(name, "2") for name in volatile] + kept[::-1], b"body")
    assert first == second
    record = next(iter(ArchiveIterator(io.BytesIO(first))))
    assert dict(record.http_headers.headers) == {
        "Content-Type": "text/html",
        "Content-Language": "en",
        "Content-Length": "4",
    }


def test_pages_come_back_in_order_of_url(tmp_path, bodies):
    out_dir = export(tmp_path, bodies)
    expected = [WebPage(url, 200, HEADERS[0][1], bodies[url], urlsplit(url).hostname) for url in sorted(bodies)]
    assert list(read_pages(out_dir, 0, 99)) == expected
    assert [page.url for page in read_pages(out_dir, 3, 5)] == sorted(bodies)[3:5]


@pytest.mark.parametrize("size", [1, 7, 20, 100])
def test_slices_cover_every_page_once(tmp_path, bodies, size):
    out_dir = export(tmp_path, bodies)
    slices = page_slices(out_dir, size)
    assert [page.url for part in slices for page in part.read()] == sorted(bodies)
    assert len(slices) == -(-n_pages(out_dir) // size)
    assert slices[0] == PageSlice(out_dir, 0, min(size, 20))


def test_large_crawls_are_cut_into_several_files(tmp_path, bodies, monkeypatch):
    monkeypatch.setattr(warc_write, "MAX_FILE_BYTES", 9000)
    out_dir = export(tmp_path, bodies)
    sizes = [path.stat().st_size for path in sorted(out_dir.glob("pages-*.warc.gz"))]
    assert len(sizes) > 2
    assert max(sizes) <= 9000
    assert {page.url: page.body for page in read_pages(out_dir, 0, 99)} == bodies


def test_tables_have_the_agreed_columns(tmp_path, bodies):
    out_dir = export(tmp_path, bodies)
    assert pq.read_schema(out_dir / "pages.parquet").equals(warc_write.PAGE_SCHEMA)
    assert pq.read_table(out_dir / "refused.parquet").to_pylist() == [
        {"url": "http://a.example/q", "reason": "robots"},
        {"url": "http://a.example/z", "reason": "http 404"},
    ]
    assert pq.read_table(out_dir / "fetched.parquet")["url"].to_pylist() == sorted(bodies)


def _read_or_complain(out_dir):
    """The pages read, or None if the damage was noticed."""
    try:
        return {page.url: page.body for page in read_pages(out_dir, 0, 99)}
    except OSError as error:
        return None if re.search(r"pages-00000\.warc\.gz: the record of http://a\.example/", str(error)) else error


@pytest.mark.parametrize("seed", range(60))
def test_a_flipped_bit_never_gives_a_wrong_page(tmp_path, bodies, seed):
    out_dir = export(tmp_path, bodies)
    path, rng = out_dir / "pages-00000.warc.gz", random.Random(seed)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    assert _read_or_complain(out_dir) in (None, bodies)


@pytest.mark.parametrize("seed", range(20))
def test_a_truncated_file_is_noticed(tmp_path, bodies, seed):
    out_dir = export(tmp_path, bodies)
    path = out_dir / "pages-00000.warc.gz"
    content = path.read_bytes()
    path.write_bytes(content[: random.Random(seed).randrange(len(content) - 8)])
    assert _read_or_complain(out_dir) is None


def test_a_missing_file_is_noticed(tmp_path, bodies):
    out_dir = export(tmp_path, bodies)
    (out_dir / "pages-00000.warc.gz").unlink()
    assert _read_or_complain(out_dir) is None
