"""Instruction examples made from the corpus: definition lists as Sphinx writes them give questions and answers.

`dl.py > dt` names a symbol, the first paragraph of its `dd` says what it does. Definitions are split by their answer,
so no answer is in both parts; the held-out ones also make a closed-book benchmark with four choices.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from bs4 import BeautifulSoup
from selectolax.lexbor import LexborHTMLParser, LexborNode

from ..config import Config, setting
from ..counts import Counts
from ..files import read_table, write_table, write_text
from .documents import document_files
from .four_choice import N_CHOICES, benchmark_items
from .html.charset import decode_html
from .html.depth import is_too_deep
from .warc import PageSlice, WebPage, read_pages

DEFINITION_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "symbol", "kind", "question", "answer", "url", "document_id")]
)
EXAMPLE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("document_id", pa.string()),
    ]
)

NOT_PROSE = "a.headerlink, a.footnote-reference, .viewcode-link"
"""Links that Sphinx adds to the text: permalink, footnote mark, "[source]"."""


PLAIN_NAME = re.compile(r"[^\W\d]\w*(\.\w+)*")
"""`os.path.join`, but not `SO_*` or `METH_VARARGS | METH_KEYWORDS`."""


@dataclass(frozen=True, kw_only=True)
class InstructConfig(Config):
    """How definitions become questions and answers."""

    question: str = "What does {symbol} do?"
    """The question; `{symbol}` stands for the name that is asked about."""

    min_answer_chars: int = setting(20, at_least=1)
    """Drop an answer shorter than this, in characters."""

    max_answer_chars: int = setting(500, at_least=1)
    """Drop an answer longer than this, in characters."""

    max_symbols: int = setting(3, at_least=1)
    """Drop a description shared by more symbols than this: it says little about each of them."""

    held_out_fraction: float = setting(0.1, at_least=0, at_most=0.9)
    """Share of the different answers kept from training, for validation and the benchmark (never less than four)."""

    pages_per_partition: int = setting(200, at_least=1)
    """Pages read by each partition: the unit of parallel work."""

    seed: int = 0
    """Draws the held-out definitions and the order of choices."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{symbol}" not in self.question:
            raise ValueError(f"question is {self.question!r}; it must contain {{symbol}}")
        if self.min_answer_chars > self.max_answer_chars:
            raise ValueError(
                f"min_answer_chars is {self.min_answer_chars}; allowed: up to max_answer_chars, {self.max_answer_chars}"
            )


@dataclass(frozen=True)
class Definition:
    """A symbol (`os.path.join`), its kind (`function`, `method`) and what it does ("" when nothing is said)."""

    symbol: str
    kind: str
    answer: str
    n_symbols: int = 1
    """How many symbols share this description."""


def definitions(html: bytes, content_type: str = "") -> list[Definition]:
    """The definitions of a page, in page order; one for each symbol of a group that shares a description.

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
    """Writes `definitions.parquet`, the definitions of a slice of the crawled pages, in page order.

    Only pages that became training documents count: an example from a held-out one would leak it into training.
    """
    pages = read_pages(part.crawl_dir, part.start, part.stop)
    table, counts = definition_table(pages, _documents_by_url(documents_dir), config)
    write_table(out_dir / "definitions.parquet", table)
    return counts


def definition_table(
    pages: Iterable[WebPage], documents: Mapping[str, tuple[str, bool]], config: InstructConfig
) -> tuple[pa.Table, Counts]:
    """The definitions to keep (`DEFINITION_SCHEMA`) of pages, and the counts with the drop reasons.

    `documents` gives for a URL the id of its document and whether that is held out.
    """
    rows, dropped = [], Counter[str]()
    for page in pages:
        for definition in definitions(page.body, page.content_type):
            if reason := _drop_reason(definition, documents.get(page.url), config):
                dropped[reason] += 1
            else:
                rows.append(_row(definition, page.url, documents[page.url][0], config))
    counts = Counts("definitions", len(rows) + dropped.total(), len(rows), dict(dropped))
    return pa.Table.from_pylist(rows, DEFINITION_SCHEMA), counts


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
        "id": _hash(definition.symbol, url),
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


def split_examples(definitions: Sequence[Path], out_dir: Path, config: InstructConfig) -> Counts:
    """Writes `train.parquet`, `val.parquet` and `benchmark.jsonl` from the partitions' definitions.

    A symbol defined twice keeps its first definition. Raises ValueError when there is nothing to ask about, or too
    little for both parts and the benchmark.
    """
    rows = [row for path in definitions for row in read_table(path).to_pylist()]
    unique = list({row["symbol"]: row for row in reversed(rows)}.values())[::-1]
    held_out = _held_out_answers(unique, config)
    train = [row for row in unique if row["answer"] not in held_out]
    val = [row for row in unique if row["answer"] in held_out]
    items = benchmark_items(val, config.seed)
    write_table(out_dir / "train.parquet", _example_table(train))
    write_table(out_dir / "val.parquet", _example_table(val))
    lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    write_text(out_dir / "benchmark.jsonl", "".join(lines))
    figures = {"n_train": len(train), "n_val": len(val), "n_benchmark": len(items)}
    dropped = {"duplicate symbol": len(rows) - len(unique)} if len(rows) > len(unique) else {}
    return Counts("definitions", len(rows), len(unique), dropped, figures)


def overall_counts(extracted: Counts, split: Counts) -> Counts:
    """The counts of both steps as one: definitions found, examples made, and every reason on the way.

    `extracted` is the total of `extract_definitions`, `split` what `split_examples` returned.
    """
    dropped = {**extracted.dropped, **split.dropped}
    return Counts(split.unit, extracted.n_in, split.n_out, dropped, split.figures)


def _held_out_answers(rows: Sequence[Mapping[str, str]], config: InstructConfig) -> set[str]:
    """The answers kept from training: those with the lowest hashes, the configured share but at least four."""
    answers = sorted({row["answer"] for row in rows}, key=lambda answer: _hash(str(config.seed), answer))
    if len(answers) <= N_CHOICES:
        raise ValueError(
            f"{len(answers)} definitions with different answers were found, {N_CHOICES + 1} are needed: crawl pages "
            "that hold Sphinx definition lists (dl.py), or widen min_answer_chars and max_answer_chars"
        )
    return set(answers[: max(N_CHOICES, round(config.held_out_fraction * len(answers)))])


def _example_table(rows: Sequence[Mapping[str, str]]) -> pa.Table:
    examples = [
        {
            "id": row["id"],
            "question": row["symbol"],
            "messages": [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"]},
            ],
            "document_id": row["document_id"],
        }
        for row in rows
    ]
    return pa.Table.from_pylist(examples, EXAMPLE_SCHEMA)


def _hash(*parts: str) -> str:
    """32 hexadecimal digits that depend on nothing but the parts."""
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
