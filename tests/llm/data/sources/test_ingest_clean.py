"""A crawl's archives, ingested, become the documents that the crawl itself becomes."""

import dataclasses
import hashlib
import random
import string

from llm.counts import Counts
from llm.data.clean.clean import CleanConfig, clean_partition, record_slices
from llm.data.common.warc_write import JournalPage, encode_record, write_crawl
from llm.data.sources.config import SourceConfig
from llm.documents import read_documents
from tests.llm.data.sources.ingesting import ingested


def crawl(folder):
    """A crawl artifact of some pages of prose, two of which are too short."""
    rng = random.Random(3)
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randrange(2, 9))) for _ in range(200)]
    pages = []
    for number in range(25):
        prose = ". ".join("The " + " ".join(rng.choices(words, k=9)) for _ in range(1 if number < 2 else 12))
        body = f"<html lang=en><title>Page {number}</title><body><main><p>{prose}.</p></main></body></html>".encode()
        url, path = f"http://a.example/{number:02d}", folder / f"journal-{number}"
        path.write_bytes(encode_record(url, 200, [("Content-Type", "text/html")], body))
        digest = hashlib.sha256(body).hexdigest()
        pages.append(JournalPage(url, 200, "text/html", path, 0, path.stat().st_size, len(body), digest, 0, 0))
    (folder / "crawl").mkdir()
    write_crawl(folder / "crawl", pages, [])
    return folder / "crawl"


def documents(artifact, out_dir):
    """The documents of an artifact's records, without the name of their source, and the counts."""
    out_dir.mkdir()
    config = CleanConfig(languages=())
    counts = []
    for number, part in enumerate(record_slices(artifact, 10)):
        (out_dir / "part").mkdir(exist_ok=True)
        counts.append(clean_partition(part, out_dir / "part", config))
        (out_dir / "part/documents.parquet").rename(out_dir / f"documents-{number:05d}.parquet")
    return [dataclasses.replace(document, source="") for document in read_documents(out_dir)], Counts.total(counts)


def test_the_same_documents(tmp_path):
    first = crawl(tmp_path)
    second, counts = ingested(tmp_path / "ingested", SourceConfig(name="a", kind="warc", paths=(str(first),)))
    assert counts.n_out == 25
    expected, cleaned = documents(first, tmp_path / "a")
    assert documents(second, tmp_path / "b") == (expected, cleaned)
    assert len(expected) == 23
