from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llm.evaluate.benchmarks import Benchmark, BenchmarkRules
from llm.evaluate.choices import centred_rows
from llm.evaluate.core_set import CORE_TASKS
from llm.evaluate.metrics import ACCURACY, BITS_PER_BYTE, DOCUMENTS, Metric
from llm.evaluate.scores import (
    ITEM_SCHEMA,
    SCORE_SCHEMA,
    Score,
    Units,
    item_table,
    read_items,
    read_scores,
    score_rows,
    score_table,
)
from llm.files import write_table
from llm.statistics import Estimate, mean_of_means, paired_difference, wilson

QUIZ = replace(ACCURACY, version=3)
HITS = np.array([1, 0, 1, 1, 0, 1, 1, 1], dtype=np.float64)
OTHERS = np.array([1, 0, 0, 1, 0, 0, 1, 0], dtype=np.float64)
MARKED = np.array([1, 1, 0, 0, 0, 0, 0, 1], dtype=bool)


def units(values: np.ndarray, **changes) -> Units:
    ids = [str(i) for i in range(len(values))]
    given = {"benchmark": "quiz", "metric": QUIZ, "ids": ids, "is_share": True, "chance": 0.25}
    return Units(**{**given, "values": values, **changes})


def named_rows(rows: list[Score]) -> dict[tuple[str, str, str], Score]:
    """Rows by model, benchmark and the name of the metric in the file."""
    return {(row.model, row.benchmark, row.row()["metric"]): row for row in rows}


def test_marked_items_split_a_score_into_clean_and_contaminated():
    measured = {
        name: {("quiz", "accuracy"): units(values, contaminated=MARKED)}
        for name, values in (("base", OTHERS), ("chat", HITS))
    }
    rows = score_rows(measured, "chat", "base")
    named = named_rows(rows)
    assert len(named) == len(rows) == 9
    for name, mask in (("quiz", MARKED | True), ("quiz, clean items", ~MARKED), ("quiz, contaminated items", MARKED)):
        row = named["chat", name, "accuracy"]
        assert row.estimate == wilson(HITS[mask].astype(bool))
        assert (row.chance, row.metric) == (0.25, QUIZ)
        assert named["chat", name, "accuracy minus base"].estimate == paired_difference(HITS[mask], OTHERS[mask])
    assert named["chat", "quiz, clean items", "accuracy"].estimate.n == 5


@pytest.mark.parametrize("contaminated", [None, ~(MARKED | True)])
def test_without_marked_items_there_is_one_score(contaminated):
    measured = {"base": {("quiz", "accuracy"): units(HITS, contaminated=contaminated)}}
    assert [row.benchmark for row in score_rows(measured, "chat", "base")] == ["quiz"]


def test_parts_are_scored_with_their_own_weights():
    weights = np.arange(1.0, 9.0)
    parts = {"source a": MARKED, "source b": ~MARKED, "source c": MARKED & False}
    made = units(HITS * weights, weights=weights, is_share=False, parts=parts)
    rows = {row.benchmark: row.estimate for row in score_rows({"base": {("quiz", "accuracy"): made}}, "chat", "base")}
    assert list(rows) == ["quiz", "quiz, source a", "quiz, source b"]
    assert rows["quiz, source a"].score == pytest.approx((1 + 8) / (1 + 2 + 8))
    assert sum(rows[f"quiz, source {name}"].n for name in "ab") == rows["quiz"].n == 8


def test_tables_hold_every_row_and_unit():
    measured = {"base": {("quiz", "accuracy"): units(HITS, contaminated=MARKED, gold=HITS.astype(int))}, "chat": {}}
    table = score_table(score_rows(measured, "chat", "base"))
    assert table.schema == SCORE_SCHEMA
    assert table["metric_version"].to_pylist() == [3, 3, 3]
    items = item_table(measured)
    assert items.schema == ITEM_SCHEMA
    assert items["value"].to_pylist() == HITS.tolist()
    assert items["contaminated"].to_pylist() == MARKED.tolist()
    assert items["weight"].to_pylist() == [1.0] * 8
    assert items["chosen"].null_count == 8
    assert item_table({}).schema == ITEM_SCHEMA


def core_benchmark(name: str) -> Benchmark:
    task = next(task for task in CORE_TASKS if task.name == name)
    return Benchmark(name, None, "multiple choice", [], BenchmarkRules(chance=task.chance), task)


def test_core_is_the_mean_of_centred_scores_and_says_of_how_many():
    tasks = [core_benchmark("arc_easy"), core_benchmark("boolq"), core_benchmark("jeopardy")]
    random = np.random.default_rng(0)
    measured = {
        model: {(task.name, "accuracy"): units(random.integers(0, 2, 400).astype(float)) for task in tasks}
        for model in ("base", "chat")
    }
    rows = centred_rows(measured, tasks, "chat", "base")
    named = {key: row.estimate for key, row in named_rows(rows).items()}
    for model in ("base", "chat"):
        centred = []
        for task in tasks:
            accuracy = measured[model][task.name, "accuracy"].values.mean()
            centred.append((accuracy - task.zero) / (1 - task.zero))
            assert named[model, task.name, "centred accuracy"].score == pytest.approx(centred[-1])
        core = named[model, "CORE", "centred accuracy, 3 of 22 tasks"]
        assert core.score == pytest.approx(np.mean(centred))
        assert (core.low < core.score < core.high, core.n) == (True, 1200)
    difference = named["chat", "CORE", "centred accuracy, 3 of 22 tasks minus base"]
    assert difference.score == pytest.approx(
        named["chat", "CORE", "centred accuracy, 3 of 22 tasks"].score
        - named["base", "CORE", "centred accuracy, 3 of 22 tasks"].score
    )
    assert centred_rows(measured, [], "chat", "base") == []


def test_the_interval_of_a_mean_of_means_is_that_of_its_variance():
    random = np.random.default_rng(1)
    groups = [random.integers(0, 2, n).astype(float) for n in (50, 400, 900)]
    found = mean_of_means(groups)
    spread = np.sqrt(sum(group.var() / len(group) for group in groups)) / 3
    assert found.score == pytest.approx(np.mean([group.mean() for group in groups]))
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.04)
    assert found == mean_of_means(groups)
    for nothing in ([], [groups[0], []]):
        with pytest.raises(ValueError, match="a group has no items"):
            mean_of_means(nothing)


def test_a_metric_that_is_not_in_the_table_is_refused_where_it_is_made():
    for made in (
        lambda: units(HITS, metric=Metric("charm", "share")),
        lambda: units(HITS, metric=BITS_PER_BYTE),  # which is of the held-out documents alone
        lambda: Score("base", "quiz", Metric("charm", "share"), Estimate(0.5, 0.4, 0.6, 8)),
    ):
        with pytest.raises(ValueError, match=r"of 'quiz' is not in the table of llm/evaluate/metrics\.py"):
            made()
    assert Score("base", f"{DOCUMENTS}, source x", BITS_PER_BYTE, Estimate(0.5, 0.4, 0.6, 8)).metric == BITS_PER_BYTE


def test_what_is_written_is_read_model_by_model(tmp_path):
    measured = {name: {("quiz", "accuracy"): units(values)} for name, values in (("base", OTHERS), ("chat", HITS))}
    write_table(tmp_path / "scores.parquet", score_table(score_rows(measured, "chat", "base")))
    write_table(tmp_path / "items.parquet", item_table(measured))
    assert [row["metric"] for row in read_scores(tmp_path)] == ["accuracy", "accuracy", "accuracy minus base"]
    assert [(row["model"], row["metric"]) for row in read_scores(tmp_path, "chat")] == [("chat", "accuracy")]
    assert read_items(tmp_path, "chat")["value"].to_pylist() == HITS.tolist()
    assert read_scores(tmp_path / "nothing") == []
