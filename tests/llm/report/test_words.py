"""Numbers and texts as the page writes them."""

from __future__ import annotations

import pytest

from llm.report.scores import ScoreRow
from llm.report.words import compact, cut, figure, interval, score, spaced


def row(*, is_share: bool, is_difference: bool, low: float | None = -0.0625) -> ScoreRow:
    names = {"model": "", "benchmark": "", "part": "", "metric": ""}
    values = {"metric_version": 1, "score": 0.125, "low": low, "high": 0.3125, "n": 1, "chance": None}
    return ScoreRow(**names, **values, is_share=is_share, is_difference=is_difference)


@pytest.mark.parametrize(
    ("is_share", "is_difference", "expected"),
    [
        (True, False, ("12.5 %", "-6.2 to 31.2 %")),
        (True, True, ("+12.5 points", "-6.2 to +31.2")),
        (False, False, ("0.125", "-0.062 to 0.312")),
        (False, True, ("+0.125", "-0.062 to +0.312")),
    ],
)
def test_scores_and_intervals(is_share, is_difference, expected):
    found = row(is_share=is_share, is_difference=is_difference)
    assert (score(found), interval(found)) == expected
    assert interval(row(is_share=is_share, is_difference=is_difference, low=None)) == ""


@pytest.mark.parametrize(
    ("number", "short", "full"),
    [(0, "0", "0"), (999, "999", "999"), (123456, "123,456", "123,456"), (1_350_400, "1.35 M", "1,350,400"),
     (2.5e9, "2.5 G", "2,500,000,000"), (1.98765, "2", "1.988")],
)  # fmt: skip
def test_numbers_read_well(number, short, full):
    assert (compact(number), figure(number)) == (short, full)


def test_cut_keeps_the_limit():
    assert [cut("abcd", n) for n in (1, 3, 4, 9)] == ["…", "ab…", "abcd", "abcd"]


def test_what_is_not_seen_in_a_token_is_made_visible():
    assert spaced(" a\n b") == "·a⏎·b"
