from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from llm.counts import Counts
from llm.data.clean import CleanConfig, Dropped, clean_page, clean_partition
from llm.data.documents import Document, document_id, is_held_out
from llm.data.extract import extract
from llm.data.language import detect_language
from llm.data.warc import JournalPage, WebPage, encode_record, n_pages, page_slices, write_crawl
from llm.files import read_table, sha256_file

SITE = Path(__file__).parents[2] / "site" / "html"
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


def test_a_good_page_is_a_document() -> None:
    found = clean_page(page(f"<title>Yeast</title><p>{ENGLISH}</p>"), CONFIG)
    text = ENGLISH.strip()
    id = document_id("https://site/a.html", text)
    assert found == Document(id, "https://site/a.html", "Yeast", text, "en", len(text), is_held_out(id, 0.2))


@pytest.mark.parametrize(
    ("body", "reason", "detail"),
    [
        ("", "empty", "empty"),
        ("<p> \n&nbsp;</p><script>x()</script>", "empty", "empty"),
        ("<p>Closed on Monday.</p>", "too short", "too short"),
        (f"<p>{GERMAN}</p>", "language", "language de"),
        ("<p>" + "12 34 56, " * 40 + "</p>", "language", "language unknown"),
        (b"<p>" + bytes(range(256)) * 20 + b"</p>", "not text", "not text"),
        ("<div>" * 100_000 + ENGLISH, "nested too deep", "nested too deep"),
    ],
)
def test_a_bad_page_is_dropped_with_its_reason(body: str | bytes, reason: str, detail: str) -> None:
    found = clean_page(page(body), CONFIG)
    assert isinstance(found, Dropped)
    assert (found.reason, found.detail) == (reason, detail)
    assert (found.id == "") == (reason in ("empty", "not text", "nested too deep"))


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
    code_like = "<p>" + "os.path.join(path, *paths) sys.argv[1:] " * 10 + "</p>"
    score = detect_language("os.path.join(path, *paths) sys.argv[1:] " * 10)[1]
    assert score < 0.99
    found = clean_page(page(code_like), replace(CONFIG, min_language_score=0.99))
    assert isinstance(found, Dropped)
    assert found.detail == "language unknown"


@pytest.mark.parametrize("field", ["min_chars", "held_out_fraction", "min_language_score", "pages_per_partition"])
def test_a_bad_setting_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is -1; allowed"):
        CleanConfig(**{field: -1})


# ---------------------------------------------------------------- language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH, "en"),
        (ENGLISH.upper(), "en"),
        (GERMAN, "de"),
        ("Le levain est un mélange de farine et d'eau, fermenté pendant une semaine.", "fr"),
        ("面粉和水在罐子里发酵一个星期以后就成了酵头。", "zh"),
        ("", ""),
        ("1 + 1 = 2 😀", ""),
    ],
)
def test_language(text: str, language: str) -> None:
    code, score = detect_language(text)
    assert code == language
    assert 0 <= score <= 1
    assert (code, score) == detect_language(text.replace(" ", "\n  "))


# ---------------------------------------------------------------- partitions


def test_the_site_gives_its_known_answers(tmp_path: Path) -> None:
    crawl_dir = site_crawl(tmp_path)
    counts, documents, dropped = clean(crawl_dir, tmp_path / "out", CONFIG)
    reasons = {row["url"].removeprefix("https://site/"): row["reason"] for row in dropped}
    assert reasons.pop("de/sauerteig.html") == "language de"
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
