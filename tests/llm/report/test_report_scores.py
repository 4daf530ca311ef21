"""Scores as tables: every row once, in its place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from llm.evaluate.metrics import ACCURACY, CENTRED, CORE_SCORE
from llm.evaluate.scores import SCORE_SCHEMA, Score, Units, score_rows, score_table
from llm.files import write_table
from llm.report.scores import ScoreRow, samples, score_tables, scores
from llm.statistics import Estimate


def accuracies(n_right: int) -> Units:
    """Of a benchmark of 40 items, 10 of them contaminated."""
    return Units(
        benchmark="arc_easy",
        metric=ACCURACY,
        ids=[str(i) for i in range(40)],
        values=(np.arange(40) < n_right).astype(float),
        is_share=True,
        chance=0.25,
        contaminated=np.arange(40) < 10,
    )


def test_parts_stand_under_all_items_and_differences_under_the_models(tmp_path):
    measured = {name: {("arc_easy", "accuracy"): accuracies(n)} for name, n in (("base", 20), ("chat", 30))}
    rows = score_rows(measured, "chat", "base")
    rows += [Score(name, "arc_easy", CENTRED, Estimate(0.5, 0.4, 0.6, 40)) for name in ("base", "chat")]
    metric = replace(CORE_SCORE, name="centred accuracy, 1 of 22 tasks")
    rows += [Score("base", "CORE", metric, Estimate(0.5, 0.4, 0.6, 40))]
    write_table(tmp_path / "scores.parquet", score_table(rows))
    (table,) = score_tables(scores(tmp_path))
    core, block = table.blocks
    assert (core.benchmark, core.metric) == ("CORE", "centred accuracy, 1 of 22 tasks")
    assert (block.benchmark, block.metric, block.metric_version) == ("arc_easy", "accuracy", 1)
    models = ["base", "chat", "chat minus base"]
    parts = ["", "clean items", "contaminated items"]
    assert [(row.part, row.model) for row in block.rows] == [(part, model) for part in parts for model in models]
    assert [row.n for row in block.rows] == [40] * 3 + [30] * 3 + [10] * 3
    assert [row.centred for row in block.rows] == [0.5, 0.5] + [None] * 7
    assert [row.is_difference for row in block.rows] == [False, False, True] * 3
    assert all(row.is_share for row in block.rows)
    assert not core.rows[0].is_share


def test_every_score_is_shown_once(tmp_path):
    names = [
        ("base", "held-out documents", "bits per byte"),
        ("base", "held-out documents, source a, b", "bits per byte"),
        ("chat", "held-out examples", "answer loss"),
        ("chat", "held-out examples", "token F1"),
        ("word overlap", "four-choice definitions", "accuracy"),
        ("base", "lm-eval some task", "acc_norm"),
        ("chat", "lm-eval some task", "acc_norm minus base"),
    ]
    empty = {"metric_version": 3, "score": 0.5, "low": None, "high": None, "n": 2, "chance": None}
    rows = [{"model": model, "benchmark": benchmark, "metric": metric, **empty} for model, benchmark, metric in names]
    write_table(tmp_path / "scores.parquet", pa.Table.from_pylist(rows, schema=SCORE_SCHEMA))
    tables = score_tables(scores(tmp_path))
    found = [row for table in tables for block in table.blocks for row in block.rows]
    assert len(found) == len(names)
    assert found[1].part == "source a, b"
    assert [table.title for table in tables] == ["Text", "Answers", "Choices and other tasks"]
    assert [row.model for row in found[-2:]] == ["base", "chat minus base"]
    assert [(table.has_parts, table.has_chances, table.has_centred) for table in tables] == [
        (True, False, False),
        (False, False, False),
        (False, False, False),
    ]
    assert [table.has_shares for table in tables] == [False, True, True]


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert (scores(tmp_path), samples(tmp_path)) == ([], {})
    assert score_tables([]) == []


def row(*, is_share: bool, is_difference: bool, low: float | None = -0.0625) -> ScoreRow:
    names = {"model": "", "benchmark": "", "part": "", "metric": "", "section": "Text"}
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
    assert (found.in_words(), found.interval()) == expected
    assert row(is_share=is_share, is_difference=is_difference, low=None).interval() == ""
