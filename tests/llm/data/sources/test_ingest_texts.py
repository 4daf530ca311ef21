"""JSONL, text, Parquet and data sets: every record comes once or is named, also where a file is damaged."""

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm.data.common.texts import TextRecord
from llm.data.sources import text_files
from llm.data.sources.config import SourceConfig
from llm.data.sources.dataset import n_shards, read_dataset
from llm.data.sources.found import Skipped
from llm.data.sources.members import Damage
from llm.data.sources.tables import read_parquet
from llm.data.sources.text_files import read_jsonl, read_text, split_pieces

TEXTS = [f"Text {number}: \u00fcber bread " + "x" * (number * 37 % 500) for number in range(60)]
ROWS = [{"text": text, "title": f"T{number}", "url": f"http://a/{number}"} for number, text in enumerate(TEXTS)]
LINES = [json.dumps(row, ensure_ascii=number % 2 == 0).encode() for number, row in enumerate(ROWS)]


def source(kind, **fields):
    paths = () if kind == "dataset" else ("unused",)
    return SourceConfig(**{"name": "s", "kind": kind, "paths": paths, **fields})


JSONL = source("jsonl", title_field="title", url_field="url")
EXPECTED = [TextRecord(row["url"], row["title"], row["text"], "s") for row in ROWS]


def jsonl(tmp_path, content, config=JSONL):
    path = tmp_path / "file"
    path.write_bytes(content)
    found = list(read_jsonl(path, "file", config))
    return [item for item in found if isinstance(item, TextRecord)], [
        item for item in found if isinstance(item, Skipped)
    ]


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n\n \n"])
def test_jsonl_whatever_the_compression(tmp_path, compress, end):
    assert jsonl(tmp_path, compress(b"\n".join(LINES) + end)) == (EXPECTED, [])


def test_several_compressed_parts_one_after_the_other(tmp_path):
    for compress in (gzip.compress, zstd):
        parts = [compress(b"\n".join(LINES[start : start + 7]) + b"\n") for start in range(0, 60, 7)]
        assert jsonl(tmp_path, b"".join(parts)) == (EXPECTED, [])


def test_lines_that_are_no_record_are_named(tmp_path):
    bad = {
        b"{broken": "not JSON",
        b"[1, 2]": "not JSON",
        b"null": "not JSON",
        b'{"text": "\xff"}': "not UTF-8",
        b'{"txt": "a"}': "no text field",
        b'{"text": 7}': "text is not a string",
        b'{"text": null}': "text is not a string",
        b'{"text": " \\n "}': "empty",
        b'{"text": "half \\ud800"}': "not Unicode",
        b'{"text": "a", "url": "\\ud800"}': "not Unicode",
        b"[" * 100_000: "not JSON",
    }
    lines = [line for pair in zip(LINES, bad, strict=False) for line in pair]
    texts, skipped = jsonl(tmp_path, b"\xef\xbb\xbf" + b"\n".join(lines))
    assert texts == EXPECTED[: len(bad)]
    assert [item.reason for item in skipped] == list(bad.values())
    assert [item.place for item in skipped] == [f"line {2 * number}" for number in range(1, len(bad) + 1)]


def test_without_fields_for_them_title_is_empty_and_the_address_tells_file_and_line(tmp_path):
    texts, _ = jsonl(tmp_path, b"\n".join(LINES[:2]), source("jsonl"))
    assert texts == [TextRecord(f"s:file#{number + 1}", "", TEXTS[number], "s") for number in range(2)]


def test_a_damaged_gzip_member_costs_itself(tmp_path):
    parts = [bytearray(gzip.compress(b"\n".join(LINES[start : start + 10]) + b"\n")) for start in range(0, 60, 10)]
    parts[2][len(parts[2]) // 2] ^= 4
    parts[4][-6] ^= 1  # the checksum: nobody knows what is wrong
    texts, skipped = jsonl(tmp_path, b"".join(parts))
    assert texts == EXPECTED[:20] + EXPECTED[30:40] + EXPECTED[50:]
    assert [item.reason for item in skipped] == ["damaged", "damaged"]


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_file_that_is_cut_off_gives_what_stands_before(tmp_path, compress, share):
    rng = random.Random(4)
    rows = [{"text": rng.randbytes(1000).hex()} for _ in range(2000)]
    content = compress("\n".join(map(json.dumps, rows)).encode())
    texts, skipped = jsonl(tmp_path, content[: int(len(content) * share)])
    assert [item.text for item in texts] == [row["text"] for row in rows[: len(texts)]]
    assert len(texts) > (share - 0.2) * len(rows)
    assert [item.reason for item in skipped] == ["cut off"]


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_never_gives_a_wrong_text(tmp_path, seed):
    rng = random.Random(seed)
    content = bytearray(
        b"".join(gzip.compress(b"\n".join(LINES[start : start + 20]) + b"\n") for start in range(0, 60, 20))
    )
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    texts, skipped = jsonl(tmp_path, bytes(content))
    assert all(text in EXPECTED for text in texts)
    assert len(texts) == 60 or (len(texts) == 40 and len(skipped) == 1)


def test_a_line_that_is_too_large_is_named_and_never_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_RECORD_BYTES", 100_000)
    huge = json.dumps({"text": "x" * 5_000_000}).encode()
    texts, skipped = jsonl(tmp_path, b"\n".join([LINES[0], huge, LINES[1], huge]))
    assert texts == EXPECTED[:2]
    assert [(item.reason, item.place) for item in skipped] == [("too large", "line 2"), ("too large", "line 4")]


@pytest.mark.parametrize("separator", [b"\n", b"<|endoftext|>", None])
@pytest.mark.parametrize("seed", range(10))
def test_pieces_do_not_depend_on_how_the_stream_is_cut(separator, seed):
    rng = random.Random(seed)
    alphabet = [b"<|endoftext|>", b"<|end", b"<", b"\n", b"a", b"bc", b"|>"]
    content = b"".join(rng.choice(alphabet) for _ in range(300))
    cuts = sorted(rng.randrange(len(content)) for _ in range(rng.randrange(100)))
    stream = [content[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    expected = content.split(separator) if separator else [content]
    found = list(split_pieces(iter(stream), separator))
    assert found == expected[: -1 if not expected[-1] else None]


def test_pieces_around_a_hole():
    hole = Damage(3, 9, "damaged")
    assert list(split_pieces(iter([b"a\nb", hole, b"c\nd"]), b"\n")) == [b"a", hole, b"c", b"d"]


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd])
@pytest.mark.parametrize("separator", ["<|endoftext|>", "\n", None])
def test_text_files(tmp_path, compress, separator):
    path = tmp_path / "stories.txt"
    content = b"\xef\xbb\xbf" + f"{separator or ' '}".join(TEXTS).encode() + (separator or "").encode() + b"\n"
    path.write_bytes(compress(content))
    found = [item.text for item in read_text(path, "stories.txt", source("text", separator=separator))]
    assert found == (TEXTS if separator else [" ".join(TEXTS) + "\n"])


def test_a_text_file_of_something_else_is_named(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"good\n\xff\xfe\n\n \nfine")
    found = list(read_text(path, "a", source("text", separator="\n")))
    assert found == [
        TextRecord("s:a#1", "", "good", "s"),
        Skipped("document 2", "not UTF-8"),
        TextRecord("s:a#5", "", "fine", "s"),
    ]


def test_half_a_document_beside_a_damaged_part_is_not_used(tmp_path):
    content = "<|endoftext|>".join(TEXTS).encode()
    parts = [bytearray(gzip.compress(content[start : start + 2000])) for start in range(0, len(content), 2000)]
    parts[1][-6] ^= 1
    path = tmp_path / "a"
    path.write_bytes(b"".join(parts))
    found = list(read_text(path, "a", source("text", separator="<|endoftext|>")))
    assert all(item.text in TEXTS for item in found if isinstance(item, TextRecord))
    assert [item.reason for item in found if isinstance(item, Skipped)] == ["damaged", "damaged"]


PARQUET = source("parquet", title_field="title", url_field="url")


def parquet(path, rows=ROWS, *, group=10, checksums=True):
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group, write_page_checksum=checksums)
    return path


def test_parquet(tmp_path):
    assert list(read_parquet(parquet(tmp_path / "a"), "a", PARQUET)) == EXPECTED
    [text] = read_parquet(parquet(tmp_path / "a", ROWS[:1]), "sub/a", source("parquet"))
    assert text == TextRecord("s:sub/a#0", "", TEXTS[0], "s")


def test_rows_of_parquet_that_are_no_record(tmp_path):
    rows = [{"text": "a", "n": 1}, {"text": None, "n": 2}, {"text": "", "n": 3}, {"text": "b", "n": 4}]
    found = list(read_parquet(parquet(tmp_path / "a", rows), "a", source("parquet", title_field="n")))
    assert found == [
        TextRecord("s:a#0", "1", "a", "s"),
        Skipped("row 1", "text is not a string", "NoneType"),
        Skipped("row 2", "empty"),
        TextRecord("s:a#3", "4", "b", "s"),
    ]


def test_a_column_that_is_not_there_is_the_users_error(tmp_path):
    path = parquet(tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"s: text_field is 'content', but a has no such column; it has text, title, url"
    ):
        list(read_parquet(path, "a", source("parquet", text_field="content")))


@pytest.mark.parametrize("seed", range(25))
def test_damaged_parquet_never_gives_a_wrong_text(tmp_path, seed):
    rng = random.Random(seed)
    path = parquet(tmp_path / "a")
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    try:
        found = list(read_parquet(path, "a", PARQUET))
    except ValueError as error:  # the names of the columns are what was hit
        assert "has no such column" in str(error)  # noqa: PT017
        return
    assert all(item in EXPECTED for item in found if isinstance(item, TextRecord))
    n_named = sum(item.n_records for item in found if isinstance(item, Skipped))
    assert len([item for item in found if isinstance(item, TextRecord)]) == 60 or n_named


def test_a_damaged_row_group_costs_its_rows(tmp_path):
    path = parquet(tmp_path / "a")
    with pq.ParquetFile(path) as file:
        place = file.metadata.row_group(3).column(0).dictionary_page_offset
    content = bytearray(path.read_bytes())
    content[place + 100] ^= 1
    path.write_bytes(content)
    found = list(read_parquet(path, "a", PARQUET))
    assert [item for item in found if isinstance(item, TextRecord)] == EXPECTED[:30] + EXPECTED[40:]
    [skipped] = [item for item in found if isinstance(item, Skipped)]
    assert (skipped.place, skipped.reason, skipped.n_records) == ("row 30", "damaged", 10)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_parquet_that_is_cut_off_is_named(tmp_path, share):
    path = parquet(tmp_path / "a")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    [skipped] = read_parquet(path, "a", PARQUET)
    assert (skipped.place, skipped.reason) == ("file", "damaged")


@pytest.fixture
def _offline(monkeypatch, tmp_path):
    """No test reaches the network, whichever test has imported the libraries first."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("_offline")
class TestDataSets:
    """Through the real `datasets` library, from files on this machine."""

    @pytest.fixture
    def files(self, tmp_path):
        folder = tmp_path / "stories"
        folder.mkdir()
        for number in range(3):
            parquet(folder / f"train-{number:05d}-of-00003.parquet", ROWS[20 * number : 20 * number + 20])
        return folder

    def test_a_folder(self, files):
        config = source("dataset", dataset=str(files), title_field="title", url_field="url")
        assert n_shards(config, []) == 3
        assert list(read_dataset(config, [], None)) == EXPECTED
        assert [item for shard in range(3) for item in read_dataset(config, [], shard)] == EXPECTED

    def test_files_by_builder(self, files, tmp_path):
        paths = [str(path) for path in sorted(files.iterdir())]
        config = source("dataset", dataset="parquet", paths=paths, title_field="title", url_field="url")
        assert list(read_dataset(config, paths, None)) == EXPECTED
        path = tmp_path / "a.jsonl"
        path.write_bytes(b"\n".join(LINES))
        config = source("dataset", dataset="json", paths=[str(path)], title_field="title", url_field="url")
        assert list(read_dataset(config, [str(path)], None)) == EXPECTED

    def test_addresses_differ_between_shards(self, files):
        config = source("dataset", dataset=str(files))
        urls = [item.url for shard in range(3) for item in read_dataset(config, [], shard)]
        assert urls[0] == "s:train/0#0"
        assert len(set(urls)) == 60

    def test_what_the_recipe_has_wrong(self, files):
        with pytest.raises(ValueError, match=r"text_field is 'body', but data set .* it has text, title, url"):
            n_shards(source("dataset", dataset=str(files), text_field="body"), [])
        with pytest.raises(ValueError, match=r"s: dataset .*valid"):
            n_shards(source("dataset", dataset=str(files), split="valid"), [])

    def test_a_damaged_file_never_ends_silently(self, files):
        path = sorted(files.iterdir())[1]
        path.write_bytes(path.read_bytes()[:-100])
        config = source("dataset", dataset=str(files))
        with pytest.raises((OSError, ValueError), match=r"data ?set"):
            list(read_dataset(config, [], None))

    def test_the_hub_cannot_be_reached(self):
        config = source("dataset", dataset="owner/name", revision="0" * 40)
        with pytest.raises((ConnectionError, ValueError), match="owner/name"):
            n_shards(config, [])
