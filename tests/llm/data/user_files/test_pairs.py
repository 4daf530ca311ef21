"""Preference pairs and other records out of files."""

import json

import pyarrow as pa
import pytest

from llm.data.user_files.json_records import read_records, record_files
from llm.data.user_files.pairs import Pair, read_pairs
from llm.files import write_table
from llm.splits import held_out_keys

QUESTION = [{"role": "user", "content": "What is rye?"}]


def written(folder, *records, name="pairs.jsonl"):
    """A file of records."""
    path = folder / name
    text = json.dumps(records) if name.endswith(".json") else "\n".join(map(json.dumps, records))
    path.write_text(text, encoding="utf-8")
    return path


def answer(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "What is rye?", "chosen": "A grain.", "rejected": "No."},
        {"prompt": QUESTION, "chosen": "A grain.", "rejected": "No."},
        {"prompt": QUESTION, "chosen": [answer("A grain.")], "rejected": [answer("No.")]},
        {"chosen": [*QUESTION, answer("A grain.")], "rejected": [*QUESTION, answer("No.")]},
        {"instruction": "What is rye?", "input": "", "output": "?", "chosen": "A grain.", "rejected": "No."},
    ],
)
def test_every_form_gives_the_same_pair(record, tmp_path):
    for name in ("pairs.jsonl", "pairs.json"):
        assert read_pairs([written(tmp_path, record, name=name)]) == ([Pair(QUESTION, "A grain.", "No.")], {})


def turn(role, content):
    return {"role": role, "content": content}


HISTORY = [turn("system", "One word."), turn("user", "Of France?"), answer("Paris")]


@pytest.mark.parametrize(
    "prompt",
    [
        "What is rye?",
        "Of France?",
        QUESTION,
        [*HISTORY, *QUESTION],
        [*HISTORY[1:], *QUESTION],
    ],
)
def test_of_prompt_and_chats_the_longer_is_what_is_asked(prompt, tmp_path):
    chats = {
        "chosen": [*HISTORY, *QUESTION, answer("A grain.")],
        "rejected": [*HISTORY, *QUESTION, answer("No.")],
    }
    pairs, _ = read_pairs([written(tmp_path, {"prompt": prompt, **chats})])
    assert pairs == [Pair([*HISTORY, *QUESTION], "A grain.", "No.")]
    shorter = {name: chat[-2:] for name, chat in chats.items()}
    record = {"prompt": [*HISTORY, *QUESTION], **shorter}
    assert read_pairs([written(tmp_path, record)])[0] == pairs
    with pytest.raises(ValueError, match="line 1: the prompt says something else than 'chosen' or 'rejected'"):
        read_pairs([written(tmp_path, {"prompt": "What is spelt?", **chats})])


def test_chats_in_one_text_are_those_of_hh(tmp_path):
    before = "\n\nHuman: Of France?\n\nAssistant: Paris\n\nHuman: What is rye?\n\nAssistant:"
    expected = [Pair([*HISTORY[1:], *QUESTION], "A grain.\n\nNo: two.", "No.")]
    record = {"chosen": f"{before} A grain.\n\nNo: two.", "rejected": f"{before} No."}
    assert read_pairs([written(tmp_path, record)])[0] == expected
    record = {"prompt": before, "chosen": "A grain.\n\nNo: two.", "rejected": "No."}
    assert read_pairs([written(tmp_path, record)])[0] == expected
    with pytest.raises(ValueError, match=r"field 'chosen': the roles are user, assistant, user;"):
        read_pairs([written(tmp_path, {"chosen": before, "rejected": before})])


def test_the_input_of_an_instruction_follows_it(tmp_path):
    record = {"instruction": "Add.", "input": "1 + 1", "chosen": "2", "rejected": "3"}
    (pair,), _ = read_pairs([written(tmp_path, record)])
    assert pair.prompt == [{"role": "user", "content": "Add.\n\n1 + 1"}]


def test_what_teaches_nothing_is_dropped_and_counted(tmp_path):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    pairs, dropped = read_pairs([written(tmp_path, good, good, good | {"rejected": "b"})])
    assert len(pairs) == 1
    assert dropped == {"both answers the same": 1, "duplicate": 1}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, "line 2: field 'rejected' is missing"),
        ({"prompt": "a", "chosen": " ", "rejected": "c"}, "line 2: field 'chosen' is empty"),
        ({"prompt": "a", "chosen": 7, "rejected": "c"}, "line 2: field 'chosen' is 7"),
        ({"chosen": "b", "rejected": "c"}, "give it as field 'prompt'"),
        (
            {"prompt": "a", "chosen": [*QUESTION, answer("b") | {"weight": 0}], "rejected": "c"},
            "field 'chosen': the answer to learn from has weight 0",
        ),
        ({"prompt": [answer("b")], "chosen": "b", "rejected": "c"}, "the roles are assistant"),
        ({"prompt": [{"role": "user"}], "chosen": "b", "rejected": "c"}, r"field 'prompt'\[0\].content is missing"),
        (
            {"chosen": [*QUESTION, answer("b")], "rejected": QUESTION},
            "field 'rejected': the roles are user; .* assistant last",
        ),
        ([1], "an object"),
    ],
)
def test_a_malformed_record_is_named_with_its_line(record, message, tmp_path):
    path = written(tmp_path, {"prompt": "a", "chosen": "b", "rejected": "c"}, record)
    with pytest.raises(ValueError, match=message):
        read_pairs([path])


def test_broken_pairs_are_dropped_and_counted_on_request(tmp_path):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path = written(tmp_path, good, good | {"rejected": ""}, [1], {"chosen": "b", "rejected": "c"}, good)
    pairs, dropped = read_pairs([path], "drop")
    assert len(pairs) == 1
    assert dropped == {"empty text": 1, "no object": 1, "no common prompt": 1, "duplicate": 1}
    with pytest.raises(
        ValueError, match=r"line 2: field 'rejected' is empty\. Mend it, or set reference\.bad_examples: "
    ):
        read_pairs([path])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no record"):
        read_pairs([tmp_path / "empty.jsonl"], "drop")


def test_files_without_records_are_refused(tmp_path):
    empty, broken, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "c.json"
    empty.write_text("\n")
    broken.write_text('{"prompt": "a"\n')
    other.write_text("[1]")
    for path, message in (
        (empty, "holds no record"),
        (broken, "line 1: it is not JSON"),
        (other, "record 1: .* is int"),
    ):
        with pytest.raises(ValueError, match=message):
            read_records(path)


def test_files_are_named_by_patterns(tmp_path):
    for name in "ba":
        written(tmp_path, {}, name=f"{name}.jsonl")
    assert [path.name for path in record_files("reference", [str(tmp_path / "*.jsonl")])] == ["a.jsonl", "b.jsonl"]
    with pytest.raises(ValueError, match=r"reference\.files is empty"):
        record_files("reference", [])
    with pytest.raises(ValueError, match="there is no such file"):
        record_files("reference", [str(tmp_path / "none.jsonl")])


def test_tables_are_read_by_their_first_line(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tlabel\nrye\tgrain\n")
    assert [record.values for record in read_records(tmp_path / "a.tsv")] == [{"text": "rye", "label": "grain"}]


def test_parquet_files_hold_texts_and_messages(tmp_path):
    rows = [{"prompt": QUESTION, "chosen": "A grain.", "rejected": "No."}]
    write_table(tmp_path / "a.parquet", pa.Table.from_pylist(rows))
    assert read_pairs([tmp_path / "a.parquet"]) == ([Pair(QUESTION, "A grain.", "No.")], {})
    write_table(tmp_path / "b.parquet", pa.Table.from_pylist([{"prompt": "a", "chosen": "b", "rejected": None}]))
    with pytest.raises(ValueError, match=r"row 1: field 'rejected' is None"):
        read_pairs([tmp_path / "b.parquet"])
    (tmp_path / "c.parquet").write_text("no")
    with pytest.raises(ValueError, match="not a Parquet file"):
        read_records(tmp_path / "c.parquet")


def test_what_is_held_out_depends_on_the_text_alone():
    keys = [f"text {number}" for number in range(1000)]
    held_out = held_out_keys(keys, 0.1)
    assert len(held_out) == 100
    assert held_out_keys(reversed(keys * 2), 0.1) == held_out
    assert len(held_out_keys(keys[:500], 0.1) - held_out) < 20, "what is added moves few from one side to the other"
    with pytest.raises(ValueError, match="too few"):
        held_out_keys(["a"], 0.1)
