"""Labelled texts out of files."""

import json
from collections import Counter

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


def test_rare_labels_stay_in_training_and_all_others_are_on_both_sides(tmp_path):
    common = [{"text": f"{label} {i}", "label": label} for label in ("good", "bad") for i in range(60)]
    rare = [{"text": f"rare {i}", "label": f"rare {i}"} for i in range(8)]
    found = read_labelled([written(tmp_path / "a.jsonl", *common, *rare)], [], 0.2, "text", "label")
    val = Counter(item.label for item in found.val)
    assert len(found.labels) == 10
    assert val == {"good": 13, "bad": 13}
    assert len(found.train) + len(found.val) == 128
    for n_rare in (1, 8):
        only = written(tmp_path / "b.jsonl", *rare[:n_rare])
        with pytest.raises(ValueError, match=f"{n_rare} texts with {n_rare} labels are too few"):
            read(only)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_whole_number_is_one_label_however_it_is_written(form, tmp_path):
    labels = [0, 0.0, "0", "0.0", 1, 1.0, "1.00", " 1 ", 2.5, "2.5", "1.10", "v1.0"]
    path = tmp_path / f"a.{form}"
    if form == "csv":
        path.write_text("text,label\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(labels)))
    else:
        written(path, *({"text": f"text {i}", "label": label} for i, label in enumerate(labels)))
    found = read(path)
    assert {int(item.text[5:]): item.label for item in found.train + found.val} == dict(
        enumerate(["0"] * 4 + ["1"] * 4 + ["2.5", "2.5", "1.10", "v1.0"])
    )
    assert found.labels == ("0", "1", "1.10", "2.5", "v1.0")


def test_broken_records_are_dropped_and_counted_on_request(tmp_path):
    path = written(tmp_path / "a.jsonl", *map(record, range(40)), record(3), record(4, "b"), {"text": "x"}, [1])
    with open(path, "a") as file:
        file.write('{"text": \n{"text": "y", "label": NaN}\n')
    val = written(tmp_path / "val.jsonl", record(90), record(91), record(92, "new"), record(93, " "))
    found = read_labelled([path], [val], 0.25, "text", "label", "drop")
    assert (len(found.train), [item.text for item in found.val]) == (39, ["text 90", "text 91"])
    assert "text 4" not in {item.text for item in found.train}
    assert found.dropped == {
        "duplicate": 1,
        "two answers": 2,
        "missing field": 1,
        "no object": 1,
        "not JSON": 1,
        "no text": 1,
        "empty text": 1,
        "label not trained on": 1,
    }
    for name in ("a.jsonl", "val.jsonl"):
        with pytest.raises(ValueError, match=rf"{name}, line .*Mend it, or set classify.bad_examples: drop"):
            read_labelled([tmp_path / name], [], 0.25, "text", "label")


def test_a_label_that_training_has_not_seen_is_refused(tmp_path):
    val = written(tmp_path / "val.jsonl", record(90), record(91, "new"))
    with pytest.raises(ValueError, match=r"val.jsonl, line 2: label 'new' is not among those trained on \(a, b\)"):
        read(written(tmp_path / "a.jsonl", *map(record, range(8))), [val])
