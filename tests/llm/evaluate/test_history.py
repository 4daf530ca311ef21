"""The watch over scores: what counts as a fall, what later evaluations are compared with, and the plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llm.evaluate.comparison import Compared, compare_items
from llm.evaluate.history import against_reference, alarms, append, draw, next_reference, read
from llm.files import read_table
from tests.llm.evaluate.test_gate import ACCURACY, LOSS, RIGHT, N, losses, rows, table

BEFORE = table(rows(LOSS, losses(0)), rows(ACCURACY, RIGHT, weights=1))


def compared(now: pa.Table) -> list[Compared]:
    return compare_items(BEFORE, now, shared_only=True)


def test_a_fall_beyond_noise_is_an_alarm_and_noise_is_none() -> None:
    assert alarms(compared(BEFORE)) == []
    assert alarms(compared(table(rows(LOSS, losses(0, 2)), rows(ACCURACY, RIGHT, weights=1)))) == []
    (alarm,) = alarms(compared(table(rows(LOSS, losses(1)), rows(ACCURACY, RIGHT, weights=1))))
    assert alarm.name == "held-out examples: answer loss"
    assert alarm.in_words().startswith("held-out examples: answer loss is worse: before ")


def test_what_another_machine_rounds_differently_is_no_fall() -> None:
    (loss, _) = compared(table(rows(LOSS, losses(0.001)), rows(ACCURACY, RIGHT, weights=1)))
    assert loss.gain
    assert loss.gain.high < 0  # beyond the interval, as every item has moved
    assert alarms([loss]) == []


def test_a_benchmark_that_is_gone_or_no_number_is_an_alarm() -> None:
    (gone,) = alarms(compared(table(rows(LOSS, losses(0)))))
    assert (gone.name, gone.problem) == ("words: accuracy", "measured only before")
    (broken,) = alarms(compared(table(rows(LOSS, losses(0) * np.nan), rows(ACCURACY, RIGHT, weights=1))))
    assert broken.problem == "some of the values are not numbers"


def test_the_reference_stays_and_begins_anew_where_nothing_can_be_compared() -> None:
    fallen = table(rows(LOSS, losses(1)), rows(ACCURACY, RIGHT, weights=1, version=2), rows(("new", "accuracy"), RIGHT))
    reference = next_reference(BEFORE, fallen, compared(fallen))
    assert alarms(compare_items(reference, fallen, shared_only=True))[0].metric == "answer loss"
    assert {(row["metric"], row["metric_version"]) for row in reference.to_pylist()} == {
        ("answer loss", 1),
        ("accuracy", 2),
        ("accuracy", 1),
    }
    assert reference.num_rows == 3 * N
    without = table(rows(LOSS, losses(0)))
    assert next_reference(BEFORE, without, compared(without)).num_rows == 2 * N  # gone: it stays an alarm


def test_the_first_evaluation_is_kept_until_another_is_accepted(tmp_path: Path) -> None:
    path, fallen = tmp_path / "model.parquet", table(rows(LOSS, losses(1)), rows(ACCURACY, RIGHT, weights=1))
    assert alarms(against_reference(path, BEFORE, accept=False)) == []
    assert [each.metric for each in alarms(against_reference(path, fallen, accept=False))] == ["answer loss"]
    assert read_table(path) == BEFORE
    assert alarms(against_reference(path, fallen, accept=True)) == []
    assert read_table(path) == fallen


def test_few_shared_items_are_compared_by_these() -> None:
    (loss, _) = compared(table(rows(LOSS, losses(5), first=N - 1), rows(ACCURACY, RIGHT, weights=1)))
    assert loss.gain
    assert loss.gain.n == 1


@pytest.fixture
def history() -> list[dict[str, Any]]:
    score = {"benchmark": "words", "metric": "accuracy", "score": 0.5, "low": 0.4, "high": 0.6}
    return [
        {
            "time": f"2026-01-0{day}T03:00:00+00:00",
            "model": f"sourdough-x-chat version {1 + day // 3}",
            "fell": ["words: accuracy"] if day == 4 else [],
            "scores": scores,
        }
        for day, scores in enumerate([[score], [score, {**score, "metric": "F1"}], [score], [score]], 1)
    ]


def test_lines_come_back_and_one_that_cannot_be_written_changes_nothing(
    tmp_path: Path, history: list[dict[str, Any]]
) -> None:
    path = tmp_path / "folder" / "history.jsonl"
    assert read(path) == []
    for line in history:
        append(path, line)
    with pytest.raises(TypeError):
        append(path, {"time": object()})
    assert read(path) == history


def test_the_plot_is_a_picture_and_the_same_each_time(tmp_path: Path, history: list[dict[str, Any]]) -> None:
    draw(tmp_path / "a.png", history)
    draw(tmp_path / "b.png", history)
    picture = (tmp_path / "a.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert picture == (tmp_path / "b.png").read_bytes()
    draw(tmp_path / "c.png", history[:1])
    perplexity = {"benchmark": "lm-eval x", "metric": "word_perplexity", "score": 9.5, "low": None, "high": None}
    draw(tmp_path / "d.png", [{**line, "scores": [*line["scores"], perplexity]} for line in history])
    assert (tmp_path / "d.png").read_bytes() != picture
    assert picture != (tmp_path / "c.png").read_bytes()
