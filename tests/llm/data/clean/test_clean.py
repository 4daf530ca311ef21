from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest

from llm.counts import Counts
from llm.data.clean.clean import CleanConfig, clean_partition, clean_record, record_slices
from llm.data.clean.extract import extract
from llm.data.clean.filters.filters import C4, Filters, GopherQuality
from llm.data.clean.language import detect_language
from llm.data.clean.url_filter import BlockList
from llm.data.common.drops import Dropped
from llm.data.common.texts import TEXT_SCHEMA, TextRecord
from llm.data.common.warc_read import WebPage, n_pages, page_slices
from llm.data.common.warc_write import JournalPage, encode_record, write_crawl
from llm.documents import Document, document_id
from llm.files import read_table, sha256_file, write_table
from llm.splits import is_held_out

SITE = Path(__file__).parents[3] / "site" / "html"
CONFIG = CleanConfig(held_out_fraction=0.2)
ENGLISH = "Yeast in a jar of flour and water wakes up within a week and makes bread rise. " * 4
GERMAN = "Der Sauerteig wird jeden Morgen mit frischem Mehl und lauwarmem Wasser gefüttert. " * 4


def page(body: str | bytes, url: str = "https://site/a.html") -> WebPage:
    return WebPage(url, 200, "text/html; charset=utf-8", body if isinstance(body, bytes) else body.encode())


def make_crawl(folder: Path, pages: list[WebPage]) -> Path:
    """A crawl artifact with the given pages."""
    crawl_dir = folder / "crawl"
    crawl_dir.mkdir()
    rows = []
    with open(folder / "journal", "wb") as journal:
        for item in pages:
            record = encode_record(item.url, item.status, [("Content-Type", item.content_type)], item.body)
            sha256 = hashlib.sha256(item.body).hexdigest()
            place = (folder / "journal", journal.tell(), len(record))
            rows.append(JournalPage(item.url, 200, item.content_type, *place, len(item.body), sha256, 0, 0))
            journal.write(record)
    write_crawl(crawl_dir, rows, [])
    return crawl_dir


def site_crawl(folder: Path) -> Path:
    files = sorted(SITE.rglob("*.html"))
    return make_crawl(folder, [page(file.read_bytes(), f"https://site/{file.relative_to(SITE)}") for file in files])


def clean(
    crawl_dir: Path, out_dir: Path, config: CleanConfig
) -> tuple[Counts, list[dict[str, object]], list[dict[str, str]]]:
    """Counts, documents and dropped pages of all partitions."""
    counts, documents, dropped = [], [], []
    for i, part in enumerate(page_slices(crawl_dir, config.pages_per_partition)):
        part_dir = out_dir / str(i)
        part_dir.mkdir(parents=True)
        counts.append(clean_partition(part, part_dir, config))
        documents += read_table(part_dir / "documents.parquet").to_pylist()
        dropped += read_table(part_dir / "dropped.parquet").to_pylist()
    return Counts.total(counts), documents, dropped


# ---------------------------------------------------------------- one page


def clean_page(record: WebPage | TextRecord, config: CleanConfig, blocked: tuple[str, ...] = ()) -> Document | Dropped:
    return clean_record(record, config, BlockList.of(blocked)).result


def test_a_good_page_is_a_document() -> None:
    found = clean_page(replace(page(f"<title>Yeast</title><p>{ENGLISH}</p>"), source="site"), CONFIG)
    text = ENGLISH.strip()
    id = document_id("https://site/a.html", text)
    assert found == Document(id, "https://site/a.html", "Yeast", text, "en", len(text), is_held_out(id, 0.2), "site")


def test_a_text_is_a_document_as_it_is() -> None:
    text = ENGLISH + "\n\n  def f():\n    return '<b>'\x00"
    record = TextRecord("file.txt#3", " Yeast\n& flour ", f"\n{text}\r\n", "books")
    kept = text.replace("\x00", "").strip()
    id = document_id(record.url, kept)
    expected = Document(id, record.url, "Yeast & flour", kept, "en", len(kept), is_held_out(id, 0.2), "books")
    assert clean_page(record, CONFIG) == expected


@pytest.mark.parametrize(
    ("body", "reason", "detail"),
    [
        ("", "empty", "no text is left"),
        ("<p> \n&nbsp;</p><script>x()</script>", "empty", "no text is left"),
        ("<p>Closed on Monday.</p>", "too short", "17 characters, allowed 200 or more"),
        (f"<p>{GERMAN}</p>", "language", "de, score "),
        ("<p>" + "12 34 56, " * 40 + "</p>", "language", "unknown: perhaps none, score 0.00"),
        (b"<p>" + bytes(range(256)) * 20 + b"</p>", "not text", "not text"),
        (b"%PDF-1.7\n" + ENGLISH.encode() * 9, "not text", "not text: PDF"),
        (b"\x89PNG\r\n\x1a\n" + ENGLISH.encode() * 9, "not text", "not text: PNG image"),
        (b"PK\x03\x04" + ENGLISH.encode() * 9, "not text", "not text: zip archive"),
        ("<div>" * 200_000 + ENGLISH, "nested too deep", "nested too deep"),
        (f"<p>{ENGLISH * 4} {chr(0xFFFD) * 9}</p>", "mojibake", "share of spoilt characters 0.00"),
    ],
)
def test_a_bad_page_is_dropped_with_its_reason(body: str | bytes, reason: str, detail: str) -> None:
    found = clean_page(page(body), CONFIG)
    assert isinstance(found, Dropped)
    assert found.reason == reason
    assert found.detail.startswith(detail)
    assert (found.id == "") == (reason in ("empty", "not text", "nested too deep"))
    assert (found.excerpt == "") == (found.id == "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("Closed.", "too short"),
        (GERMAN, "language"),
        ("\x00\x01" * 200 + ENGLISH, "not text"),
    ],
)
def test_a_bad_text_is_dropped_with_its_reason(text: str, reason: str) -> None:
    found = clean_page(TextRecord("a.txt", "", text, "books"), CONFIG)
    assert isinstance(found, Dropped)
    assert found.reason == reason


def test_the_length_limit_is_inclusive() -> None:
    body = f"<p>{ENGLISH}</p>"
    length = len(ENGLISH.strip())
    assert isinstance(clean_page(page(body), replace(CONFIG, min_chars=length)), Document)
    assert isinstance(clean_page(page(body), replace(CONFIG, min_chars=length + 1)), Dropped)


def test_no_languages_keeps_all_of_them() -> None:
    config = replace(CONFIG, languages=(), min_language_score=1.0)
    languages = [clean_page(page(f"<p>{text}</p>"), config) for text in (ENGLISH, GERMAN)]
    assert [document.language for document in languages if isinstance(document, Document)] == ["en", "de"]


def test_an_uncertain_language_is_dropped() -> None:
    code_like = "os.path.join(path, *paths) sys.argv[1:] " * 10
    assert detect_language(code_like)[1] < 0.99
    found = clean_page(page(f"<p>{code_like}</p>"), replace(CONFIG, min_language_score=0.99))
    assert isinstance(found, Dropped)
    assert found.reason == "language"
    assert found.detail.startswith("unknown: perhaps ")
    assert found.detail.endswith("allowed 0.99 or more")


def test_a_blocked_address_is_not_read() -> None:
    found = clean_page(page(f"<p>{ENGLISH}</p>", "https://www.casino.com/a"), CONFIG, ("casino.com",))
    assert found == Dropped("", "https://www.casino.com/a", "blocked url", "'casino.com' is on the block list", "")
    assert isinstance(clean_page(page(f"<p>{ENGLISH}</p>"), CONFIG, ("casino.com",)), Document)


def test_mojibake_is_repaired_in_pages_texts_and_titles() -> None:
    text = "L\u2019été, le caf\u00e9: \u201cmais non\u201d. " + ENGLISH.strip()
    spoilt = "".join(bytes([byte]).decode("cp1252", errors="ignore") or chr(byte) for byte in text.encode())
    entities = "".join(f"&#{byte};" if byte > 127 else chr(byte) for byte in text.encode())
    for record in (
        page(f"<title>CafÃ©</title><p>{spoilt}</p>"),
        page(f"<title>CafÃ©</title><p>{entities}</p>"),
        TextRecord("a.txt", "CafÃ©", spoilt, "books"),
    ):
        verdict = clean_record(record, CONFIG, BlockList.of(()))
        assert isinstance(verdict.result, Document)
        assert verdict.result.title == "Café"
        assert verdict.result.text == text
        assert verdict.figures == {"n_repaired_mojibake": 1}
    correct = clean_record(page(f"<p>{text}</p>"), CONFIG, BlockList.of(()))
    assert isinstance(correct.result, Document)
    assert correct.result.text == text
    assert correct.figures == {}


def test_personal_data_are_masked_in_text_title_and_excerpt() -> None:
    private = "Write to a.kovacs@mailhost.org or +44 20 7946 0958."
    body = f"<title>a.kovacs@mailhost.org</title><p>{private} {ENGLISH}</p>"
    verdict = clean_record(page(body), CONFIG, BlockList.of(()))
    assert isinstance(verdict.result, Document)
    assert verdict.result.title == "email@example.com"
    assert verdict.result.text.startswith("Write to email@example.com or 555-0100.")
    assert verdict.result.id == document_id("https://site/a.html", verdict.result.text)
    assert verdict.figures == {"n_masked e-mail": 2, "n_masked phone number": 1}
    dropped = clean_page(page(f"<p>{private}</p>"), CONFIG)
    assert isinstance(dropped, Dropped)
    assert dropped.excerpt == "Write to email@example.com or 555-0100."
    plain = clean_record(page(body), replace(CONFIG, mask_pii=False), BlockList.of(()))
    assert isinstance(plain.result, Document)
    assert private in plain.result.text
    assert plain.figures == {}


def test_quality_filters_drop_and_change_texts() -> None:
    strict = replace(CONFIG, filters=Filters(gopher_quality=GopherQuality(min_words=1_000)))
    found = clean_page(page(f"<p>{ENGLISH}</p>"), strict)
    assert isinstance(found, Dropped)
    assert (found.reason, found.detail) == ("Gopher quality: words", "words 68, allowed 1000 to 100000")
    assert found.excerpt.startswith("Yeast in a jar")
    lines = replace(CONFIG, filters=Filters(c4=C4(min_sentences=2)))
    kept = clean_page(TextRecord("a", "", f"Menu\n{ENGLISH}\nHome | Shop", ""), lines)
    assert isinstance(kept, Document)
    assert kept.text == ENGLISH.strip()
    short = clean_page(TextRecord("a", "", "It is so. It is. " + " and so on" * 30 + "\nIt is so. It is.", ""), lines)
    assert isinstance(short, Dropped)
    assert short.reason == "too short"


@pytest.mark.parametrize("field", ["min_chars", "held_out_fraction", "min_language_score", "pages_per_partition"])
def test_a_bad_setting_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is -1; allowed"):
        CleanConfig(**{field: -1})


# ---------------------------------------------------------------- partitions


def test_the_site_gives_its_known_answers(tmp_path: Path) -> None:
    crawl_dir = site_crawl(tmp_path)
    counts, documents, dropped = clean(crawl_dir, tmp_path / "out", CONFIG)
    reasons = {row["url"].removeprefix("https://site/"): row["reason"] for row in dropped}
    assert reasons.pop("de/sauerteig.html") == "language"
    assert {"news/index.html", "news/closed.html", "news/oven.html"} <= reasons.keys()
    assert set(reasons.values()) == {"too short", "mostly links"}
    assert counts.n_in == n_pages(crawl_dir)
    assert counts.n_out == len(documents)
    assert counts.dropped == {**Counter(reasons.values()), "language": 1}
    assert counts.figures["n_chars"] == sum(len(str(row["text"])) for row in documents)
    assert counts.figures["n_held_out"] == sum(bool(row["held_out"]) for row in documents) > 0
    assert not any("Cookies are for eating" in str(row["text"]) for row in documents)


def test_partitions_do_not_change_the_documents(tmp_path: Path) -> None:
    crawl_dir = site_crawl(tmp_path)
    whole = clean(crawl_dir, tmp_path / "whole", replace(CONFIG, pages_per_partition=1_000))
    parts = clean(crawl_dir, tmp_path / "parts", replace(CONFIG, pages_per_partition=20))
    assert parts == whole
    urls = [row["url"] for row in whole[1]]
    assert urls == sorted(str(url) for url in urls)


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    crawl_dir = make_crawl(tmp_path, [page(f"<p>{ENGLISH}</p>"), page("<p>no</p>", "https://site/b.html")])
    hashes = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        clean_partition(page_slices(crawl_dir, 10)[0], tmp_path / name, CONFIG)
        files = sorted((tmp_path / name).iterdir())
        hashes.append([(file.name, sha256_file(file)) for file in files])
    assert [name for name, _ in hashes[0]] == ["documents.parquet", "dropped.parquet"]
    assert hashes[0] == hashes[1]


def test_a_partition_may_lose_all_its_pages(tmp_path: Path) -> None:
    crawl_dir = make_crawl(tmp_path, [page("<p>no</p>")])
    counts, documents, dropped = clean(crawl_dir, tmp_path / "out", CONFIG)
    assert (counts.n_in, counts.n_out, counts.dropped) == (1, 0, {"too short": 1})
    assert documents == []
    assert len(dropped) == 1


def test_a_page_of_links_is_dropped_and_a_text_with_links_is_not() -> None:
    links = "".join(f"<li><a href='/{n}'>an entry of the index number {n}</a></li>" for n in range(60))
    prose = "<p>" + "The baker folds the dough and lets it rest until the morning comes. " * 10 + "</p>"
    reasons = {}
    for name, body in {"index": f"<ul>{links}</ul>", "text": prose + prose + f"<ul>{links}</ul>"}.items():
        page = WebPage(f"http://x/{name}", 200, "text/html", f"<main>{body}</main>".encode())
        verdict = clean_page(page, CleanConfig(max_link_share=0.7))
        reasons[name] = verdict.reason if isinstance(verdict, Dropped) else ""
    assert reasons == {"index": "mostly links", "text": ""}
    assert extract(b"<p>a <a href='x'>bc d</a> ef</p>").link_share == 0.5


def test_an_artifact_may_hold_pages_and_texts(tmp_path: Path) -> None:
    crawl_dir = make_crawl(tmp_path, [page(f"<p>{ENGLISH}</p>"), page("<p>no</p>", "https://site/b.html")])
    texts = [TextRecord(f"book#{number}", "", f"Chapter {number}. {ENGLISH}", "books") for number in range(3)]
    write_table(crawl_dir / "texts-00000.parquet", pa.Table.from_pylist([*map(asdict, texts)], schema=TEXT_SCHEMA))
    parts = record_slices(crawl_dir, 2)
    counts = []
    for number, part in enumerate(parts):
        (tmp_path / str(number)).mkdir()
        counts.append(clean_partition(part, tmp_path / str(number), CONFIG))
    total = Counts.total(counts)
    assert (total.n_in, total.n_out, total.dropped) == (5, 4, {"too short": 1})
    rows = read_table(tmp_path / "1" / "documents.parquet").to_pylist()
    assert [(row["url"], row["source"]) for row in rows] == [("book#0", "books"), ("book#1", "books")]


def test_figures_are_summed_over_pages(tmp_path: Path) -> None:
    pages = [page(f"<p>{ENGLISH} a{n}@mailhost.org b@mailhost.org</p>", f"https://site/{n}.html") for n in range(5)]
    counts = clean(make_crawl(tmp_path, pages), tmp_path / "out", replace(CONFIG, pages_per_partition=2))[0]
    assert counts.figures["n_masked e-mail"] == 10


def test_a_block_list_that_is_not_there_stops_the_stage(tmp_path: Path) -> None:
    crawl_dir = make_crawl(tmp_path, [page(f"<p>{ENGLISH}</p>")])
    with pytest.raises(ValueError, match=r"blocked_urls_file is 'nowhere\.txt'"):
        clean(crawl_dir, tmp_path / "out", replace(CONFIG, blocked_urls_file="nowhere.txt"))
