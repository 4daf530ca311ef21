"""Definitions in web pages, as Sphinx writes them, for examples that the corpus itself gives.

`dl.py > dt` names a symbol, the first paragraph of its `dd` says what it does.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from bs4 import BeautifulSoup
from selectolax.lexbor import LexborHTMLParser, LexborNode

from ...counts import Counts
from ...documents import document_files
from ...files import read_table, write_table
from ..common.drops import Dropped, write_dropped
from ..common.warc_read import PageSlice, WebPage, read_pages
from ..html.charset import decode_html
from ..html.depth import is_too_deep
from .config import InstructConfig

DEFINITION_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "symbol", "kind", "question", "answer", "url", "document_id")]
)

NOT_PROSE = "a.headerlink, a.footnote-reference, .viewcode-link"
"""Links that Sphinx adds to the text: permalink, footnote mark, "[source]"."""


PLAIN_NAME = re.compile(r"[^\W\d]\w*(\.\w+)*")
"""`os.path.join`, but not `SO_*` or `METH_VARARGS | METH_KEYWORDS`."""


@dataclass(frozen=True)
class Definition:
    """A symbol (`os.path.join`), its kind (`function`, `method`) and what it does ("" when nothing is said)."""

    symbol: str
    kind: str
    answer: str
    n_symbols: int = 1
    """How many symbols share this description."""


def definitions(html: bytes, content_type: str = "") -> list[Definition]:
    """Returns the definitions of a page, in page order; one for each symbol of a group that shares a description.

    lexbor finds the lists, BeautifulSoup reads the one paragraph of each that is wanted: given whole lists it takes
    five times longer, most of it for signatures and examples. A page nested too deep for the corpus has none.
    """
    source, found = decode_html(html, content_type), list[Definition]()
    if is_too_deep(source):
        return found
    for group in LexborHTMLParser(source).css("dl.py"):
        kind = next((name for name in (group.attributes["class"] or "").split() if name != "py"), "")
        symbols: list[str] = []
        for child in group.iter():
            if child.tag == "dt":
                symbols.append(_symbol(child))
            elif child.tag == "dd":
                answer, names = _first_paragraph(child), list(dict.fromkeys(symbols))
                found += [Definition(name, kind, answer, len(names)) for name in names]
                symbols = []
    return found


def _symbol(term: LexborNode) -> str:
    """The full name that a `dt` defines: its id, or what it shows (a second signature has no id)."""
    if identifier := term.attributes.get("id"):
        return identifier
    shown = "".join(part.text() for part in term.css(".sig-prename, .sig-name"))
    return "".join(shown.split()).removeprefix("@")


def _first_paragraph(description: LexborNode) -> str:
    paragraphs = (_paragraph_text(child.html or "") for child in description.iter() if child.tag == "p")
    return _without_lead_in(next((text for text in paragraphs if text), ""))


def _paragraph_text(html: str) -> str:
    soup = BeautifulSoup(html, "html.parser")
    for mark in soup.select(NOT_PROSE):
        mark.extract()
    return " ".join(soup.get_text().split())


def _without_lead_in(text: str) -> str:
    """The text less a last sentence that only announces what follows it ("Roughly equivalent to:")."""
    if not text.endswith(":"):
        return text
    before, stop, _ = text.rpartition(". ")
    return before + stop.strip()


def extract_definitions(part: PageSlice, documents_dir: Path, out_dir: Path, config: InstructConfig) -> Counts:
    """Writes `definitions.parquet`, those of a slice of the crawled pages in page order, and `dropped.parquet`.

    Only pages that became training documents count: an example from a held-out one would leak it into training.
    """
    pages = read_pages(part.crawl_dir, part.start, part.stop)
    table, dropped = definition_table(pages, _documents_by_url(documents_dir), config)
    write_table(out_dir / "definitions.parquet", table)
    write_dropped(out_dir / "dropped.parquet", dropped)
    reasons = Counter(item.reason for item in dropped)
    return Counts("examples", len(table) + len(dropped), len(table), dict(reasons))


def definition_table(
    pages: Iterable[WebPage], documents: Mapping[str, tuple[str, bool]], config: InstructConfig
) -> tuple[pa.Table, list[Dropped]]:
    """Returns the definitions to keep (`DEFINITION_SCHEMA`) of pages, and those to leave out.

    `documents` gives for a URL the id of its document and whether that is held out.
    """
    rows, dropped = [], list[Dropped]()
    for page in pages:
        for definition in definitions(page.body, page.content_type):
            if reason := _drop_reason(definition, documents.get(page.url), config):
                shown = f"{definition.symbol}: {definition.answer}"
                dropped.append(Dropped.of(hash_of(definition.symbol, page.url), page.url, shown, reason))
            else:
                rows.append(_row(definition, page.url, documents[page.url][0], config))
    return pa.Table.from_pylist(rows, DEFINITION_SCHEMA), dropped


def _drop_reason(definition: Definition, document: tuple[str, bool] | None, config: InstructConfig) -> str | None:
    if document is None:
        return "page not in the corpus"
    if document[1]:
        return "held-out document"
    if not PLAIN_NAME.fullmatch(definition.symbol):
        return "not a plain name"
    if definition.n_symbols > config.max_symbols:
        return "shared description"
    if not definition.answer:
        return "no description"
    if len(definition.answer) < config.min_answer_chars:
        return "too short"
    return "too long" if len(definition.answer) > config.max_answer_chars else None


def _row(definition: Definition, url: str, document_id: str, config: InstructConfig) -> dict[str, str]:
    question = config.question.replace("{symbol}", definition.symbol)
    return {
        "id": hash_of(definition.symbol, url),
        "symbol": definition.symbol,
        "kind": definition.kind,
        "question": question,
        "answer": definition.answer,
        "url": url,
        "document_id": document_id,
    }


def _documents_by_url(documents_dir: Path) -> dict[str, tuple[str, bool]]:
    found = {}
    for path in document_files(documents_dir):
        table = read_table(path, ["url", "id", "held_out"])
        columns = (table[name].to_pylist() for name in ("url", "id", "held_out"))
        found.update({url: (document_id, held_out) for url, document_id, held_out in zip(*columns, strict=True)})
    return found


def hash_of(*parts: str) -> str:
    """32 hexadecimal digits that depend on nothing but the parts."""
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
