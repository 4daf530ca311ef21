from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llm.data.decontaminate.decontaminate import HIT_SCHEMA
from llm.evaluate.benchmarks import (
    RULES_FILE,
    BenchmarkRules,
    check_benchmarks,
    contaminated_items,
    external_files,
    read_benchmarks,
    read_definitions,
)
from llm.evaluate.config import EvaluateConfig
from llm.evaluate.core_set import CORE_TASKS, centred
from llm.files import write_table

CHOICE = {"query": "Which?", "choices": ["a", "b", "c", "d"], "gold": 1}
SCHEMA = {"context_options": ["Sarah", "Maria"], "continuation": "won.", "gold": 0}
CLOZE = {"context": "The sky is", "continuation": "blue"}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "form", "chance"),
    [(CHOICE, "multiple choice", 0.25), (SCHEMA, "schema", 0.5), (CLOZE, "language modelling", 0.0)],
)
def test_any_folder_of_jsonl_files_is_benchmarks(tmp_path, row, form, chance):
    write(tmp_path / "mine.jsonl", row, "", row)
    (benchmark,) = check_benchmarks(EvaluateConfig(benchmarks=(str(tmp_path),)))
    assert (benchmark.name, benchmark.form, benchmark.chance, benchmark.zero) == ("mine", form, chance, chance)
    assert benchmark.rules == BenchmarkRules(n_shots=0, delimiter=" ", pick="mean")
    assert [line.number for line in benchmark.rows] == [0, 2]
    assert benchmark.core is None


def test_the_name_of_a_file_names_metrics(tmp_path):
    for name in ("a b", "a<b>", "ä", "a'b", "x" * 65, ".a"):
        path = write(tmp_path / f"{name}.jsonl", CHOICE)
        with pytest.raises(ValueError, match=r"allowed: letters, digits, dashes, .*; rename the file"):
            read_benchmarks(path)


def test_chance_is_the_mean_over_items_of_one_in_so_many_choices(tmp_path):
    path = write(tmp_path / "mine.jsonl", CHOICE, {"query": "x", "choices": ["a", "b"], "gold": 0})
    assert read_benchmarks(path)[0].chance == (1 / 4 + 1 / 2) / 2


def test_files_of_core_are_asked_as_core_has_it(tmp_path):
    write(tmp_path / "arc_easy.jsonl", *[CHOICE] * 11)
    write(tmp_path / "boolq.jsonl", *[CHOICE] * 11)
    write(tmp_path / "hellaswag.jsonl", *[CHOICE] * 11)
    write(tmp_path / "winograd_wsc.jsonl", SCHEMA)
    made = {one.name: one for one in check_benchmarks(EvaluateConfig(benchmarks=(f"{tmp_path}/*.jsonl",)))}
    assert list(made) == ["arc_easy", "boolq", "hellaswag_zeroshot", "hellaswag", "winograd"]
    assert made["arc_easy"].rules == BenchmarkRules(n_shots=10, delimiter="\nAnswer: ")
    assert (made["boolq"].zero, made["boolq"].chance) == (0.62, 0.25)
    assert [made[name].rules.n_shots for name in ("hellaswag_zeroshot", "hellaswag")] == [0, 10]
    assert all(one.core for one in made.values())


def test_the_core_set_has_22_tasks_of_21_files():
    assert len(CORE_TASKS) == len({task.name for task in CORE_TASKS}) == 22
    assert len({task.file for task in CORE_TASKS}) == 21
    assert [task.n_shots for task in CORE_TASKS].count(10) == 14


def test_centred_scores():
    assert [centred(accuracy, 0.25) for accuracy in (0.25, 1.0, 0.0)] == [0.0, 1.0, pytest.approx(-1 / 3)]


def test_asked_otherwise_a_task_is_not_of_core(tmp_path):
    path = write(tmp_path / "arc_easy.jsonl", *[CHOICE] * 11)
    assert read_benchmarks(path, n_shots=0)[0].core is None
    assert read_benchmarks(path, n_shots=10)[0].core is not None
    write(tmp_path / RULES_FILE, "arc_easy: {chance: 0.3}")
    assert (read_benchmarks(path)[0].core, read_benchmarks(path)[0].zero) == (None, 0.3)
    path = write(tmp_path / "hellaswag.jsonl", *[CHOICE] * 11)
    assert [one.name for one in read_benchmarks(path, n_shots=3)] == [
        "hellaswag_zeroshot"
    ]  # asked alike, one is enough


def test_rules_beside_the_files(tmp_path):
    path = write(tmp_path / "mine.jsonl", CHOICE, CHOICE)
    write(tmp_path / RULES_FILE, json.dumps({"mine": {"n_shots": 1, "delimiter": ": ", "chance": 0, "pick": "sum"}}))
    assert read_benchmarks(path)[0].rules == BenchmarkRules(n_shots=1, delimiter=": ", chance=0, pick="sum")
    assert read_benchmarks(path)[0].chance == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("mine: {shots: 1}", r"mine\.shots: unknown key; known are .*did you mean n_shots"),
        ("mine: {n_shots: -1}", r"mine\.n_shots is -1; allowed: 0 or more"),
        ("mine: {n_shots: 2}", r"mine\.jsonl: n_shots is 2; allowed: fewer than there are items, 2"),
        ("mine: {n_shots: many}", r"mine\.n_shots is 'many'; it is of the wrong kind"),
        ("mine: {chance: 1.0}", r"mine\.chance is 1.0; allowed: from 0 to 0.99"),
        ("mine: {pick: best}", r"mine\.pick is 'best'; allowed: 'mean', 'sum', 'per character'"),
        ("mine: 3", r"benchmarks\.yaml: expected the names of files"),
        ("[", r"benchmarks\.yaml: not YAML"),
    ],
)
def test_wrong_rules_are_named(tmp_path, content, words):
    path = write(tmp_path / "mine.jsonl", CHOICE, CHOICE)
    write(tmp_path / RULES_FILE, content)
    with pytest.raises(ValueError, match=words):
        read_benchmarks(path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"query": "x", "choices": ["a", "b"]}, "gold is missing"),
        ({**CHOICE, "gold": 4}, "gold is 4; allowed: 0 to 3"),
        ({**CHOICE, "gold": -1}, "gold is -1"),
        ({**CHOICE, "gold": True}, "gold is True"),
        ({**CHOICE, "gold": "b"}, "gold is 'b'"),
        ({**CHOICE, "choices": []}, r"choices is \[\]; expected a list of texts"),
        ({**CHOICE, "choices": "ab"}, "choices is 'ab'"),
        ({**CHOICE, "choices": ["a", " "]}, r"choices\[1\] is ' '; expected text that is not empty"),
        ({**CHOICE, "query": 3}, "query is 3; expected text"),
        ({"choices": ["a"], "gold": 0}, "query is missing"),
        ({**SCHEMA, "context_options": ["a", None]}, r"context_options\[1\] is None"),
        ({**SCHEMA, "continuation": ""}, "continuation is empty"),
        ({"context": "x"}, "continuation is missing"),
        ({"context": None, "continuation": "x"}, "context is None; expected text"),
        ({"text": "x"}, "it has none of the fields messages, choices, context_options, context"),
        ([1], r"expected an object, found \[1\]"),
        ("{", "Expecting property name"),
        ({"messages": []}, r"messages is \[\]"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] is .* text content"),
    ],
)
def test_a_wrong_item_is_named_by_file_line_and_field(tmp_path, line, words):
    write(tmp_path / "mine.jsonl", CHOICE, "", line)
    with pytest.raises(ValueError, match=rf"mine\.jsonl, line 3: not a benchmark item \(.*{words}"):
        check_benchmarks(EvaluateConfig(benchmarks=(str(tmp_path),)))


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "mine.jsonl").write_bytes(json.dumps(CHOICE).encode() + b'\n{"query": "\xff\xfe\xff"}\n')
    with pytest.raises(ValueError, match=r"mine\.jsonl, line 2: not a benchmark item"):
        read_benchmarks(tmp_path / "mine.jsonl")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], r"mine\.jsonl: there is no item in it"),
        ([CHOICE, CLOZE], r"line 2: its form is language modelling, that of the first item multiple choice"),
        ([{"messages": [{"role": "user", "content": "x"}]}], r"line 1: a chat \(messages\) has no choices"),
    ],
)
def test_files_that_cannot_be_scored(tmp_path, rows, words):
    with pytest.raises(ValueError, match=words):
        read_benchmarks(write(tmp_path / "mine.jsonl", *rows))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"benchmarks has '.*none.*', but there is no such file"):
        check_benchmarks(EvaluateConfig(benchmarks=(f"{tmp_path}/none*",)))
    with pytest.raises(ValueError, match=r"lm_eval_tasks has '.*none\.yaml', but there is no such file"):
        check_benchmarks(EvaluateConfig(lm_eval_tasks=(f"{tmp_path}/none.yaml",)))


def test_all_that_is_read_outside_of_the_store_is_named(tmp_path):
    path = write(tmp_path / "mine.jsonl", CHOICE)
    config = EvaluateConfig(benchmarks=(str(path),))
    assert external_files(config) == [path]
    rules = write(tmp_path / RULES_FILE, "mine: {pick: sum}")
    assert external_files(config) == [path, rules]
    (tmp_path / "tasks").mkdir()
    task = write(tmp_path / "tasks" / "t.yaml", "task: t")
    data = write(tmp_path / "tasks" / "t.jsonl", CHOICE)
    assert set(external_files(EvaluateConfig(lm_eval_tasks=(str(task), "hellaswag")))) == {task, data}
    assert external_files(EvaluateConfig()) == []


def test_checking_needs_no_pytorch():
    import subprocess

    code = "import sys, llm.evaluate.benchmarks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_items_in_training_documents_are_contaminated(tmp_path):
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


def test_definitions_have_ids_and_metrics_of_their_own(tmp_path):
    write(tmp_path / "benchmark.jsonl", {**CHOICE, "id": "a", "document_id": "d"}, {**CHOICE, "id": "b"})
    definitions = read_definitions(tmp_path / "benchmark.jsonl")
    assert [definitions.id_of(row) for row in definitions.rows] == ["a", "b"]
    assert (definitions.name, definitions.chance) == ("four-choice definitions", 0.25)
    assert [metric.name for metric in definitions.picks] == ["accuracy", "accuracy by likelihood", "accuracy per byte"]
    (own,) = read_benchmarks(tmp_path / "benchmark.jsonl")  # the same file as one that a recipe names
    assert [own.id_of(row) for row in own.rows] == ["0", "1"]
    assert {metric.name: rule for metric, rule in own.picks.items()} == {"accuracy": "mean"}
