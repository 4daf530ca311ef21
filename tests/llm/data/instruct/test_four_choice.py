"""Tests of the four-choice benchmark: choices that letters and lengths do not give away."""

from __future__ import annotations

import random

import pytest

from llm.data.instruct.four_choice import (
    MIN_ANSWERS,
    SharedRuns,
    benchmark_items,
    letter_runs,
    n_shared_words,
    words,
)

NOUNS = [
    "file",
    "path",
    "thread",
    "socket",
    "string",
    "number",
    "module",
    "object",
    "queue",
    "buffer",
    "signal",
    "token",
]
VERBS = ["join", "split", "open", "close", "parse", "encode", "decode", "search", "replace", "count", "write", "print"]


def telling_definitions(n: int = 800) -> list[dict[str, str]]:
    """Definitions whose names say what they do: two words of a name are in its answer, amid others of all lengths."""
    draw = random.Random(0)
    rows = []
    for i in range(n):
        verb, noun = draw.choice(VERBS), draw.choice(NOUNS)
        rest = [draw.choice(NOUNS) for _ in range(draw.randint(2, 12))]
        question = f"What does m.{verb}_{noun} do?"
        answer = f"{verb.title()}s a {noun} with {' '.join(rest)} {'x' * draw.randint(1, 30)}."
        rows.append({"id": f"{i}", "kind": "function", "question": question, "answer": answer, "document_id": "d"})
    return rows


def test_words_of_names_and_texts() -> None:
    assert words("os.path.isAbs, HTTPServer_v2 of an IO") == {"path", "abs", "http", "server"}
    assert n_shared_words("What does os.path.join do?", "Joining of path components.") == 2
    assert letter_runs("mkpath of abs") == {"mkpa", "kpat", "path", "abs"}


def test_counts_are_those_of_each_pair_alone() -> None:
    rows = telling_definitions(60)
    answers = [row["answer"] for row in rows]
    shared = SharedRuns(answers)
    for row in rows:
        expected = [len(letter_runs(row["question"]) & letter_runs(answer)) for answer in answers]
        assert shared.count(row["question"]).tolist() == expected


def test_wrong_choices_are_as_like_the_question_as_the_right_one() -> None:
    rows = {row["id"]: row for row in telling_definitions()}
    items = benchmark_items(list(rows.values()), seed=0)
    assert len(items) > 150
    for item in items:
        runs = letter_runs(item["query"])
        alike = [len(runs & letter_runs(choice)) for choice in item["choices"]]
        assert min(alike) == alike[item["gold"]]
        assert item["choices"][item["gold"]] == rows[item["id"]]["answer"]
        assert len(set(item["choices"])) == 4


def test_words_in_common_and_length_do_not_give_the_answer_away() -> None:
    items = benchmark_items(telling_definitions(), seed=0)

    def accuracy(score) -> float:
        best = [max(range(4), key=lambda i: score(item["query"], item["choices"][i])) for item in items]
        return sum(i == item["gold"] for i, item in zip(best, items, strict=True)) / len(items)

    tolerance = 4 * (0.25 * 0.75 / len(items)) ** 0.5
    assert accuracy(n_shared_words) < 0.25 + tolerance
    for sign in (1, -1):
        assert abs(accuracy(lambda _, choice, sign=sign: sign * len(choice)) - 0.25) < tolerance


@pytest.mark.parametrize("n", [4, MIN_ANSWERS - 1])
def test_of_few_answers_each_makes_an_item(n: int) -> None:
    rows = [row | {"answer": f"{row['answer']} {i}"} for i, row in enumerate(telling_definitions(n))]
    assert [item["id"] for item in benchmark_items(rows, seed=0)] == [row["id"] for row in rows]
