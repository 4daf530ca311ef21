"""The canary check of the clean stage: personal data put into pages of the corpus, and navigation made of them."""

from __future__ import annotations

import dataclasses
import html
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...documents import Document
from ..common.canary_check import CanaryResult
from ..common.texts import TextRecord, TextSlice
from ..common.warc_read import PageSlice, WebPage
from .clean import CleanConfig, Verdict, clean_record
from .pii import luhn_holds
from .url_filter import BlockList

N_PAGES = 8
"""Pages that canaries are put into."""
MAX_READ = 400
"""Records looked at to find them."""
MIN_CHARS = 500
MARK = "plantedsample"
"""Stands before the canaries, to see that they came into the text at all."""
ANCHOR_CHARS = 16
"""Characters of the text by which a position is found again in the markup."""
NO_BLOCKS = BlockList.of(())

Record = WebPage | TextRecord


@dataclass(frozen=True)
class Case:
    """A canary: what must go, and what looks alike and must stay."""

    kind: str
    wanted: str
    control: str


def self_check(parts: Sequence[PageSlice | TextSlice], config: CleanConfig) -> list[CanaryResult]:
    """Returns what became of canaries in copies of the corpus' first good pages.

    Kinds: personal data (masked, not so what only looks alike) where `mask_pii` is on, and pages of navigation
    (dropped, not so the page with some links more) where `max_link_share` is below 1 and there are pages. Nothing is
    written. Where no page is good `n_canaries` is 0.
    """
    pages = list(itertools.islice(_good_pages(parts, config), N_PAGES))
    checks = _pii_checks(pages, config) if config.mask_pii else []
    web_pages = [(record, document) for record, document in pages if isinstance(record, WebPage)]
    if web_pages and config.max_link_share < 1:
        checks.append(_navigation_check(web_pages, config))
    return checks


def _good_pages(parts: Sequence[PageSlice | TextSlice], config: CleanConfig) -> Iterator[tuple[Record, Document]]:
    """The records that become a document of some length, in order, from the first `MAX_READ`."""
    records: Iterator[Record] = itertools.chain.from_iterable(part.read() for part in parts)
    for record in itertools.islice(records, MAX_READ):
        document = clean_record(record, config, NO_BLOCKS).result
        if isinstance(document, Document) and document.n_chars >= MIN_CHARS:
            yield record, document


# ---------------------------------------------------------------- personal data


def pii_cases(number: int) -> list[Case]:
    """Personal data that nobody has, one of each kind, others for every `number` below 100."""
    card = f"45391488034{1000 + number}"
    check = next(digit for digit in "0123456789" if luhn_holds(card + digit))
    wrong = str((int(check) + 1) % 10)
    return [
        Case("e-mail", f"a.kovacs{number}@mailhost{number}.org", f"user{number}@example.com"),
        Case("IP address", f"185.220.{number}.45", f"version 3.11.{number}.1"),
        Case("phone number", f"+44 20 7946 {1000 + number}", f"978-3-16-14{1000 + number}-0"),
        Case("card number", card + check, card + wrong),
    ]


def _pii_checks(pages: Sequence[tuple[Record, Document]], config: CleanConfig) -> list[CanaryResult]:
    seen: dict[str, list[tuple[Case, str]]] = {case.kind: [] for case in pii_cases(0)}
    for number, (record, document) in enumerate(pages):
        cases = pii_cases(number)
        text = _text_with(record, document, cases, config)
        if text is not None:
            for case in cases:
                seen[case.kind].append((case, text))
    return [_pii_check(kind, found) for kind, found in seen.items()]


def _pii_check(kind: str, found: Sequence[tuple[Case, str]]) -> CanaryResult:
    missed = [case.wanted for case, text in found if case.wanted in text]
    wrong = [case.control for case, text in found if case.control not in text]
    failures = [f"not masked: {value}" for value in missed] + [f"masked: {value}" for value in wrong]
    return CanaryResult(kind, len(found), len(found) - len(missed), len(found), len(wrong), tuple(failures))


def _text_with(record: Record, document: Document, cases: Sequence[Case], config: CleanConfig) -> str | None:
    """The text of a copy of the record with the cases in it; None where they do not come into the text."""
    insertion = "; ".join([MARK, *(value for case in cases for value in (case.wanted, case.control))])
    for copy in _copies(record, document, f" {insertion}; "):
        result = clean_record(copy, config, NO_BLOCKS).result
        if isinstance(result, Document) and MARK in result.text:
            return result.text
    return None


def _copies(record: Record, document: Document, insertion: str) -> Iterator[Record]:
    """Copies of a record with `insertion` in the middle of its longest lines."""
    for line in sorted(document.text.split("\n"), key=len, reverse=True)[:5]:
        anchor = line[: len(line) // 2][-ANCHOR_CHARS:]
        if anchor and isinstance(record, TextRecord):
            yield dataclasses.replace(record, text=record.text.replace(anchor, anchor + insertion, 1))
        elif anchor and isinstance(record, WebPage) and (position := record.body.rfind(anchor.encode())) >= 0:
            position += len(anchor.encode())
            body = record.body[:position] + insertion.encode() + record.body[position:]
            yield dataclasses.replace(record, body=body)


# ---------------------------------------------------------------- navigation


def _navigation_check(pages: Sequence[tuple[WebPage, Document]], config: CleanConfig) -> CanaryResult:
    """Pages of nothing but links are dropped; the page itself with a few of these links at its end is not."""
    kept, dropped = [], []
    for page, document in pages:
        links = navigation(document.text, len(document.text))
        body = f"<html><head><title>Index</title></head><body><ul>{links}</ul></body></html>"
        if not _is_dropped(clean_record(dataclasses.replace(page, body=body.encode()), config, NO_BLOCKS)):
            kept.append(page.url)
        few = f"<nav>{navigation(document.text, len(document.text) // 10)}</nav>".encode()
        if _is_dropped(clean_record(dataclasses.replace(page, body=page.body + few), config, NO_BLOCKS)):
            dropped.append(page.url)
    failures = [f"navigation kept: made of {url}" for url in kept] + [f"page dropped: {url}" for url in dropped]
    return CanaryResult("navigation", len(pages), len(pages) - len(kept), len(pages), len(dropped), tuple(failures))


def _is_dropped(verdict: Verdict) -> bool:
    return not isinstance(verdict.result, Document)


def navigation(text: str, n_chars: int) -> str:
    """Returns a list of links out of the words of `text`, four in each, of about `n_chars` characters in all."""
    words = text[:n_chars].split()
    labels = (" ".join(words[start : start + 4]) for start in range(0, len(words), 4))
    return "".join(f'<li><a href="/{n}">{html.escape(label)}</a></li>' for n, label in enumerate(labels))
