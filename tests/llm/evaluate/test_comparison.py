"""Two tables of items compared in pairs, against differences worked out by hand."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pytest

from llm.documents import Document, documents_table
from llm.evaluate.comparison import compare_items, held_out_documents, keep_items
from llm.files import write_table
from llm.statistics import paired_difference
from tests.llm.evaluate.test_gate import ACCURACY, LOSS, RIGHT, N, losses, rows, table


def test_shared_items_alone_can_be_compared() -> None:
    (found,) = compare_items(table(rows(LOSS, losses(0))), table(rows(LOSS, losses(1), first=1)), shared_only=True)
    assert found.gain
    assert found.gain.n == N - 1


def test_a_gain_is_a_difference_in_the_direction_of_the_metric() -> None:
    worse = np.where(np.arange(N) % 3 == 0, 0.0, RIGHT)
    before = table(rows(LOSS, losses(0)), rows(ACCURACY, RIGHT, weights=1))
    loss, accuracy = compare_items(before, table(rows(LOSS, losses(1, 2)), rows(ACCURACY, worse, weights=1)))
    weights = np.full(N, 2.0)
    assert loss.gain == paired_difference(losses(0), losses(1, 2), weights)
    assert loss.difference
    expected = paired_difference(losses(1, 2), losses(0), weights)
    for end in ("score", "low", "high", "n"):
        assert getattr(loss.difference, end) == pytest.approx(getattr(expected, end), rel=1e-9)
    assert accuracy.gain == accuracy.difference == paired_difference(worse, RIGHT)
    assert loss.fell
    assert accuracy.fell


def test_a_metric_that_no_table_has_is_named() -> None:
    unknown = table(rows(("words", "charm"), RIGHT))
    with pytest.raises(ValueError, match="metric 'charm' of 'words' is not in the table"):
        compare_items(unknown, unknown)
    assert compare_items(unknown, table())[0].problem == "measured only before"  # what has gone needs no direction


def test_items_that_are_not_among_some_are_left_out() -> None:
    both = table(rows(LOSS, losses(0)), rows(ACCURACY, RIGHT))
    (kept, other), said = keep_items([both, both], [LOSS[0], "no such benchmark"], {"3", "5", "unknown"})
    assert [row["id"] for row in kept.to_pylist() if row["benchmark"] == LOSS[0]] == ["3", "5"]
    assert kept.filter(pc.field("benchmark") == ACCURACY[0]).num_rows == N
    assert other == kept
    assert said == [f"{N - 2} of {N} held-out examples are left out"]
    assert keep_items([both], [LOSS[0]], {str(i) for i in range(N)}) == ([both], [])
    with pytest.raises(ValueError, match=f"{N} of {N} held-out examples are left out"):
        keep_items([both], [LOSS[0]], set())


def test_held_out_documents_are_read_from_all_files(tmp_path) -> None:
    documents = [Document(f"{i}", "u", "t", "x", "en", 1, i % 2 == 0) for i in range(6)]
    for part in range(2):
        write_table(tmp_path / f"documents-{part:05}.parquet", documents_table(documents[3 * part :][:3]))
    assert held_out_documents(tmp_path) == {"0", "2", "4"}
