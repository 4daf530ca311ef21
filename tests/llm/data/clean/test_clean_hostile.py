"""Broken and hostile documents: none stops the stage, every one is a document or has its reason."""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llm.counts import Counts
from llm.data.clean.clean import CleanConfig, clean_partition
from llm.data.clean.filters.filters import C4, Filters, FineWeb, GopherQuality, GopherRepetition
from llm.data.common.texts import TextRecord
from llm.data.common.warc_read import WebPage
from llm.files import read_table

SITE = Path(__file__).parents[3] / "site" / "html"
EVERYTHING = CleanConfig(
    min_chars=1,
    languages=(),
    filters=Filters(
        gopher_repetition=GopherRepetition(),
        gopher_quality=GopherQuality(min_words=5),
        c4=C4(terminal_punctuation=False, min_sentences=1),
        fineweb=FineWeb(),
    ),
)
HEADERS = ["", "text/html", "text/html; charset=utf-8", "text/html; charset=shift_jis", "text/html; charset=utf-16"]
SIGNATURES = [b"%PDF-1.7\n", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"PK\x03\x04", b"\x1f\x8b\x08"]
BITS = [
    b"\x00" * 9,
    b"<!--",
    b"<script>",
    b"<![CDATA[",
    b"</body></html>",
    b"<svg><title>",
    b"<table><tr><td>",
    b"&#xD800;&#0;&#x110000;&bogus;&amp",
    b"<p title='",
    b"<a href=x>",
    "\u202e\ufeff\u0000\ufffe".encode(),
    b"\xf5\xff\xc0\x80",
    b"<textarea>",
    b"<template><p>",
    b"<meta charset=utf-7>",
    b"<plaintext>",
    b"\r\n\x0b\x0c",
    "Ã©â€™ðŸ˜€".encode(),
    b"1.2.3.4@@+++((()))" * 50,
]


@dataclass(frozen=True)
class Part:
    """Records in memory, read as those of a slice are."""

    records: tuple[WebPage | TextRecord, ...]

    def read(self) -> Iterator[WebPage | TextRecord]:
        yield from self.records


def broken_page(page: bytes, rng: random.Random) -> bytes:
    """A page with one to four things done to it that happen to pages, or that somebody does."""
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(page) + 1)
        match rng.randrange(9):
            case 0:
                page = page[:place]
            case 1:
                page = page[:place] + rng.choice(BITS) * rng.choice([1, 1, 1, 50, 2_000]) + page[place:]
            case 2:
                page = bytes(byte if rng.random() > 0.01 else rng.randrange(256) for byte in page)
            case 3:
                page = rng.choice(SIGNATURES) + rng.choice([page, rng.randbytes(3_000)])
            case 4:
                codec = rng.choice(["utf-16", "utf-16-be", "utf-7", "cp037"])
                page = page.decode("utf-8", errors="replace").encode(codec, errors="replace")
            case 5:
                page = page[:place] + rng.randbytes(rng.choice([1, 10, 1_000])) + page[place:]
            case 6:
                page = rng.choice([zlib.compress(page), page[::-1], page * 3, b"", b" " * 5_000])
            case 7:
                page = page.replace(b">", rng.choice([b"", b"><", b" >\n\n", b"></p>"]), rng.choice([1, 10, -1]))
            case 8:
                page = page.decode("utf-8", errors="replace").encode("cp1252", errors="ignore").replace(b"e", b"\xe9")
        page = page[:400_000]
    return page


def records(n: int, seed: int) -> tuple[WebPage | TextRecord, ...]:
    rng = random.Random(seed)
    pages = [path.read_bytes() for path in sorted(SITE.rglob("*.html"))]
    made: list[WebPage | TextRecord] = []
    for number in range(n):
        body = broken_page(rng.choice(pages), rng)
        url = rng.choice([f"https://site/{number}", f"http://[{number}", "", f"https://ünï.de/\x00{number}"])
        if number % 5:
            made.append(WebPage(url, 200, rng.choice(HEADERS), body, "site"))
        else:
            made.append(TextRecord(url, body[:50].decode(errors="replace"), body.decode("latin-1"), "texts"))
    return tuple(made)


def clean(found: tuple[WebPage | TextRecord, ...], out_dir: Path, config: CleanConfig) -> Counts:
    out_dir.mkdir()
    counts = clean_partition(Part(found), out_dir, config)  # type: ignore[arg-type]
    kept = read_table(out_dir / "documents.parquet").to_pylist()
    dropped = read_table(out_dir / "dropped.parquet").to_pylist()
    assert counts.n_in == len(found) == len(kept) + len(dropped)
    assert all(row["text"].strip() and row["n_chars"] == len(row["text"]) for row in kept)
    assert all(row["reason"] and row["detail"] for row in dropped)
    assert not any(char in row["text"] for row in kept for char in "\x00\x01\x0b\x1b")
    return counts


def test_broken_documents_are_all_accounted_for(tmp_path: Path) -> None:
    found = records(330, seed=1)
    counts = clean(found, tmp_path / "plain", CleanConfig(min_chars=1))
    assert counts.n_out > 20
    assert {"not text", "empty", "language", "mojibake"} <= counts.dropped.keys()
    strict = clean(found, tmp_path / "strict", EVERYTHING)
    assert len(strict.dropped) > len(counts.dropped)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_thousands_of_broken_documents_are_all_accounted_for(tmp_path: Path, seed: int) -> None:
    clean(records(1_000, seed), tmp_path / "plain", CleanConfig(min_chars=1))
    clean(records(1_000, seed), tmp_path / "strict", EVERYTHING)


BOMBS = {
    "200,000 nested tags": (b"<div>" * 200_000 + b"deep", "nested too deep"),
    "zero bytes": (b"\x00" * 500_000, "not text"),
    "zero bytes in text": (b"<p>" + b"\x00text " * 50_000, "not text"),
    "PDF": (b"%PDF-1.4\n" + b"text " * 50_000, "not text"),
    "zip": (b"PK\x03\x04" + b"\x00" * 100, "not text"),
    "WebP": (b"RIFF\x00\x00\x00\x00WEBP" + b"x" * 100, "not text"),
    "MP4": (b"\x00\x00\x00\x18ftypmp42" + b"x" * 100, "not text"),
    "links that never close": (b"<a>" * 100_000, None),
    "one word": (b"<p>" + b"x" * 1_000_000, None),
    "half addresses": (b"<p>" + b"a@" * 300_000, None),
    "single digits": (b"<p>" + b"1 " * 300_000, None),
    "entities": (b"&lt;" * 200_000, None),
    "no UTF-8": (b"<p>" + b"\xe9\xa0" * 100_000, None),
    "mojibake": (b"<p>" + "Ã©".encode() * 200_000, None),
    "accents without letters": (b"<p>" + "\u0301".encode() * 300_000, None),
    "lines": (b"<pre>" + b"a\n" * 300_000, None),
    "brackets": (b"<" * 500_000, None),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_defused_in_seconds(name: str, tmp_path: Path) -> None:
    body, reason = BOMBS[name]
    started = time.process_time()
    counts = clean((WebPage("https://site/", 200, "text/html", body, "site"),), tmp_path / "out", EVERYTHING)
    assert time.process_time() - started < 10
    assert reason is None or counts.dropped == {reason: 1}
