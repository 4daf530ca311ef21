"""Common Crawl's lists and indexes against a server on this machine: only what is wanted is fetched."""

import gzip
import itertools
import json
import random

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm.data.common.warc_write import encode_record
from llm.data.sources import download as downloads
from llm.data.sources.common_crawl import MERGED_BYTES, MERGED_GAP_BYTES, merged
from llm.data.sources.config import SourceConfig
from llm.data.sources.ingest import IngestConfig, plan
from tests.llm.data.sources.file_server import serving
from tests.llm.data.sources.ingesting import ingested, pages_of, skipped_of, texts_of

HTML = [("Content-Type", "text/html")]
NAMES = [f"crawl-data/CC-MAIN-2026-43/segments/1/warc/{number}.warc.gz" for number in range(3)]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(downloads, "FIRST_WAIT_S", 0.001)


def archive(number):
    """An archive of 20 pages of a few kB that do not compress, and the places of its records."""
    rng = random.Random(number)
    pages = {f"http://{number}.example/{page:02d}": b"<p>" + rng.randbytes(10_000).hex().encode() for page in range(20)}
    records = [encode_record(url, 200, HTML, body) for url, body in pages.items()]
    starts = [sum(map(len, records[:place])) for place in range(len(records))]
    return pages, b"".join(records), [(start, len(record)) for start, record in zip(starts, records, strict=True)]


ARCHIVES = {name: archive(number) for number, name in enumerate(NAMES)}
ALL_PAGES = {url: body for pages, _, _ in ARCHIVES.values() for url, body in pages.items()}


@pytest.fixture
def site():
    listed = "".join(f"{name}\n" for name in NAMES).encode()
    files = {name: content for name, (_, content, _) in ARCHIVES.items()}
    with serving({**files, "warc.paths.gz": gzip.compress(listed)}) as server:
        yield server


def crawl(site, **fields):
    return SourceConfig(name="cc", kind="common-crawl", base_url=f"{site.url}/", **fields)


def test_the_archives_of_a_path_list(site, tmp_path):
    artifact, counts = ingested(tmp_path, crawl(site, path_list=f"{site.url}/warc.paths.gz"))
    assert pages_of(artifact) == ALL_PAGES
    assert (counts.n_in, counts.n_out) == (60, 60)
    assert [path for path, _ in site.requests] == [f"/{name}" for name in ["warc.paths.gz", *NAMES]]


def test_some_files_of_a_path_list(site, tmp_path):
    artifact, _ = ingested(tmp_path, crawl(site, path_list=f"{site.url}/warc.paths.gz", max_files=2))
    assert len(pages_of(artifact)) == 40


def test_max_records_fetches_no_more_than_it_needs(site, tmp_path):
    artifact, counts = ingested(tmp_path, crawl(site, path_list=f"{site.url}/warc.paths.gz", max_records=25))
    assert list(pages_of(artifact)) == list(ALL_PAGES)[:25]
    assert counts.n_in == 25
    assert [path for path, _ in site.requests] == ["/warc.paths.gz", f"/{NAMES[0]}", f"/{NAMES[1]}"]


def test_what_was_fetched_is_not_fetched_again_until_the_snapshot_has_a_new_name(site, tmp_path):
    source = crawl(site, path_list=f"{site.url}/warc.paths.gz", max_files=1)
    for folder, snapshot, n_requests in (("a", "1", 2), ("b", "1", 2), ("c", "2", 4)):
        ingested(tmp_path / folder, source, downloads=tmp_path / "downloads", snapshot=snapshot)
        assert len(site.requests) == n_requests


def write_index(path, form, rows):
    """An index of (file, offset, length) in one of the forms."""
    if form == "parquet":
        names = ("warc_filename", "warc_record_offset", "warc_record_length")
        pq.write_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]), path)
        return
    lines = [{"url": "http://a/", "filename": name, "offset": str(start), "length": str(n)} for name, start, n in rows]
    before = "example,a)/ 20261020000000 " if form == "cdxj" else ""
    content = "".join(f"{before}{json.dumps(line)}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if form == "cdxj" else content)


@pytest.mark.parametrize("form", ["parquet", "jsonl", "cdxj"])
@pytest.mark.parametrize("place", ["http", "folder", "memory"])
def test_only_the_records_of_an_index_come(site, tmp_path, form, place):
    rng = random.Random(form)
    rows = [(name, *span) for name in NAMES[1:] for span in rng.sample(ARCHIVES[name][2], 4)]
    write_index(tmp_path / "index", form, rows[::-1])
    base_url = {"http": site.url, "folder": str(tmp_path / "local"), "memory": "memory://cc"}[place]
    for name in NAMES:
        (tmp_path / "local" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "local" / name).write_bytes(ARCHIVES[name][1])
        fsspec.filesystem("memory").pipe(f"/cc/{name}", ARCHIVES[name][1])
    source = SourceConfig(name="cc", kind="common-crawl", base_url=base_url, index=str(tmp_path / "index"))
    artifact, counts = ingested(tmp_path / "run", source)
    wanted = [url for name in NAMES for url, span in zip(*ARCHIVES[name][::2], strict=True) if (name, *span) in rows]
    assert pages_of(artifact) == {url: ALL_PAGES[url] for url in wanted}
    assert list(pages_of(artifact)) == wanted
    assert counts.n_in == 8
    assert all(part for _, part in site.requests)
    assert bool(site.requests) == (place == "http")


def test_neighbours_come_with_one_request(site, tmp_path):
    write_index(tmp_path / "index", "jsonl", [(NAMES[0], *place) for place in ARCHIVES[NAMES[0]][2]])
    ingested(tmp_path / "run", crawl(site, index=str(tmp_path / "index")))
    assert len(site.requests) == 1


def test_merged_requests_hold_every_span_and_little_else():
    rng = random.Random(2)
    starts = sorted(rng.sample(range(0, 400_000_000, 1000), 3000))
    spans = tuple((start, start + rng.randrange(1, 30_000)) for start in starts)
    requests = merged(spans)
    assert [span for _, _, inside in requests for span in inside] == list(spans)
    assert 10 < len(requests) < 2500
    for first, after, inside in requests:
        assert first == inside[0][0]
        assert after == max(stop for _, stop in inside)
        assert after - first <= MERGED_BYTES or len(inside) == 1
        ends = list(itertools.accumulate((stop for _, stop in inside), max))
        assert all(start - end <= MERGED_GAP_BYTES for (start, _), end in zip(inside[1:], ends, strict=False))


def test_a_wrong_place_in_an_index_is_named(site, tmp_path):
    start, length = ARCHIVES[NAMES[0]][2][3]
    rows = [(NAMES[0], start, length), (NAMES[0], start + 5, length)]
    write_index(tmp_path / "index", "jsonl", rows)
    artifact, counts = ingested(tmp_path / "run", crawl(site, index=str(tmp_path / "index")))
    assert list(pages_of(artifact)) == ["http://0.example/03"]
    assert counts.n_in == counts.n_out + counts.dropped["damaged"]
    assert skipped_of(artifact)[0]["place"] == f"byte {start + 5}"


def test_extracted_texts_are_known_by_the_name_of_the_file(tmp_path):
    lines = b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://a/\r\nContent-Length: 5\r\n\r\nHallo\r\n\r\n"
    with serving({"a.warc.wet.gz": gzip.compress(lines), "wet.paths": b"a.warc.wet.gz\n"}) as site:
        artifact, _ = ingested(tmp_path, crawl(site, path_list=f"{site.url}/wet.paths"))
    assert [(text.url, text.text, text.source) for text in texts_of(artifact)] == [("http://a/", "Hallo", "cc")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"http://evil.example/x.warc.gz\n", "no path below base_url"),
        (b"file:///etc/passwd\n", "no path below base_url"),
        (b"/etc/passwd\n", "no path below base_url"),
        (b"a/../../etc/passwd\n", "no path below base_url"),
        (b"<html>not found</html>\n<p>a b\n", "no path below base_url"),
        (gzip.compress(b"a.warc.gz\n" * 1000, mtime=0)[:-12], "is damaged"),
    ],
)
def test_a_list_that_is_none(tmp_path, content, message):
    (tmp_path / "list").write_bytes(content)
    source = SourceConfig(name="cc", kind="common-crawl", path_list=str(tmp_path / "list"))
    with pytest.raises((ValueError, OSError), match=message):
        plan(IngestConfig(sources=(source,)), tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{}", "row 1, has no file, offset and length"),
        (b'{"filename": "a", "offset": "x", "length": "3"}', "row 1, has no file, offset and length"),
        (b'{"filename": "a", "offset": "5", "length": "0"}', "bytes 5 to 5 are no record"),
        (b'{"filename": "a", "offset": "-5", "length": "9"}', "bytes -5 to 4 are no record"),
        (b'{"filename": "a", "offset": "5", "length": "9999999999999"}', "are no record"),
        (b'{"filename": "../a", "offset": "5", "length": "9"}', "no path below base_url"),
        (b"nothing", "line 1, has no JSON object"),
        (b"", "is empty"),
    ],
)
def test_an_index_that_is_none(tmp_path, line, message):
    (tmp_path / "index").write_bytes(line)
    source = SourceConfig(name="cc", kind="common-crawl", index=str(tmp_path / "index"))
    with pytest.raises(ValueError, match=message):
        plan(IngestConfig(sources=(source,)), tmp_path)


def test_a_missing_archive_stops_the_stage_and_is_named(site, tmp_path):
    del site.files[NAMES[1]]
    with pytest.raises(ValueError, match=rf"{NAMES[1]}: the server answers 404"):
        ingested(tmp_path, crawl(site, path_list=f"{site.url}/warc.paths.gz"))
