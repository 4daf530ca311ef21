"""Tests of the example set: duplicates, the held-out split, the four-choice benchmark, the books."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llm.counts import Counts
from llm.data.common.drops import read_dropped
from llm.data.instruct.config import InstructConfig, InstructSource
from llm.data.instruct.definitions import DEFINITION_SCHEMA
from llm.data.instruct.four_choice import benchmark_items
from llm.data.instruct.sources import Example, Found
from llm.data.instruct.split import example_schema, held_out_ids, linked, overall_counts, write_examples
from llm.files import read_table, write_table


def made_up_definitions(n: int = 400) -> list[dict[str, str]]:
    """Definitions of two kinds with answers of different lengths; every tenth answer is that of the one before."""
    rows = []
    for i in range(n):
        text = i - 1 if i % 10 == 9 else i
        answer = f"Answer number {text} says {'so ' * (text * 7919 % 60)}."
        kind = "method" if text % 3 else "class"
        row = {"id": f"{i:032x}", "symbol": f"bakery.name{i}", "kind": kind, "answer": answer}
        rows.append(
            row | {"question": f"What does bakery.name{i} do?", "url": "http://b/kept", "document_id": "1" * 32}
        )
    return rows


def split(folder: Path, rows: list[dict[str, str]], *, n_files: int = 1, config: InstructConfig | None = None) -> Any:
    """Runs `write_examples` over rows spread over files in order; returns counts, train, val rows and items."""
    folder.mkdir()
    size = -(-len(rows) // n_files)
    paths = [folder / f"definitions-{k:05d}.parquet" for k in range(n_files)]
    for k, path in enumerate(paths):
        write_table(path, pa.Table.from_pylist(rows[k * size : (k + 1) * size], DEFINITION_SCHEMA))
    counts = write_examples(paths, Found(), folder, config or InstructConfig(), "dropped-00000.parquet")
    train, val = read_table(folder / "train.parquet"), read_table(folder / "val.parquet")
    assert train.schema == val.schema == example_schema([])
    items = [json.loads(line) for line in (folder / "benchmark.jsonl").read_text(encoding="utf-8").splitlines()]
    return counts, train.to_pylist(), val.to_pylist(), items


def test_no_symbol_and_no_answer_is_in_both_parts(tmp_path: Path) -> None:
    rows = made_up_definitions()
    counts, train, val, items = split(tmp_path / "a", rows)
    answers = [{row["messages"][1]["content"] for row in part} for part in (train, val)]
    assert not answers[0] & answers[1]
    assert sorted(row["question"] for row in train + val) == sorted(row["symbol"] for row in rows)
    assert len(val) == round(0.1 * len(rows))
    assert counts.figures == {"n_train": len(train), "n_val": len(val), "n_benchmark": len(items)}


def test_an_example_is_a_question_and_its_answer(tmp_path: Path) -> None:
    rows = {row["id"]: row for row in made_up_definitions(50)}
    _, train, val, _ = split(tmp_path / "a", list(rows.values()))
    for example in train + val:
        row = rows[example["id"]]
        assert example == {
            "id": row["id"],
            "question": row["symbol"],
            "messages": [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"]},
            ],
            "document_id": row["document_id"],
        }


def test_the_first_definition_of_a_symbol_is_kept(tmp_path: Path) -> None:
    rows = made_up_definitions(40)
    again = [row | {"id": f"{i:032x}", "answer": f"Another answer {i}."} for i, row in enumerate(rows[:5], start=1000)]
    counts, train, val, _ = split(tmp_path / "a", rows + again)
    assert counts.dropped == {"duplicate symbol": 5}
    assert {row["id"] for row in train + val} == {row["id"] for row in rows}


def test_the_counts_of_both_steps_are_one_account(tmp_path: Path) -> None:
    split_counts = split(tmp_path / "a", made_up_definitions(40) + made_up_definitions(5))[0]
    extracted = Counts("examples", 52, 45, {"too short": 4, "too long": 3})
    counts = overall_counts(extracted, split_counts)
    assert (counts.unit, counts.n_in, counts.n_out) == ("examples", 52, 40)
    assert counts.dropped == {"too short": 4, "too long": 3, "duplicate symbol": 5}
    assert counts.figures == split_counts.figures


def test_neither_partitions_nor_repetition_change_a_byte(tmp_path: Path) -> None:
    rows = made_up_definitions()
    for name, n_files in (("one", 1), ("four", 4), ("again", 1)):
        split(tmp_path / name, rows, n_files=n_files)
    for file in ("train.parquet", "val.parquet", "benchmark.jsonl"):
        assert len({(tmp_path / name / file).read_bytes() for name in ("one", "four", "again")}) == 1


def test_another_seed_draws_other_definitions(tmp_path: Path) -> None:
    vals = [split(tmp_path / str(seed), made_up_definitions(), config=InstructConfig(seed=seed))[2] for seed in (0, 1)]
    assert {row["id"] for row in vals[0]} != {row["id"] for row in vals[1]}


def test_benchmark_items_have_four_different_answers_of_one_kind(tmp_path: Path) -> None:
    rows = made_up_definitions()
    _, train, val, items = split(tmp_path / "a", rows)
    kind_of = {row["answer"]: row["kind"] for row in rows}
    trained_on = {row["messages"][1]["content"] for row in train}
    answer_of = {row["id"]: row["messages"][1]["content"] for row in val}
    assert [item["id"] for item in items] == [row["id"] for row in val]
    for item in items:
        assert set(item) == {"id", "query", "choices", "gold", "document_id"}
        assert item["choices"][item["gold"]] == answer_of[item["id"]]
        assert len(set(item["choices"])) == 4
        assert not set(item["choices"]) & trained_on
        assert len({kind_of[choice] for choice in item["choices"]}) == 1
    assert set(Counter(item["gold"] for item in items)) == {0, 1, 2, 3}


def test_length_and_position_do_not_give_the_answer_away() -> None:
    rows = [row | {"answer": "x" * (20 + i * 7919 % 2000)} for i, row in enumerate(made_up_definitions(2000))]
    items = benchmark_items(rows, seed=0)

    def accuracy(rank: int) -> float:
        """Of always taking the choice with this rank by length; all lengths differ."""
        hits = [sorted(item["choices"], key=len)[rank] == item["choices"][item["gold"]] for item in items]
        return sum(hits) / len(hits)

    # 0.25 by chance; 4 standard deviations of 2,000 trials are 0.039.
    assert all(abs(accuracy(rank) - 0.25) < 0.039 for rank in range(4))
    assert all(abs(n / len(items) - 0.25) < 0.039 for n in Counter(item["gold"] for item in items).values())
    in_order = sum(item["choices"] == sorted(item["choices"], key=len) for item in items) / len(items)
    assert abs(in_order - 1 / 24) < 0.018


def test_a_kind_with_few_answers_borrows_from_the_others() -> None:
    rows = made_up_definitions(40)
    rows[0] = rows[0] | {"kind": "exception"}
    [item] = [item for item in benchmark_items(rows, seed=0) if item["id"] == rows[0]["id"]]
    assert len(set(item["choices"])) == 4
    assert item["choices"][item["gold"]] == rows[0]["answer"]


def test_a_small_site_still_gets_a_benchmark(tmp_path: Path) -> None:
    _, train, val, items = split(tmp_path / "a", made_up_definitions(9))
    assert (len(train), len(val), len(items)) == (5, 4, 4)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_too_few_definitions_are_an_error_with_a_remedy(tmp_path: Path, n: int) -> None:
    with pytest.raises(
        ValueError, match=rf"among {n} examples {n} with .* found, 5 are needed: .* crawl pages .* max_answer_chars"
    ):
        split(tmp_path / "a", made_up_definitions(n))


FILES_ONLY = InstructConfig(sources=(InstructSource(kind="alpaca", path="unread"),))


def example(question: str, answer: str, *, weight: int = 1, system: str = "") -> Example:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Example(f"{system} {question} {answer}", question, messages, weight=weight)


def test_questions_and_answers_that_hang_together_are_one_group() -> None:
    chain = [example("a", "1"), example("b", "1"), example("b", "2"), example("c", "3"), example("c", "3", system="s")]
    groups = linked([*chain, example("d", "4")], 3)
    assert [[one.id for one in group] for group in groups] == [
        [" a 1", " b 1", " b 2"],
        [" c 3", "s c 3"],
        [" d 4"],
    ]
    smaller = linked([*chain, example("d", "4")], 2)
    assert [[one.id for one in group] for group in smaller] == [
        [" a 1"],
        [" b 1", " b 2"],
        [" c 3", "s c 3"],
        [" d 4"],
    ], "a group of which none could be held out is one of questions only"


def test_the_last_question_of_several_turns_counts_too(tmp_path: Path) -> None:
    def chats(n: int) -> list[Example]:
        """The same question, once after a greeting of its own and once at once, with answers of their own."""
        greeting = [{"role": "user", "content": f"hi {n}"}, {"role": "assistant", "content": f"hello {n}"}]
        asked = example(f"What is {n} + 2?", f"It is {n + 2}.")
        messages = [*greeting, asked.messages[0], {"role": "assistant", "content": f"{n + 2}"}]
        return [Example(f"long {n}", asked.question, messages), asked]

    assert len(linked(chats(2), 2)) == 1
    examples = [one for n in range(40) for one in chats(n)]
    write_examples([], Found(examples), tmp_path, FILES_ONLY, "dropped-00000.parquet")
    train, val = (read_table(tmp_path / f"{name}.parquet")["messages"].to_pylist() for name in ("train", "val"))
    assert (len(train), len(val)) == (72, 8)
    assert not {chat[-2]["content"] for chat in train} & {chat[-2]["content"] for chat in val}


def test_no_question_and_no_answer_is_in_both_parts(tmp_path: Path) -> None:
    examples = [example(f"question {i % 90}", f"answer {i * 31 % 200}") for i in range(300)]
    counts = write_examples([], Found(examples), tmp_path, FILES_ONLY, "dropped-00000.parquet")
    train, val = (read_table(tmp_path / f"{name}.parquet")["messages"].to_pylist() for name in ("train", "val"))
    for place in (0, 1):
        assert not {chat[place]["content"] for chat in train} & {chat[place]["content"] for chat in val}
    assert len(train) + len(val) == counts.n_out
    assert 0 < len(val) <= 30
    assert not (tmp_path / "benchmark.jsonl").exists()


def turns(*texts: str) -> Example:
    """A chat of questions and answers in turn."""
    roles = ["user", "assistant"] * (len(texts) // 2)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    return Example(" ".join(texts), messages[-2]["content"], messages)


@pytest.mark.parametrize(("n", "n_labels"), [(6, 2), (8, 2), (40, 2), (100, 5), (600, 10), (600, 20)])
def test_labels_are_split_like_answers_of_their_own(n: int, n_labels: int) -> None:
    examples = [example(f"Is number {i} good?", f"label {i % n_labels}") for i in range(n)]
    held_out = held_out_ids(examples, FILES_ONLY)
    assert len(held_out) == max(1, round(n / 10))
    assert {one.answer for one in examples if one.id not in held_out} == {one.answer for one in examples}
    if n == 600:
        assert {one.answer for one in examples if one.id in held_out} == {one.answer for one in examples}


def test_chats_that_end_alike_are_split() -> None:
    chats = [turns(f"Fact {i}?", f"It is {i}.", "continue", f"So {i * 7}.") for i in range(40)]
    held_out = held_out_ids(chats, FILES_ONLY)
    assert len(held_out) == 4
    asked_first = [*chats, turns("continue", "With what?")]
    groups = linked(asked_first, 4)
    assert [len(group) for group in groups] == [41], "a question that begins a chat is held out with all that ask it"


def test_no_question_that_begins_a_held_out_chat_is_trained_on_at_any_turn() -> None:
    draw = random.Random(0)
    names = [f"question {i}" for i in range(150)]
    texts = [*names, "continue", "thanks"]
    chats = {
        one.id: one
        for i in range(300)
        for one in [turns(draw.choice(names), "a", draw.choice(texts), f"b {i % 9}", draw.choice(texts), f"c {i}")]
    }
    chats |= {one.id: one for i in range(300, 600) for one in [turns(f"question {i}", f"label {i % 7}")]}
    examples = list(chats.values())
    held_out = held_out_ids(examples, FILES_ONLY)
    sides: dict[bool, list[list[str]]] = {True: [], False: []}
    for one in examples:
        sides[one.id in held_out].append([message["content"] for message in one.messages[::2]])
    assert 0 < len(sides[True]) <= 60
    assert not {said[0] for said in sides[True]} & {text for said in sides[False] for text in said}
    assert not {said[0] for said in sides[False]} & {text for said in sides[True] for text in said}


def test_the_answer_of_a_definition_is_on_one_side_however_many_share_it(tmp_path: Path) -> None:
    rows = [row | {"answer": f"Answer number {i // 8} of many."} for i, row in enumerate(made_up_definitions(200))]
    _, train, val, _ = split(tmp_path / "a", rows)
    answers = [{row["messages"][1]["content"] for row in part} for part in (train, val)]
    assert len(val) == 32, "the benchmark takes at least four answers"
    assert not answers[0] & answers[1]


def test_what_cannot_be_split_is_refused_with_the_true_reason() -> None:
    with pytest.raises(ValueError, match="among 20 examples 1 with different questions were found, 2 are"):
        held_out_ids([example("hi", f"hello {i}") for i in range(20)], FILES_ONLY)
    with pytest.raises(ValueError, match=r"20 examples make 2 groups .* smallest of 10 examples, and at most 2 may be"):
        held_out_ids([example(f"hi {i % 2}", f"hello {i}") for i in range(20)], FILES_ONLY)


def test_duplicates_are_dropped_and_weights_repeat_in_training_only(tmp_path: Path) -> None:
    examples = [example(f"question {i}", f"answer {i}", weight=3) for i in range(20)] + [
        example("question 0", "answer 0")
    ]
    counts = write_examples([], Found(examples), tmp_path, FILES_ONLY, "dropped-00000.parquet")
    train, val = (read_table(tmp_path / f"{name}.parquet")["id"].to_pylist() for name in ("train", "val"))
    assert (counts.n_in, counts.n_out, counts.dropped) == (21, 20, {"duplicate": 1})
    assert set(Counter(train).values()) == {3}
    assert set(Counter(val).values()) == {1}
    assert counts.figures == {"n_train": len(train), "n_val": len(val)}
    assert [(item.reason, item.excerpt) for item in read_dropped(tmp_path)] == [("duplicate", "question 0")]


def test_a_turn_that_is_not_learned_is_stored_as_such(tmp_path: Path) -> None:
    chats = [turns(f"Who {i}?", "wrong", "No.", f"right {i}") for i in range(20)]
    chats[3].messages[1]["weight"] = 0
    write_examples([], Found(chats), tmp_path, FILES_ONLY, "dropped-00000.parquet")
    parts = [read_table(tmp_path / f"{name}.parquet") for name in ("train", "val")]
    assert parts[0].schema == parts[1].schema != example_schema([])
    stored = {row["id"]: [turn["weight"] for turn in row["messages"]] for part in parts for row in part.to_pylist()}
    assert [weights for weights in stored.values() if weights != [None] * 4] == [[None, 0, None, None]]
    assert stored[chats[3].id] == [None, 0, None, None]


def test_definitions_and_files_make_one_set(tmp_path: Path) -> None:
    write_table(tmp_path / "definitions.parquet", pa.Table.from_pylist(made_up_definitions(90), DEFINITION_SCHEMA))
    config = InstructConfig(sources=(InstructSource(limit=80), InstructSource(kind="alpaca", path="unread")))
    given = Found([example(f"question {i}", f"answer {i}") for i in range(40)])
    counts = write_examples([tmp_path / "definitions.parquet"], given, tmp_path, config, "dropped-00000.parquet")
    assert (counts.n_in, counts.n_out, counts.dropped) == (130, 120, {"over the limit": 10})
    val = set(read_table(tmp_path / "val.parquet")["id"].to_pylist())
    items = [json.loads(line) for line in (tmp_path / "benchmark.jsonl").read_text(encoding="utf-8").splitlines()]
    definitions = {row["id"] for row in made_up_definitions(90)}
    assert {item["id"] for item in items} == val & definitions
    assert val - definitions


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"question": "What is it?"}, "question is 'What is it\\?'; it must contain {symbol}"),
        (
            {"min_answer_chars": 50, "max_answer_chars": 40},
            "min_answer_chars is 50; allowed: up to max_answer_chars, 40",
        ),
        ({"sources": ()}, "sources needs at least one source, and at most one of kind 'definitions'"),
        ({"sources": (InstructSource(), InstructSource())}, "sources needs at least one source"),
        ({"bad_examples": "ignore"}, "bad_examples is 'ignore'; allowed: 'refuse', 'drop'"),
        ({"held_out_fraction": 1.5}, "held_out_fraction is 1.5; allowed: from 0 to 0.9"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        InstructConfig(**values)
