"""Documents out of pages: main text, title and language. What is short, not text or in another language drops out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ..config import Config, setting
from ..counts import Counts
from ..files import write_table
from .documents import Document, document_id, documents_table, is_held_out
from .extract import Page, extract
from .language import detect_language
from .warc import PageSlice, WebPage

DROPPED_SCHEMA = pa.schema([("id", pa.string()), ("url", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True, kw_only=True)
class CleanConfig(Config):
    """Which pages become documents."""

    min_chars: int = setting(200, at_least=0)
    """Drop a page whose text is shorter than this, in characters."""

    max_link_share: float = setting(0.7, at_least=0, at_most=1)
    """Drop a page if more than this share of its main element's characters are links: an index is no text."""

    languages: tuple[str, ...] = ("en",)
    """Keep these languages (ISO 639-1 codes, "en"); empty keeps all."""

    min_language_score: float = setting(0.0, at_least=0, at_most=1)
    """Drop a page whose language is less certain than this, from 0 to 1; not looked at when all languages are kept."""

    held_out_fraction: float = setting(0.05, at_least=0, at_most=1)
    """Share of the documents never trained on, from 0 to 1, drawn by document id."""

    pages_per_partition: int = setting(200, at_least=1)
    """Pages in each output file: the unit of parallel work."""


@dataclass(frozen=True)
class Dropped:
    """A page left out. `reason` is one of a few words; `detail` may say more ("language de")."""

    id: str
    url: str
    reason: str
    detail: str


def clean_partition(part: PageSlice, out_dir: Path, config: CleanConfig) -> Counts:
    """Writes `documents.parquet` and `dropped.parquet` of some pages, both in the order of the pages.

    Counts pages; the figures are n_chars and n_held_out of the documents. Where every page is dropped `n_out` is 0.
    Raises OSError for a damaged page.
    """
    verdicts = [clean_page(page, config) for page in part.read()]
    documents = [verdict for verdict in verdicts if isinstance(verdict, Document)]
    dropped = [verdict for verdict in verdicts if isinstance(verdict, Dropped)]
    write_table(out_dir / "documents.parquet", documents_table(documents))
    rows = [{"id": page.id, "url": page.url, "reason": page.detail} for page in dropped]
    write_table(out_dir / "dropped.parquet", pa.Table.from_pylist(rows, schema=DROPPED_SCHEMA))
    reasons = Counter(page.reason for page in dropped)
    return Counts("pages", len(verdicts), len(documents), dict(reasons), document_figures(documents))


def document_figures(documents: list[Document]) -> dict[str, float]:
    """Totals of some documents: characters, and how many of them are held out."""
    return {
        "n_chars": sum(document.n_chars for document in documents),
        "n_held_out": sum(document.held_out for document in documents),
    }


def clean_page(page: WebPage, config: CleanConfig) -> Document | Dropped:
    """The document on a page, or why there is none.

    Reasons: "not text", "nested too deep", "mostly links", "empty", "too short", "language" (in detail "language de",
    or "language unknown" where it is less certain than `min_language_score`).
    """
    found = extract(page.body, url=page.url, content_type=page.content_type)
    text = found.text
    id = document_id(page.url, text) if text else ""
    if reason := found.problem or _mostly_links(found, config) or _too_little(text, config):
        return Dropped(id, page.url, reason, reason)
    language, score = detect_language(text)
    if config.languages:
        language = language if score >= config.min_language_score else ""
        if language not in config.languages:
            return Dropped(id, page.url, "language", f"language {language or 'unknown'}")
    held_out = is_held_out(id, config.held_out_fraction)
    return Document(id, page.url, found.title, text, language, len(text), held_out)


def _mostly_links(page: Page, config: CleanConfig) -> str:
    return "mostly links" if page.text and page.link_share > config.max_link_share else ""


def _too_little(text: str, config: CleanConfig) -> str:
    if not text:
        return "empty"
    return "too short" if len(text) < config.min_chars else ""
