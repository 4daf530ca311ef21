"""Tests of examples out of the corpus: reading Sphinx definition lists, dropping."""

import time
from collections import Counter
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from llm.data.common.drops import read_dropped
from llm.data.common.warc_read import PageSlice, WebPage
from llm.data.instruct import definitions as definition_module
from llm.data.instruct.config import InstructConfig
from llm.data.instruct.definitions import (
    DEFINITION_SCHEMA,
    Definition,
    definition_table,
    definitions,
    extract_definitions,
)
from llm.documents import Document, documents_table
from llm.files import read_table, write_table


def term(symbol: str, *, with_id: bool = True, prefix: str = "") -> str:
    """A `dt` as Sphinx writes it."""
    module, _, name = symbol.rpartition(".")
    attribute = f' id="{symbol}"' if with_id else ""
    return (
        f'<dt class="sig sig-object py"{attribute}>\n<em class="property"><span class="pre">{prefix}</span></em>'
        f'<span class="sig-prename descclassname"><span class="pre">{module}.</span></span>'
        f'<span class="sig-name descname"><span class="pre">{name}</span></span><span class="sig-paren">(</span>'
        '<em class="sig-param"><span class="n"><span class="pre">dough</span></span></em>'
        '<span class="sig-paren">)</span>'
        '<a class="reference internal" href="../_modules/bakery.html"><span class="viewcode-link">[source]</span></a>'
        f'<a class="headerlink" href="#{symbol}" title="Permalink to this definition">¶</a></dt>\n'
    )


def entry(symbol: str, body: str, kind: str = "function") -> str:
    return f'<dl class="py {kind}">\n{term(symbol)}<dd>{body}</dd></dl>'


def page(*parts: str) -> bytes:
    return ("<!doctype html><html><body><main>" + "\n".join(parts) + "</main></body></html>").encode()


KNEAD = "<p>Works the dough until the <code>gluten</code>\n  has formed.</p><p>More of it.</p>"


def test_a_function_gives_its_name_kind_and_first_paragraph() -> None:
    found = definitions(page(entry("bakery.knead", KNEAD)))
    assert found == [Definition("bakery.knead", "function", "Works the dough until the gluten has formed.")]


def test_methods_inside_a_class_are_read_once() -> None:
    methods = entry("bakery.Oven.heat", "<p>Heats it.</p>", "method") + entry("bakery.Oven.cool", "", "method")
    found = definitions(page(entry("bakery.Oven", f"<p>An oven.</p>{methods}", "class"), entry("bakery.knead", KNEAD)))
    assert [(d.symbol, d.kind, d.answer) for d in found] == [
        ("bakery.Oven", "class", "An oven."),
        ("bakery.Oven.heat", "method", "Heats it."),
        ("bakery.Oven.cool", "method", ""),
        ("bakery.knead", "function", "Works the dough until the gluten has formed."),
    ]


def test_names_that_share_a_description_all_get_it() -> None:
    terms = term("bakery.bake") + term("bakery.bake", with_id=False) + term("bakery.roast")
    found = definitions(page(f'<dl class="py function">{terms}<dd>{KNEAD}</dd></dl>'))
    assert [(d.symbol, d.n_symbols) for d in found] == [("bakery.bake", 2), ("bakery.roast", 2)]


def test_a_name_without_an_id_is_read_from_the_signature() -> None:
    term_without_id = term("@bakery.timed", with_id=False)
    found = definitions(page(f'<dl class="py decorator">{term_without_id}<dd>{KNEAD}</dd></dl>'))
    assert [d.symbol for d in found] == ["bakery.timed"]


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ('<div class="versionadded"><p>New in 3.1.</p></div><p>Weighs it.</p>', "Weighs it."),
        ("<p> </p><p>Weighs it.</p>", "Weighs it."),
        ("<ul><li><p>Weighs it.</p></li></ul>", ""),
        ("", ""),
        ('<p>Weighs &lt;b&gt; &amp; more<a class="headerlink" href="#x">¶</a>.</p>', "Weighs <b> & more."),
        ('<p>Weighs it <a class="footnote-reference" href="#id1">[1]</a>twice.</p>', "Weighs it twice."),
        ("<p>Weighs it. Roughly equal to:</p><pre>code</pre>", "Weighs it."),
        ("<p>One of the following:</p><ul><li>a</li></ul>", ""),
        ("<p>Keeps the&nbsp;scale <em>very</em>accurate</p>", "Keeps the scale veryaccurate"),
    ],
)
def test_the_first_paragraph_is_cleaned(body: str, answer: str) -> None:
    assert [d.answer for d in definitions(page(entry("bakery.weigh", body)))] == [answer]


def test_other_lists_are_left_alone() -> None:
    assert definitions(page('<dl class="simple"><dt id="a">a</dt><dd><p>No.</p></dd></dl>')) == []
    assert definitions(page('<dl class="std option"><dt id="b">b</dt><dd><p>No.</p></dd></dl>')) == []
    assert definitions(b"") == []


def test_the_charset_is_respected() -> None:
    html = entry("bakery.brulee", "<p>Makes a crème brûlée.</p>").encode("latin-1")
    assert definitions(html, "text/html; charset=iso-8859-1")[0].answer == "Makes a crème brûlée."


def test_broken_markup_is_read() -> None:
    found = definitions(b'<dl class="py function"><dt id="a.b">a.b<dd><p>One<p>Two<dl class="py"><dt>x</dl></div>')
    assert found[0] == Definition("a.b", "function", "One")


def test_a_whole_page_equals_a_reading_with_beautifulsoup_alone() -> None:
    classes = [
        entry(
            f"m.C{i}", f"<p>Class {i}.</p>" + "".join(entry(f"m.C{i}.f{j}", f"<p>Does {i} {j}.</p>") for j in range(i))
        )
        for i in range(12)
    ]
    html = page(*classes)
    expected = [
        (dt["id"], dt.find_next_sibling("dd").find("p").get_text()) for dt in BeautifulSoup(html, "lxml").find_all("dt")
    ]
    assert [(d.symbol, d.answer) for d in definitions(html)] == expected
    assert len(expected) == 12 + 66


def test_time_grows_with_the_page_not_with_its_nesting() -> None:
    def seconds(n_methods: int) -> float:
        methods = "".join(entry(f"m.C.f{i}", "<p>Text.</p>", "method") for i in range(n_methods))
        html, start = page(entry("m.C", f"<p>Text.</p>{methods}", "class")), time.process_time()
        assert len(definitions(html)) == n_methods + 1
        return time.process_time() - start

    seconds(20)
    # Ten times the methods: ten times the time where it is linear, a hundred times where it is quadratic.
    many, few = (min(seconds(n_methods) for _ in range(3)) for n_methods in (1500, 150))
    assert many < 40 * max(few, 0.01)


def test_lists_inside_lists_are_all_read_unless_they_nest_too_deep() -> None:
    def nested(depth: int) -> bytes:
        return page("".join(f'<dl class="py class"><dt id="c{i}">c</dt><dd><p>Text.</p>' for i in range(depth)))

    assert [d.symbol for d in definitions(nested(900))] == [f"c{i}" for i in range(900)]
    start = time.process_time()
    assert definitions(nested(50_000)) == []
    assert time.process_time() - start < 5


DOCUMENTS = {"http://b/kept": ("1" * 32, False), "http://b/held": ("2" * 32, True)}


def web_page(url: str, *parts: str) -> WebPage:
    return WebPage(url=url, status=200, content_type="text/html; charset=utf-8", body=page(*parts))


def test_every_definition_is_kept_or_has_a_reason() -> None:
    shared = "".join(term(f"bakery.constant{i}") for i in range(4))
    kept = web_page(
        "http://b/kept",
        entry("bakery.knead", KNEAD),
        entry("bakery.silent", ""),
        entry("bakery.short", "<p>Short.</p>"),
        entry("bakery.long", f"<p>{'Long ' * 200}</p>"),
        entry("SO_*", KNEAD),
        f'<dl class="py data">{shared}<dd>{KNEAD}</dd></dl>',
    )
    pages = [
        kept,
        web_page("http://b/held", entry("bakery.rest", KNEAD)),
        web_page("http://b/gone", entry("x.y", KNEAD)),
    ]
    table, dropped = definition_table(pages, DOCUMENTS, InstructConfig())
    assert table.schema == DEFINITION_SCHEMA
    [row] = table.to_pylist()
    assert len(row.pop("id")) == 32
    assert row == {
        "symbol": "bakery.knead",
        "kind": "function",
        "question": "What does bakery.knead do?",
        "answer": "Works the dough until the gluten has formed.",
        "url": "http://b/kept",
        "document_id": "1" * 32,
    }
    assert Counter(item.reason for item in dropped) == {
        "no description": 1,
        "too short": 1,
        "too long": 1,
        "not a plain name": 1,
        "shared description": 4,
        "held-out document": 1,
        "page not in the corpus": 1,
    }


def test_answer_lengths_are_inclusive_bounds() -> None:
    pages = [web_page("http://b/kept", *(entry(f"a.n{n}", f"<p>{'x' * n}</p>") for n in (9, 10, 20, 21)))]
    table, _ = definition_table(pages, DOCUMENTS, InstructConfig(min_answer_chars=10, max_answer_chars=20))
    assert table["symbol"].to_pylist() == ["a.n10", "a.n20"]


def test_a_partition_reads_its_slice_and_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [web_page("http://b/kept", entry("bakery.knead", KNEAD)), web_page("http://b/gone", entry("x.y", KNEAD))]
    monkeypatch.setattr(definition_module, "read_pages", lambda crawl_dir, start, stop: iter(pages[start:stop]))
    (tmp_path / "documents").mkdir()
    document = Document("1" * 32, "http://b/kept", "", "text", "en", 4, False)
    write_table(tmp_path / "documents" / "documents-00000.parquet", documents_table([document]))
    for start, stop, n_out in ((0, 1, 1), (1, 2, 0), (0, 2, 1)):
        out_dir = tmp_path / f"{start}{stop}"
        out_dir.mkdir()
        slice_ = PageSlice(crawl_dir=tmp_path, start=start, stop=stop)
        counts = extract_definitions(slice_, tmp_path / "documents", out_dir, InstructConfig())
        table = read_table(out_dir / "definitions.parquet")
        assert (counts.n_in, counts.n_out, len(table)) == (stop - start, n_out, n_out)
        (out_dir / "dropped.parquet").rename(out_dir / "dropped-00000.parquet")
        reasons = [item.reason for item in read_dropped(out_dir)]
        assert reasons == ["page not in the corpus"] * (stop - start - n_out) == list(counts.dropped)
        assert table.schema == DEFINITION_SCHEMA
