from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from llm.data.clean import clean
from llm.data.clean.clean import CleanConfig
from llm.data.clean.clean_check import N_PAGES, navigation, pii_cases, self_check
from llm.data.clean.extract import extract
from llm.data.clean.filters.filters import C4, Filters, FineWeb, GopherQuality, GopherRepetition
from llm.data.clean.pii import luhn_holds, mask_pii
from llm.data.common.canary_check import CanaryCheck, CanaryResult, require_found
from llm.data.common.texts import TextRecord
from llm.data.common.warc_read import WebPage

SITE = Path(__file__).parents[3] / "site" / "html"
KINDS = ["e-mail", "IP address", "phone number", "card number"]
ENGLISH = "The baker folds the dough and lets it rest until the morning comes, for the yeast likes it warm.\n"
CHINESE = "面粉和水在罐子里发酵一个星期以后就成了酵头。面包师每天早上用新鲜的面粉喂养它，让它保持活力。\n\n"


@dataclass(frozen=True)
class Part:
    """Records in memory, read as those of a slice are."""

    records: tuple[WebPage | TextRecord, ...]

    def read(self) -> Iterator[WebPage | TextRecord]:
        yield from self.records


def site_pages() -> tuple[WebPage, ...]:
    files = sorted(SITE.rglob("*.html"))
    return tuple(WebPage(f"https://site/{file.name}", 200, "text/html", file.read_bytes(), "site") for file in files)


def check(records: tuple[WebPage | TextRecord, ...], config: CleanConfig) -> dict[str, CanaryResult]:
    found = self_check([Part(records)], config)  # type: ignore[list-item]
    require_found(found, CanaryCheck())
    return {item.kind: item for item in found}


def texts(text: str, n: int = 12) -> tuple[TextRecord, ...]:
    return tuple(TextRecord(f"book#{number}", "", f"Nr. {number}\n\n{text}", "books") for number in range(n))


def test_pages_of_a_real_site_pass() -> None:
    found = check(site_pages(), CleanConfig())
    assert [*found] == [*KINDS, "navigation"]
    for item in found.values():
        assert item.n_canaries >= N_PAGES - 2
        assert (item.recall, item.precision, item.n_wrong, item.failures) == (1, 1, 0, ())
        assert item.n_controls == item.n_canaries


def test_the_check_works_with_every_filter_on() -> None:
    filters = Filters(
        gopher_repetition=GopherRepetition(),
        gopher_quality=GopherQuality(),
        c4=C4(terminal_punctuation=False),
        fineweb=FineWeb(max_duplicate_line_chars=0.1),
    )
    found = check(site_pages(), CleanConfig(filters=filters))
    assert all(item.n_canaries > 0 for item in found.values())


def test_texts_are_planted_in_whatever_their_language() -> None:
    for text, language in ((ENGLISH * 9, "en"), (CHINESE * 20, "zh")):
        found = check(texts(text), CleanConfig(languages=(language,)))
        assert [*found] == KINDS
        assert all(item.n_canaries == N_PAGES for item in found.values())


def test_the_order_and_the_rest_of_the_corpus_change_nothing() -> None:
    pages = site_pages()
    assert check(pages, CleanConfig()) == check(pages[:60], CleanConfig())


def test_what_is_switched_off_is_not_checked() -> None:
    assert [*check(site_pages(), CleanConfig(mask_pii=False))] == ["navigation"]
    assert [*check(site_pages(), CleanConfig(max_link_share=1))] == KINDS
    assert self_check([], CleanConfig(mask_pii=False)) == []


def test_without_a_good_page_nothing_is_planted() -> None:
    bad = tuple(WebPage(f"https://site/{n}", 200, "text/html", b"<p>no", "site") for n in range(5))
    assert [item.n_canaries for item in check(bad, CleanConfig()).values()] == [0] * len(KINDS)


def test_a_stage_that_masks_too_little_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(text: str) -> tuple[str, object]:
        kept = "a.kovacs3@mailhost3.org"
        parts = [mask_pii(part) for part in text.split(kept)]
        return kept.join(part for part, _ in parts), sum((n for _, n in parts), mask_pii("")[1])

    monkeypatch.setattr(clean, "mask_pii", forgetful)
    with pytest.raises(ValueError, match=r"(?s)recall of the canaries of 'e-mail' is 0\..*a\.kovacs3@mailhost3"):
        check(site_pages(), CleanConfig())


def test_a_stage_that_masks_too_much_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def eager(text: str) -> tuple[str, object]:
        masked, counts = mask_pii(text)
        return masked.replace("version 3.11.", "version x."), counts

    monkeypatch.setattr(clean, "mask_pii", eager)
    with pytest.raises(ValueError, match=r"(?s)precision of the canaries of 'IP address'.*masked: version 3\.11"):
        check(site_pages(), CleanConfig())


def test_a_stage_that_keeps_navigation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean, "extract", lambda body, **about: replace(extract(body, **about), link_share=0.0))
    with pytest.raises(ValueError, match=r"(?s)'navigation' is 0\.00.*made of https://site/"):
        check(site_pages(), CleanConfig(min_chars=0))


def test_cases_are_what_they_claim() -> None:
    values: list[str] = []
    for number in range(N_PAGES):
        cases = pii_cases(number)
        assert [case.kind for case in cases] == KINDS
        card = cases[-1]
        assert luhn_holds(card.wanted)
        assert not luhn_holds(card.control)
        values += [value for case in cases for value in (case.wanted, case.control)]
    assert len(set(values)) == len(values)


def test_navigation_is_made_of_the_page() -> None:
    html = navigation("one two three four five <six>", 1_000)
    assert html == '<li><a href="/0">one two three four</a></li><li><a href="/1">five &lt;six&gt;</a></li>'
    assert navigation("", 100) == ""
