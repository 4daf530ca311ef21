from __future__ import annotations

import numpy as np
import pytest

from llm.evaluate.benchmark_scores import centred_rows
from llm.evaluate.benchmarks import Benchmark, BenchmarkRules
from llm.evaluate.contamination import contaminated_items
from llm.evaluate.core_set import CORE_TASKS
from llm.evaluate.scores import ITEM_SCHEMA, SCORE_SCHEMA, Units, item_table, score_rows, score_table
from llm.evaluate.statistics import mean_of_means, paired_difference, wilson
from llm.files import write_table

HITS = np.array([1, 0, 1, 1, 0, 1, 1, 1], dtype=np.float64)
OTHERS = np.array([1, 0, 0, 1, 0, 0, 1, 0], dtype=np.float64)
MARKED = np.array([1, 1, 0, 0, 0, 0, 0, 1], dtype=bool)


def units(values: np.ndarray, **changes) -> Units:
    ids = [str(i) for i in range(len(values))]
    given = {"benchmark": "quiz", "metric": "accuracy", "version": 3, "ids": ids, "is_share": True, "chance": 0.25}
    return Units(**{**given, "values": values, **changes})


def test_marked_items_split_a_score_into_clean_and_contaminated():
    measured = {
        name: {("quiz", "accuracy"): units(values, contaminated=MARKED)}
        for name, values in (("base", OTHERS), ("chat", HITS))
    }
    rows = score_rows(measured, "chat", "base")
    named = {(row.model, row.benchmark, row.metric): row for row in rows}
    assert len(named) == len(rows) == 9
    for name, mask in (("quiz", MARKED | True), ("quiz, clean items", ~MARKED), ("quiz, contaminated items", MARKED)):
        row = named["chat", name, "accuracy"]
        assert row.estimate == wilson(HITS[mask].astype(bool))
        assert (row.chance, row.version) == (0.25, 3)
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
    named = {(row.model, row.benchmark, row.metric): row.estimate for row in rows}
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


def test_only_items_in_training_documents_are_contaminated(tmp_path):
    import pyarrow as pa

    from llm.data.decontaminate import HIT_SCHEMA

    hits = [("quiz", 0, False, False), ("quiz", 3, False, True), ("quiz", 5, True, False), ("other", 1, False, True)]
    rows = [
        {
            "id": "d",
            "url": "u",
            "benchmark": name,
            "item": item,
            "ngram": "x",
            "n_ngrams": 1,
            "held_out": h,
            "dropped": d,
        }
        for name, item, h, d in hits
    ]
    assert contaminated_items(tmp_path) == {}
    write_table(tmp_path / "hits.parquet", pa.Table.from_pylist(rows, schema=HIT_SCHEMA))
    assert contaminated_items(tmp_path) == {"quiz": {0}, "other": set()}
