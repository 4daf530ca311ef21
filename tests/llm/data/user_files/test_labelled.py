"""Labelled texts out of files."""

import json

import pytest

from llm.data.user_files.labelled import read_labelled


def written(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def record(number, label=None):
    return {"text": f"text {number}", "label": label or "ab"[number % 2]}


def read(path, held_out=()):
    return read_labelled([path], held_out, 0.25, "text", "label")


def test_texts_are_split_by_their_content(tmp_path):
    found = read(written(tmp_path / "a.jsonl", *map(record, range(40)), record(3)))
    assert (len(found.train), len(found.val), found.labels, found.dropped) == (30, 10, ("a", "b"), {"duplicate": 1})
    assert not {item.text for item in found.train} & {item.text for item in found.val}


def test_held_out_files_are_never_trained_on(tmp_path):
    val = written(tmp_path / "val.jsonl", record(1), record(90))
    found = read(written(tmp_path / "a.jsonl", *map(record, range(4))), [val])
    assert [item.text for item in found.val] == ["text 1", "text 90"]
    assert [item.text for item in found.train] == ["text 0", "text 2", "text 3"]
    assert found.dropped == {"also held out": 1}


def test_tables_and_numbers_are_labels_too(tmp_path):
    rows = [f"text {number},{number % 2}" for number in range(8)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows]))
    written(tmp_path / "b.jsonl", *({"text": f"text {number}", "label": number % 2} for number in range(8)))
    found = [read(tmp_path / name) for name in ("a.csv", "b.jsonl")]
    assert found[0].labels == found[1].labels == ("0", "1")
    assert [item.text for item in found[0].val] == [item.text for item in found[1].val]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(0), {"text": "x"}], r"line 2: field 'label' is missing"),
        ([record(0), {"text": "", "label": "a"}], r"line 2: field 'text' is empty"),
        ([record(0), record(0, "b")], r"line 2: the same text has label 'a' in .*line 1"),
        ([record(0), record(2), record(4)], "have one label, 'a'"),
    ],
)
def test_bad_records_are_named(records, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(written(tmp_path / "a.jsonl", *records))


def test_a_label_that_training_has_not_seen_is_refused(tmp_path):
    val = written(tmp_path / "val.jsonl", record(90), record(91, "new"))
    with pytest.raises(ValueError, match=r"val.jsonl, line 2: label 'new' is not among those trained on \(a, b\)"):
        read(written(tmp_path / "a.jsonl", *map(record, range(8))), [val])
