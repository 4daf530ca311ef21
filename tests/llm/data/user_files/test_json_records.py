"""Files of records, and the chats in them: one set of rules for every method that reads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from llm.data.instruct.config import InstructConfig, InstructSource
from llm.data.instruct.sources import read_source
from llm.data.user_files.json_records import read_records
from llm.data.user_files.labelled import read_labelled
from llm.data.user_files.pairs import Pair, read_pairs
from llm.data.user_files.questions import Question, read_questions
from llm.serve.requests import ChatRequest

QUESTION, ANSWER = {"role": "user", "content": "Rye?"}, {"role": "assistant", "content": "A grain."}
HUMAN, GPT = {"from": "human", "value": "Rye?"}, {"from": "gpt", "value": "A grain."}
HALF = "half \ud83d"


def written(path: Path, *records: Any) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_pairs_and_questions_are_read_in_the_form_of_share_gpt_too(tmp_path: Path) -> None:
    refused = {"from": "gpt", "value": "No."}
    records = [
        {"prompt": [HUMAN], "chosen": [GPT], "rejected": [refused]},
        {"chosen": [HUMAN, GPT], "rejected": [HUMAN, refused], "instruction": "Rye?"},
    ]
    for record in records:
        assert read_pairs([written(tmp_path / "a.jsonl", record)])[0] == [Pair([QUESTION], "A grain.", "No.")]
    path = written(tmp_path / "b.jsonl", {"prompt": [HUMAN], "answer": "A grain."})
    assert read_questions([path])[0] == [Question([QUESTION], "A grain.")]


PARTS = [{"type": "text", "text": "Ry"}, {"type": "text", "text": "e?"}]
SYSTEM = {"role": "system", "content": "Be brief."}
SAME = [
    ([{"role": "user", "content": PARTS}], [QUESTION]),
    ([SYSTEM | {"role": "developer"}, QUESTION], [SYSTEM, QUESTION]),
    *(([SYSTEM | {"content": empty}, QUESTION], [QUESTION]) for empty in ("", " ", None, [])),
    ([QUESTION, ANSWER | {"tool_calls": None, "refusal": None}, QUESTION], [QUESTION, ANSWER, QUESTION]),
    ([QUESTION, ANSWER | {"weight": 0}, QUESTION | {"weight": 1}], [QUESTION, ANSWER, QUESTION]),
]


@pytest.mark.parametrize(("turns", "expected"), SAME)
def test_every_form_of_a_chat_is_read_alike_by_each_method_and_the_server(
    turns: list[Any], expected: list[Any], tmp_path: Path
) -> None:
    question = {"prompt": turns, "answer": "A grain."}
    assert read_questions([written(tmp_path / "a.jsonl", question)])[0] == [Question(expected, "A grain.")]
    pair = {"chosen": [*turns, ANSWER], "rejected": [*turns, ANSWER | {"content": "No."}]}
    assert read_pairs([written(tmp_path / "b.jsonl", pair)])[0] == [Pair(expected, "A grain.", "No.")]
    source = InstructSource(kind="chat", path=str(written(tmp_path / "c.jsonl", {"messages": [*turns, ANSWER]})))
    (example,) = read_source(source, tmp_path, InstructConfig(sources=(source,))).examples
    assert [{"role": one["role"], "content": one["content"]} for one in example.messages] == [*expected, ANSWER]
    assert ChatRequest.model_validate({"model": "m", "messages": turns}).chat == expected


def test_what_the_system_says_beside_a_prompt_is_before_it(tmp_path: Path) -> None:
    record = {"prompt": "Rye?", "system": "Be brief."}
    path = written(tmp_path / "a.jsonl", record | {"answer": "A grain."})
    assert read_questions([path])[0] == [Question([SYSTEM, QUESTION], "A grain.")]
    path = written(tmp_path / "b.jsonl", record | {"chosen": "A grain.", "rejected": [QUESTION, ANSWER]})
    assert read_pairs([path])[1] == {"both answers the same": 1}
    path = written(tmp_path / "c.jsonl", record | {"chosen": "A grain.", "rejected": "No.", "history": [["a", "b"]]})
    with pytest.raises(ValueError, match=r"c\.jsonl, line 1: history is .*, which is not read"):
        read_pairs([path])


TURNS = [
    ([QUESTION | {"content": [{"type": "image_url"}]}, ANSWER], r"\[0\]\.content: expected text, or a list of parts"),
    ([QUESTION, ANSWER | {"tool_calls": [1]}, QUESTION, ANSWER], r"\[1\]\.tool_calls is \[1\], which is not read"),
    ([], "expected a list of messages"),
    ([QUESTION, "x"], r"\[1\] is 'x'; expected an object with role and content"),
    ([QUESTION, {"role": "tool", "content": "x"}, ANSWER], r"\[1\]\.role is 'tool'; allowed: "),
    ([QUESTION, {"role": "assistant"}], r"\[1\]\.content is missing"),
    ([{"from": "human"}, GPT], r"\[0\]\.value is missing"),
    ([QUESTION | {"content": 7}, ANSWER], r"\[0\]\.content is 7; expected text"),
    ([QUESTION | {"content": " "}, ANSWER], r"\[0\]\.content is empty"),
    ([QUESTION | {"content": HALF}, ANSWER], r"\[0\]\.content holds half a character"),
    ([QUESTION, QUESTION, ANSWER], "the roles are user, user, assistant; allowed: user and assistant in turn"),
    ([QUESTION, {"role": "system", "content": "x"}, ANSWER], "the roles are user, system, assistant"),
    ([{"role": "system", "content": "x"}, ANSWER], "the roles are system, assistant"),
]


@pytest.mark.parametrize(("turns", "words"), TURNS)
def test_a_chat_is_refused_in_the_same_words_wherever_it_stands(turns: list[Any], words: str, tmp_path: Path) -> None:
    files = {
        "prompt": written(tmp_path / "a.jsonl", {"prompt": turns[:-1] or turns, "answer": "x"}),
        "chosen": written(tmp_path / "b.jsonl", {"chosen": turns, "rejected": "x", "prompt": "Rye?"}),
        "messages": written(tmp_path / "c.jsonl", {"messages": turns}),
    }
    if len(turns) != 2 or r"\[1\]" not in words:  # else the bad turn is not in the prompt
        with pytest.raises(ValueError, match=rf"a\.jsonl, line 1: field 'prompt'.*{words.split(', assistant')[0]}"):
            read_questions([files["prompt"]])
    with pytest.raises(ValueError, match=rf"b\.jsonl, line 1: field 'chosen'.*{words}"):
        read_pairs([files["chosen"]])
    source = InstructSource(kind="chat", path=str(files["messages"]))
    with pytest.raises(ValueError, match=rf"c\.jsonl, line 1: messages.*{words}"):
        read_source(source, tmp_path, InstructConfig(sources=(source,)))


@pytest.mark.parametrize("value", [["1 + 1"], HALF, 7])
def test_an_input_that_is_no_text_is_refused(value: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"instruction": "Add.", "input": value, "answer": "2"})
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: field 'input' (is|holds)"):
        read_questions([path])


@pytest.mark.parametrize("field", ["prompt", "answer"])
def test_half_a_character_in_a_question_is_named(field: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": "d"} | {field: HALF})
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 2: field '{field}' holds half a character"):
        read_questions([path])


@pytest.mark.parametrize("field", ["prompt", "chosen", "rejected"])
def test_half_a_character_in_a_pair_is_named(field: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"} | {field: HALF})
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 1: field '{field}' holds half a character"):
        read_pairs([path])


@pytest.mark.parametrize("field", ["text", "label"])
def test_half_a_character_in_a_text_or_label_is_named(field: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"text": "a", "label": "b"}, {"text": "c", "label": "d"} | {field: HALF})
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 2: field '{field}' holds half a character"):
        read_labelled([path], [], 0.5, "text", "label")


def test_whole_characters_beyond_the_first_plane_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "\\ud83d\\ude00", "answer": "b"}\n')
    assert read_questions([path])[0] == [Question([{"role": "user", "content": "\N{GRINNING FACE}"}], "b")]


def test_a_table_that_cannot_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'text,label\nrye,grain\n"{"x" * 140_000}",grain\n')
    with pytest.raises(ValueError, match=r"a\.csv, line 3: field larger than field limit \(131072\).*JSON"):
        read_records(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\r\nrye,grain\r\n"),
        ("a.tsv", "text\tlabel\nrye\tgrain\n"),
        ("a.jsonl", '{"text": "rye", "label": "grain"}\n'),
        ("a.json", '[{"text": "rye", "label": "grain"}]'),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_first_field(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert [record.values for record in read_records(tmp_path / name)] == [{"text": "rye", "label": "grain"}]


@pytest.mark.parametrize("value", [{"data": [{"text": "rye"}]}, {"text": "rye", "label": "grain"}])
def test_an_object_over_several_lines_is_told_what_is_needed(value: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("\n" + json.dumps(value, indent=1) + "\n")
    with pytest.raises(ValueError, match=r"a\.json, first object: .*several lines; .*list of records, or one object a"):
        read_records(path)


def test_a_broken_first_line_is_still_named_by_its_column(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": rye}\n{"text": "rye"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: it is not JSON: .* at column 10"):
        read_records(path)


def test_a_number_too_long_to_read_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n{"n": ' + "1" * 5000 + "}\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: it is not JSON"):
        read_records(path)
