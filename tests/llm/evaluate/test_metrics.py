"""The table of metrics: whole, without two rows of a name, and known to all that measure."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import llm
from llm.evaluate.metrics import (
    ACCURACY,
    CORE,
    CORE_SCORE,
    DEFINITIONS,
    DOCUMENTS,
    FOUR_CHOICE,
    HELD_OUT,
    METRICS,
    find,
)


def test_every_row_is_found_by_its_names():
    for metric in METRICS:
        assert find(metric.benchmark or "arc_easy", metric.name) is metric
    assert len({(metric.benchmark, metric.name) for metric in METRICS}) == len(METRICS)
    keys = [metric.key for metric in METRICS if metric.key]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("benchmark", "name", "expected"),
    [
        ("arc_easy", "accuracy", ACCURACY),
        ("arc_easy, clean items", "accuracy minus base", ACCURACY),
        (DEFINITIONS, "accuracy", FOUR_CHOICE),
        (CORE, "centred accuracy, 3 of 22 tasks minus base", CORE_SCORE),
    ],
)
def test_parts_differences_and_numbers_of_tasks_belong_to_a_row(benchmark, name, expected):
    assert find(benchmark, name) is expected


def test_what_lm_eval_measures_is_its_own_and_all_else_is_refused():
    assert find("lm-eval hellaswag", "acc_norm, strict").name == "acc_norm, strict"
    for benchmark, name in (("hellaswag", "acc_norm"), ("hellaswag", "bits per byte"), (DOCUMENTS, "perplexity")):
        with pytest.raises(ValueError, match=f"metric '{name}' of '{benchmark}' is not in the table"):
            find(benchmark, name)


def test_all_that_training_measures_of_held_out_batches_is_in_the_table():
    found = set()
    for path in (Path(llm.__file__).parent / "train").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"val_\w+", node.value):
                found.add(node.value.removesuffix("_low").removesuffix("_high"))
    assert found == HELD_OUT.keys()
