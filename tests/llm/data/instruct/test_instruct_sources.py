"""Tests of instruction data in files and data sets: every form that is read, and every way in which it can be wrong."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llm.data.instruct.config import InstructConfig, InstructSource
from llm.data.instruct.sources import check_sources, external_files, read_source, read_sources
from llm.files import write_table
from llm.tokenizer.tokenizer import SPECIAL_TOKENS

QUESTION, ANSWER = {"role": "user", "content": "Rye?"}, {"role": "assistant", "content": "Bake it."}
SYSTEM = {"role": "system", "content": "You bake."}
ALPACA = {"instruction": "Bake.", "input": "rye", "output": "Done."}


def written(path: Path, *lines: Any) -> Path:
    """A JSONL file; what is text already is written as it is."""
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), "utf-8")
    return path


def read(path: Path, kind: str = "chat", *, bad_examples: str = "refuse", **options: Any) -> Any:
    """What `read_source` finds in a file, folder or pattern."""
    source = InstructSource(kind=kind, path=str(path), **options)  # type: ignore[arg-type]
    config = InstructConfig(sources=(source,), bad_examples=bad_examples)  # type: ignore[arg-type]
    return read_source(source, path.parent, config)


def chats(path: Path, kind: str = "chat", **options: Any) -> list[list[tuple[str, str]]]:
    """Role and text of each message of each example."""
    return [[(m["role"], m["content"]) for m in one.messages] for one in read(path, kind, **options).examples]


def test_alpaca_puts_the_input_below_the_instruction(tmp_path: Path) -> None:
    records = [ALPACA, ALPACA | {"input": ""}, {"instruction": "Fold.", "output": "Folded."}]
    expected = [
        [("user", "Bake.\n\nrye"), ("assistant", "Done.")],
        [("user", "Bake."), ("assistant", "Done.")],
        [("user", "Fold."), ("assistant", "Folded.")],
    ]
    (tmp_path / "list.json").write_text(json.dumps(records, indent=2))
    assert chats(tmp_path / "list.json", "alpaca") == expected
    assert chats(written(tmp_path / "lines.jsonl", *records, ""), "alpaca") == expected
    write_table(tmp_path / "rows.parquet", pa.Table.from_pylist(records))
    assert chats(tmp_path / "rows.parquet", "alpaca") == expected


def test_alpaca_under_other_names(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"prompt": "Rye?", "response": "Bake it.", "input": "not read"})
    names = {"instruction_field": "prompt", "input_field": None, "output_field": "response"}
    assert chats(path, "alpaca", **names) == [[("user", "Rye?"), ("assistant", "Bake it.")]]


def test_chats_of_both_forms_are_one(tmp_path: Path) -> None:
    turns = [SYSTEM, QUESTION, ANSWER, QUESTION, ANSWER]
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    share_gpt = [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]
    path = written(tmp_path / "a.jsonl", {"messages": turns}, {"conversations": share_gpt}, {"turns": turns})
    expected = [(turn["role"], turn["content"]) for turn in turns]
    assert chats(path, bad_examples="drop") == [expected, expected]
    path = written(tmp_path / "b.jsonl", {"turns": turns})
    assert chats(path, messages_field="turns") == [expected]


def test_a_folder_and_a_pattern_are_read_in_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        written(tmp_path / f"{name}.jsonl", ALPACA | {"instruction": name, "input": ""})
    (tmp_path / "readme.txt").write_text("not data")
    for path in (tmp_path, tmp_path / "*.jsonl"):
        assert [chat[0][1] for chat in chats(path, "alpaca")] == ["a", "b"]


def test_a_limit_counts_usable_examples(tmp_path: Path) -> None:
    records = [ALPACA | {"instruction": str(i), "output": "x" if i % 2 else " "} for i in range(10)]
    found = read(written(tmp_path / "a.jsonl", *records), "alpaca", limit=2, weight=3)
    assert [one.messages[0]["content"][0] for one in found.examples] == ["1", "3"]
    assert {one.weight for one in found.examples} == {3}
    assert [item.reason for item in found.dropped] == ["empty answer", "empty answer"]


BROKEN = [
    ("chat", '{"messages": [', "not JSON", r"it is not JSON: Expecting value at column 15"),
    ("chat", "[1]", "no object", r"expected an object, found \[1\]"),
    ("chat", {"text": "x"}, "missing field", "messages or conversations is missing; there are 'text'"),
    ("chat", {"messages": []}, "no messages", r"messages is \[\]; expected a list of messages"),
    ("chat", {"messages": ["hi"]}, "no messages", r"messages\[0\] is 'hi'; expected an object with role and content"),
    (
        "chat",
        {"messages": [QUESTION, {"role": "tool", "content": "x"}]},
        "unknown role",
        r"messages\[1\].role is 'tool'",
    ),
    ("chat", {"messages": [QUESTION, {"role": "assistant"}]}, "missing field", r"messages\[1\].content is missing"),
    ("chat", {"messages": [QUESTION | {"content": None}, ANSWER]}, "no text", r"messages\[0\].content is None; expect"),
    (
        "chat",
        {"messages": [QUESTION, ANSWER | {"weight": 0.5}]},
        "unknown weight",
        r"messages\[1\].weight is 0.5; allow",
    ),
    (
        "chat",
        {"messages": [QUESTION, ANSWER | {"tool_calls": [{"id": "a"}]}]},
        "unread field",
        r"messages\[1\].tool_calls is .*, which is not read",
    ),
    ("chat", {"messages": [QUESTION, ANSWER], "tools": [{"type": "function"}]}, "unread field", "tools is .* not read"),
    ("alpaca", ALPACA | {"history": [["a", "b"]]}, "unread field", "history is .* not read"),
    (
        "chat",
        {"messages": [SYSTEM, QUESTION, ANSWER], "system": "Else."},
        "two systems",
        "system and the first message",
    ),
    ("chat", {"messages": [SYSTEM | {"content": ""}]}, "roles out of order", "the roles are none; allowed"),
    ("chat", {"conversations": [{"from": "human"}]}, "missing field", r"conversations\[0\].value is missing"),
    ("chat", {"messages": [QUESTION | {"content": " "}, ANSWER]}, "empty question", r"messages\[0\].content is empty"),
    ("chat", {"messages": [QUESTION, ANSWER | {"content": "\ud800"}]}, "no text", "half a character"),
    ("chat", {"messages": [ANSWER, QUESTION]}, "roles out of order", "the roles are assistant, user; allowed: user"),
    ("chat", {"messages": [QUESTION, QUESTION, ANSWER]}, "roles out of order", "the roles are user, user, assistant"),
    ("chat", {"messages": [QUESTION, SYSTEM, ANSWER]}, "roles out of order", "the roles are user, system, assistant"),
    ("chat", {"messages": [QUESTION, ANSWER, QUESTION]}, "roles out of order", "the assistant last"),
    ("chat", {"messages": [SYSTEM]}, "roles out of order", "the roles are system; allowed"),
    ("alpaca", {"instruction": "x"}, "missing field", "output is missing; there are 'instruction'"),
    ("alpaca", ALPACA | {"output": 7}, "no text", "output is 7; expected text"),
    ("alpaca", ALPACA | {"input": ["x"]}, "no text", r"input is \['x'\]; expected text"),
]


@pytest.mark.parametrize(("kind", "record", "reason", "words"), BROKEN)
def test_a_broken_record_is_refused_by_line_and_field_or_dropped(
    tmp_path: Path, kind: str, record: Any, reason: str, words: str
) -> None:
    good = ALPACA if kind == "alpaca" else {"messages": [QUESTION, ANSWER]}
    path = written(tmp_path / "a.jsonl", good, "", record)
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 3: .*{words}.*bad_examples: drop"):
        read(path, kind)
    found = read(path, kind, bad_examples="drop")
    assert len(found.examples) == 1
    [item] = found.dropped
    assert (item.reason, item.url) == (reason, "a.jsonl:a.jsonl, line 3")


def test_what_is_no_list_or_no_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[\n{"instruction": "x"},\n')
    with pytest.raises(ValueError, match=r"a\.json, the list: it is not JSON: .* at line 3, column 1"):
        read(tmp_path / "a.json", "alpaca")
    (tmp_path / "b.jsonl").write_bytes(b'{"instruction": "\xff"}\n')
    with pytest.raises(ValueError, match=r"b\.jsonl, line 1: it is not UTF-8 at byte 18"):
        read(tmp_path / "b.jsonl", "alpaca")
    with pytest.raises(ValueError, match=r"line 1: it nests too deep"):
        read(written(tmp_path / "c.jsonl", '{"a":' + "[" * 100_000), "alpaca")


@pytest.mark.parametrize("content", ["", "\n \n", "[]"])
def test_a_file_without_records_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json holds no record"):
        read(tmp_path / "a.json", "alpaca")


def test_a_missing_file_is_named_with_its_override(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no such file.*instruct\.sources\.0\.path=FILE"):
        read(tmp_path / "gone.json", "alpaca")


def test_empty_answers_and_special_tokens_are_dropped_always(tmp_path: Path) -> None:
    null = {"messages": [QUESTION, ANSWER | {"content": None}]}
    assert [item.reason for item in read(written(tmp_path / "b.jsonl", null)).dropped] == ["empty answer"]
    records = [ALPACA | {"output": "\n"}, *(ALPACA | {"instruction": f"Say {token}"} for token in SPECIAL_TOKENS)]
    found = read(written(tmp_path / "a.jsonl", *records, ALPACA), "alpaca")
    assert len(found.examples) == 1
    assert [item.reason for item in found.dropped] == ["empty answer"] + ["special token"] * len(SPECIAL_TOKENS)


def test_what_the_system_says_beside_a_chat_is_before_it(tmp_path: Path) -> None:
    expected = [("system", "You bake."), ("user", "Rye?"), ("assistant", "Bake it.")]
    for beside in ({"system": "You bake."}, {"system_prompt": "You bake.", "tools": [], "history": None}):
        path = written(tmp_path / "a.jsonl", {"messages": [QUESTION, ANSWER]} | beside)
        assert chats(path) == [expected]
        path = written(tmp_path / "b.jsonl", {"instruction": "Rye?", "output": "Bake it."} | beside)
        assert chats(path, "alpaca") == [expected]
    path = written(tmp_path / "c.jsonl", {"messages": [SYSTEM, QUESTION, ANSWER], "system": "You bake."})
    assert chats(path) == [expected]
    path = written(tmp_path / "d.jsonl", {"system": "Rye?", "output": "Bake it."})
    assert chats(path, "alpaca", instruction_field="system") == [expected[1:]]


def test_turns_of_weight_0_are_context_and_at_the_end_are_left_out(tmp_path: Path) -> None:
    wrong, right = ANSWER | {"content": "Eat it.", "weight": 0}, ANSWER | {"weight": 1}
    records = [
        [QUESTION | {"weight": 0}, wrong, QUESTION, right],
        [SYSTEM, QUESTION, right, QUESTION, wrong, QUESTION, wrong],
        [SYSTEM, QUESTION, wrong],
        [QUESTION, wrong],
    ]
    path = written(tmp_path / "a.jsonl", *({"messages": turns} for turns in records))
    found = read(path)
    unlearned = {"role": "assistant", "content": "Eat it.", "weight": 0}
    assert [one.messages for one in found.examples] == [
        [QUESTION, unlearned, QUESTION, ANSWER],
        [SYSTEM, QUESTION, ANSWER],
    ]
    assert [item.reason for item in found.dropped] == ["not learned", "not learned"]


def test_a_data_set_is_read_by_columns(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = [{"prompt": f"question {i}", "response": f"answer {i}"} for i in range(3)]
    written(tmp_path / "data" / "train.jsonl", *rows)
    names: dict[str, Any] = {"instruction_field": "prompt", "output_field": "response"}
    source = InstructSource(kind="alpaca", dataset=str(tmp_path / "data"), **names)
    config = InstructConfig(sources=(source,))
    found = read_sources(config, tmp_path / "downloads")
    assert [one.messages[1]["content"] for one in found.examples] == ["answer 0", "answer 1", "answer 2"]
    assert external_files(config) == [tmp_path / "data" / "train.jsonl"]
    broken = InstructConfig(sources=(InstructSource(kind="alpaca", dataset=str(tmp_path / "data")),))
    with pytest.raises(ValueError, match="train, row 1: instruction is missing; there are 'prompt', 'response'"):
        read_sources(broken, tmp_path / "downloads")
    unknown = InstructConfig(sources=(InstructSource(kind="alpaca", dataset=str(tmp_path / "data"), split="test"),))
    with pytest.raises(ValueError, match=r"instruct\.sources: dataset .*test"):
        read_sources(unknown, tmp_path / "downloads")


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ({"instruction": "x", "input": ""}, "row 2: output is None"),
        ('{"instruction":', "dataset .*: JSON parse"),
    ],
)
def test_a_data_set_in_a_folder_is_checked_early(tmp_path: Path, last: Any, words: str) -> None:
    (tmp_path / "data").mkdir()
    path = written(tmp_path / "data" / "train.jsonl", ALPACA)
    on_hub = InstructSource(kind="chat", dataset="owner/name", revision="0" * 40)
    config = InstructConfig(sources=(on_hub, InstructSource(kind="alpaca", dataset=str(tmp_path / "data"))))
    check_sources(config)
    written(path, ALPACA, last)
    with pytest.raises(ValueError, match=words):
        check_sources(config)
    assert [file.name for file in tmp_path.rglob("*")] == ["data", "train.jsonl"]


def test_files_are_checked_early_and_enter_the_fingerprint(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", ALPACA)
    config = InstructConfig(sources=(InstructSource(), InstructSource(kind="alpaca", path=str(path))))
    assert external_files(config) == [path]
    check_sources(config)
    written(path, ALPACA, {"instruction": "x"})
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: output is missing"):
        check_sources(config)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "csv"}, "kind is 'csv'; allowed: 'definitions', 'alpaca', 'chat'"),
        ({"kind": "alpaca"}, "kind 'alpaca' needs either path .* or dataset, and has 0 of them"),
        ({"kind": "chat", "path": "a", "dataset": "b/c"}, "has 2 of them"),
        ({"path": "a"}, "kind 'definitions' reads the corpus"),
        ({"kind": "chat", "path": "a", "output_field": "b"}, "output_field is set, which kind 'chat' does not use"),
        ({"kind": "chat", "dataset": "owner/name", "revision": "main"}, "revision is 'main'; allowed: a commit"),
        ({"limit": 0}, "limit is 0; allowed: 1 or more"),
    ],
)
def test_a_source_that_cannot_be_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        InstructSource(**values)
