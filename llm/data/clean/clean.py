"""Documents out of pages and texts: main text, title, language. What is not worth training on drops out with a reason.

The order: block list, charset and mojibake, main text, language, quality filters, personal data.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...config import Config, setting
from ...counts import Counts
from ...documents import Document, document_id, documents_table
from ...files import write_table
from ...splits import is_held_out
from ..common.canary_check import CanaryCheck
from ..common.drops import EXCERPT_CHARS, Dropped, write_dropped
from ..common.texts import TextRecord, TextSlice, text_slices
from ..common.warc_read import PageSlice, WebPage, page_slices
from ..html.binary import binary_kind
from ..html.charset import decode_html
from ..html.mojibake import SUSPECT_BYTES, mojibake_share, repair_mojibake
from .control_characters import CONTROL_IN_TEXT, MAX_NOISE
from .extract import Page, extract
from .filters.filters import Filters, apply_filters
from .filters.parts import Failure
from .language import detect_language
from .pii import mask_pii
from .url_filter import BlockList, load_block_list

NOT_TEXT = "not text"


@dataclass(frozen=True, kw_only=True)
class CleanConfig(Config):
    """Which pages become documents."""

    blocked_urls: tuple[str, ...] = ()
    """Leave out addresses unread: of a host and all below it (`casino.com`), that begin so (`blog.org/ads/`), or that
    hold a word (`casino`)."""

    blocked_urls_file: str | None = None
    """A text file with more of these, one a line; `#` begins a comment."""

    min_chars: int = setting(200, at_least=0)
    """Drop a page whose text is shorter than this, in characters."""

    max_link_share: float = setting(0.7, at_least=0, at_most=1)
    """Drop a page if more than this share of its main element's characters are links: an index is no text."""

    max_mojibake: float = setting(0.005, at_least=0, at_most=1)
    """Drop a page if more than this share of its characters was spoilt by a wrong charset and cannot be repaired."""

    languages: tuple[str, ...] = ("en",)
    """Keep these languages (ISO 639-1 codes, "en"); empty keeps all."""

    min_language_score: float = setting(0.0, at_least=0, at_most=1)
    """Drop a page whose language is less certain than this, from 0 to 1; not looked at when all languages are kept."""

    filters: Filters = Filters()
    """Quality filters. They were made for the open web and drop much of a reference manual, so they are off unless
    a recipe names them."""

    mask_pii: bool = True
    """Replace e-mail and public IP addresses, telephone, card and bank account numbers by placeholders."""

    held_out_fraction: float = setting(0.05, at_least=0, at_most=1)
    """Share of the documents never trained on, from 0 to 1, drawn by document id."""

    pages_per_partition: int = setting(200, at_least=1)
    """Pages in each output file: the unit of parallel work."""

    canary_check: CanaryCheck = CanaryCheck()
    """When to stop instead of passing on what is likely spoilt."""


def record_slices(artifact_dir: Path, n_per_partition: int) -> list[PageSlice | TextSlice]:
    """Returns the records of a crawl or ingest artifact in partitions of `n_per_partition`: first pages, then texts.

    The last partition of either form may be smaller. The cut depends on the artifact and the number alone.
    """
    has_pages = (artifact_dir / "pages.parquet").exists()
    slices: list[PageSlice | TextSlice] = [*page_slices(artifact_dir, n_per_partition)] if has_pages else []
    return slices + list(text_slices(artifact_dir, n_per_partition))


@dataclass(frozen=True)
class Verdict:
    """What becomes of a record, and what was changed in it (counts by name, for the figures of the stage)."""

    result: Document | Dropped
    figures: Mapping[str, int] = dataclasses.field(default_factory=dict)


def clean_partition(part: PageSlice | TextSlice, out_dir: Path, config: CleanConfig) -> Counts:
    """Writes `documents.parquet` and `dropped.parquet` of some pages or texts, both in their order.

    Counts pages; the figures are n_chars and n_held_out of the documents, and how many personal data of each kind were
    masked and pages repaired. Where every page is dropped `n_out` is 0. Raises OSError for a damaged page, ValueError
    for a block list that cannot be read.
    """
    blocked = load_block_list(config.blocked_urls, config.blocked_urls_file)
    verdicts = [clean_record(record, config, blocked) for record in part.read()]
    documents = [verdict.result for verdict in verdicts if isinstance(verdict.result, Document)]
    dropped = [verdict.result for verdict in verdicts if isinstance(verdict.result, Dropped)]
    write_table(out_dir / "documents.parquet", documents_table(documents))
    write_dropped(out_dir / "dropped.parquet", dropped)
    figures: Counter[str] = Counter()
    for verdict in verdicts:
        figures.update(verdict.figures)
    reasons = Counter(page.reason for page in dropped)
    return Counts("pages", len(verdicts), len(documents), dict(reasons), {**document_figures(documents), **figures})


def document_figures(documents: list[Document]) -> dict[str, float]:
    """Returns totals of some documents: characters, and how many of them are held out."""
    return {
        "n_chars": sum(document.n_chars for document in documents),
        "n_held_out": sum(document.held_out for document in documents),
    }


def clean_record(record: WebPage | TextRecord, config: CleanConfig, blocked: BlockList) -> Verdict:
    """Returns the document in a page or a text, or why there is none.

    Reasons: "blocked url", "not text", "nested too deep", "mostly links", "empty", "too short", "mojibake", "language",
    and those of the quality filters ("Gopher quality: words").
    """
    if entry := blocked.match(record.url):
        return Verdict(Dropped.of("", record.url, "", "blocked url", f"{entry!r} is on the block list"))
    page, figures = _repaired(_read_page(record) if isinstance(record, WebPage) else _read_text(record))
    text, language = page.text, ""
    failure = _page_failure(page, config)
    if not failure:
        language, failure = _language(text, config)
    if not failure:
        text, failure = apply_filters(text, language, config.filters)
        failure = failure or _too_short(text, config)
    if failure:
        return Verdict(_dropped(record.url, page.text, failure, config))
    document, masked = _document(record, page.title, text, language, config)
    return Verdict(document, figures + masked)


# ---------------------------------------------------------------- reading


def _read_page(page: WebPage) -> tuple[Page, bool]:
    """Title and main text of a page, and whether mojibake in it was repaired."""
    if kind := binary_kind(page.body):
        return Page("", "", f"{NOT_TEXT}: {kind}"), False
    body, n_repaired = page.body, 0
    if SUSPECT_BYTES.search(body):
        # Before the parse: afterwards the no-break spaces and control characters that belong to it are gone.
        source, n_repaired = repair_mojibake(decode_html(body, page.content_type))
        body = b"\xef\xbb\xbf" + source.encode() if n_repaired else body
    return extract(body, url=page.url, content_type=page.content_type), n_repaired > 0


def _read_text(record: TextRecord) -> tuple[Page, bool]:
    """A text as it is, without control characters and white space around it."""
    text, n_control = CONTROL_IN_TEXT.subn("", record.text.replace("\r\n", "\n"))
    problem = NOT_TEXT if n_control > MAX_NOISE * len(record.text) else ""
    return Page(" ".join(record.title.split()), "" if problem else text.strip(), problem), False


def _repaired(read: tuple[Page, bool]) -> tuple[Page, Counter[str]]:
    """The page with mojibake repaired that only its text shows (it was written in entities, or there was no markup)."""
    page, is_repaired = read
    text, n_in_text = repair_mojibake(page.text)
    title, n_in_title = repair_mojibake(page.title)
    if n_in_text or n_in_title:
        page = dataclasses.replace(page, text=text, title=title)
    return page, Counter({"n_repaired_mojibake": 1} if is_repaired or n_in_text or n_in_title else {})


# ---------------------------------------------------------------- judging


def _page_failure(page: Page, config: CleanConfig) -> Failure | None:
    """What speaks against a page before its language is known."""
    if page.problem:
        return Failure(page.problem.partition(":")[0], page.problem)
    if not page.text:
        return Failure("empty", "no text is left")
    if page.link_share > config.max_link_share:
        return Failure(
            "mostly links", f"share of links {page.link_share:.2f}, allowed {config.max_link_share:g} or less"
        )
    if (spoilt := mojibake_share(page.text)) > config.max_mojibake:
        return Failure("mojibake", f"share of spoilt characters {spoilt:.3f}, allowed {config.max_mojibake:g} or less")
    return _too_short(page.text, config)


def _too_short(text: str, config: CleanConfig) -> Failure | None:
    if len(text) >= max(config.min_chars, 1):
        return None
    return Failure("too short", f"{len(text)} characters, allowed {config.min_chars} or more")


def _language(text: str, config: CleanConfig) -> tuple[str, Failure | None]:
    """The language of a text, and why it is not kept."""
    language, score = detect_language(text)
    if not config.languages:
        return language, None
    kept = ", ".join(config.languages)
    if score < config.min_language_score or not language:
        limit = f"{config.min_language_score:g} or more"
        return "", Failure("language", f"unknown: perhaps {language or 'none'}, score {score:.2f}, allowed {limit}")
    if language not in config.languages:
        return language, Failure("language", f"{language}, score {score:.2f}, allowed {kept}")
    return language, None


# ---------------------------------------------------------------- results


def _dropped(url: str, text: str, failure: Failure, config: CleanConfig) -> Dropped:
    id = document_id(url, text) if text else ""
    excerpt = text[: 3 * EXCERPT_CHARS]
    return Dropped.of(id, url, mask_pii(excerpt)[0] if config.mask_pii else excerpt, *failure)


def _document(
    record: WebPage | TextRecord, title: str, text: str, language: str, config: CleanConfig
) -> tuple[Document, Counter[str]]:
    """The document, and how many personal data of each kind were masked in it."""
    masked: Counter[str] = Counter()
    if config.mask_pii:
        (title, in_title), (text, in_text) = mask_pii(title), mask_pii(text)
        masked = Counter({f"n_masked {kind}": n for kind, n in (in_title + in_text).items()})
    id = document_id(record.url, text)
    held_out = is_held_out(id, config.held_out_fraction)
    return Document(id, record.url, title, text, language, len(text), held_out, record.source), masked
