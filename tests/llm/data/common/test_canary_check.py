"""The canary check: what is spoilt stops the run with examples, what is sound passes."""

from __future__ import annotations

import pytest

from llm.counts import Counts
from llm.data.common.canary_check import CanaryCheck, CanaryResult, require_found, require_shares
from llm.data.common.drops import Dropped


def test_recall_precision_and_figures():
    check = CanaryResult("near duplicate", n_canaries=20, n_found=19, n_controls=10, n_wrong=1)
    assert (check.recall, check.precision) == (0.95, 0.95)
    assert check.figures == {
        "planted near duplicate: n": 20,
        "planted near duplicate: recall": 0.95,
        "planted near duplicate: precision": 0.95,
    }
    require_found([check, CanaryResult("item", 0, 0)], CanaryCheck())


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            CanaryResult("e-mail", 20, 18, failures=("http://a/: a@b.org",)),
            r"(?s)recall.*'e-mail' is 0\.90.*18 of 20.*a@b",
        ),
        (CanaryResult("e-mail", 20, 20, 5, 2), r"precision.*'e-mail' is 0\.91.*2 of 5 look-alikes"),
        (CanaryResult("e-mail", 20, 0), r"recall.*is 0\.00"),
    ],
)
def test_missed_cases_and_look_alikes_stop_the_run(check: CanaryResult, message: str):
    with pytest.raises(ValueError, match=message):
        require_found([check], CanaryCheck())
    require_found([check], CanaryCheck(min_recall=0))


def test_one_reason_may_not_remove_most_of_a_corpus():
    samples = {"too short": [Dropped.of("", f"http://a/{i}", "tiny", "too short") for i in range(9)]}
    require_shares(Counts("pages", 100, 50, {"too short": 50}), samples, CanaryCheck())
    with pytest.raises(
        ValueError, match=r"(?s)'too short' dropped 51 of 100 pages \(51%\).*allows 50%.*http://a/0: tiny"
    ) as error:
        require_shares(Counts("pages", 100, 49, {"too short": 51}), samples, CanaryCheck())
    assert str(error.value).count("\n") == 5
    require_shares(Counts("pages", 100, 49, {"too short": 51}), samples, CanaryCheck(max_reason_share=0.51))


def test_a_handful_of_documents_says_nothing():
    require_shares(Counts("pages", 49, 1, {"too short": 48}), {}, CanaryCheck())
