"""The ingest stage: configs, plan, books that balance, always the same bytes, errors that say what to do."""

import dataclasses
import gzip
import itertools
import json
import os
import random
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError

from llm.config import from_dict, identity
from llm.data.clean.clean import record_slices
from llm.data.common.warc_write import encode_record
from llm.data.sources import ingest
from llm.data.sources import ingested as artifacts
from llm.data.sources.config import KINDS, Kind, SourceConfig
from llm.data.sources.ingest import IngestConfig, plan
from llm.data.sources.locate import external_files
from tests.llm.data.sources.ingesting import content_of, ingested, pages_of, records_of, skipped_of, texts_of

REPOSITORY = Path(__file__).parents[4]
HTML = [("Content-Type", "text/html")]
PAGES = {
    f"http://a.example/{number:02d}": b"<p>" + random.Random(number).randbytes(900).hex().encode()
    for number in range(9)
}


@pytest.fixture
def data(tmp_path):
    """A folder with one source of each kind that is a file; some records are bad."""
    folder = tmp_path / "data"
    for name in ("archives", "rows", "lines", "stories"):
        (folder / name).mkdir(parents=True)
    records = [encode_record(url, 200, HTML, body) for url, body in PAGES.items()]
    for number in range(3):
        path = folder / f"archives/{number}.warc.gz"
        path.write_bytes(b"".join(records[3 * number : 3 * number + 3]))
    spoilt = bytearray((folder / "archives/1.warc.gz").read_bytes())
    spoilt[len(records[3]) + 300] ^= 1
    (folder / "archives/1.warc.gz").write_bytes(spoilt)
    for number in range(2):
        rows = [{"text": f"row {number}.{row}" if row else ""} for row in range(5)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"rows/{number}.parquet")
        lines = [json.dumps({"text": f"line {number}.{row}"}) for row in range(4)]
        (folder / f"lines/{number}.jsonl.gz").write_bytes(gzip.compress("\n".join([*lines, "broken"]).encode()))
        (folder / f"stories/{number}.txt").write_text("<|endoftext|>".join(f"story {number}.{row}" for row in range(3)))
    return folder


def sources(data):
    return (
        SourceConfig(name="web", kind="warc", paths=(str(data / "archives"),)),
        SourceConfig(name="rows", kind="parquet", paths=(str(data / "rows"),)),
        SourceConfig(name="lines", kind="jsonl", paths=(str(data / "lines/*.jsonl.gz"),)),
        SourceConfig(name="stories", kind="text", paths=(str(data / "stories"),), separator="<|endoftext|>"),
    )


def test_every_record_is_used_or_named(data, tmp_path):
    artifact, counts = ingested(tmp_path, *sources(data))
    pages, texts = pages_of(artifact), texts_of(artifact)
    assert pages == {url: body for url, body in PAGES.items() if url != "http://a.example/04"}
    assert [text.text for text in texts] == [
        *(f"row {number}.{row}" for number in range(2) for row in range(1, 5)),
        *(f"line {number}.{row}" for number in range(2) for row in range(4)),
        *(f"story {number}.{row}" for number in range(2) for row in range(3)),
    ]
    assert counts.to_dict() == {
        "unit": "records",
        "n_in": 9 + 10 + 10 + 6,
        "n_out": 8 + 8 + 8 + 6,
        "dropped": {"damaged": 1, "empty": 2, "not JSON": 2},
        "figures": {"n_pages": 8, "n_texts": 22},
    }
    assert {record.source for record in records_of(artifact)} == {"web", "rows", "lines", "stories"}
    named = [(row["source"], row["file"], row["place"], row["reason"]) for row in skipped_of(artifact)]
    place = len(encode_record("http://a.example/03", 200, HTML, PAGES["http://a.example/03"]))
    assert named == [
        ("web", "archives/1.warc.gz", f"byte {place}", "damaged"),
        ("rows", "rows/0.parquet", "row 0", "empty"),
        ("rows", "rows/1.parquet", "row 0", "empty"),
        ("lines", "lines/0.jsonl.gz", "line 5", "not JSON"),
        ("lines", "lines/1.jsonl.gz", "line 5", "not JSON"),
    ]


def test_the_books_of_each_file(data, tmp_path):
    artifact, _ = ingested(tmp_path, *sources(data))
    rows = pq.read_table(artifact / "files.parquet").to_pylist()
    assert [row["file"] for row in rows] == [
        *(f"archives/{number}.warc.gz" for number in range(3)),
        *(f"rows/{number}.parquet" for number in range(2)),
        *(f"lines/{number}.jsonl.gz" for number in range(2)),
        *(f"stories/{number}.txt" for number in range(2)),
    ]
    assert [(row["n_records"], row["n_skipped"]) for row in rows] == [
        (3, 0),
        (3, 1),
        (3, 0),
        *[(5, 1)] * 4,
        *[(3, 0)] * 2,
    ]
    for row in rows:
        content = (data / row["file"]).read_bytes()
        assert (row["n_bytes"], row["sha256"]) == (len(content), artifacts.hashlib.sha256(content).hexdigest())


def test_same_bytes_wherever_the_files_lie_and_however_they_are_grouped(data, tmp_path, monkeypatch):
    first, _ = ingested(tmp_path / "a", *sources(data))
    elsewhere = tmp_path / "elsewhere" / "data"
    elsewhere.parent.mkdir()
    data.rename(elsewhere)
    for path in sorted(elsewhere.rglob("*.*"), reverse=True):
        os.utime(path, (1, 1))
    second, _ = ingested(tmp_path / "b", *sources(elsewhere))
    assert content_of(first) == content_of(second)
    assert not any(b"/tmp" in content for content in content_of(first).values())
    monkeypatch.setattr(ingest, "PARTITION_FILES", 1)
    third, _ = ingested(tmp_path / "c", *sources(elsewhere))
    assert records_of(third) == records_of(first)
    assert (third / "skipped.parquet").exists()


def test_a_crawl_ingested_is_the_crawl(tmp_path):
    """Records come over byte for byte, so the artifact of a crawl's files has the same files."""
    content = b"".join(encode_record(url, 200, HTML, body) for url, body in PAGES.items())
    (tmp_path / "pages-00000.warc.gz").write_bytes(content)
    artifact, _ = ingested(tmp_path / "run", SourceConfig(name="a", kind="warc", paths=(str(tmp_path / "*.warc.gz"),)))
    assert (artifact / "pages-00000.warc.gz").read_bytes() == content


def test_large_archives_are_cut_into_several_files(data, tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "MAX_FILE_BYTES", 2500)
    artifact, _ = ingested(tmp_path, *sources(data))
    sizes = [path.stat().st_size for path in sorted(artifact.glob("pages-*.warc.gz"))]
    assert len(sizes) > 3
    assert max(sizes) <= 2500
    assert len(pages_of(artifact)) == 8


def test_texts_alone_leave_no_table_of_pages(data, tmp_path):
    artifact, _ = ingested(tmp_path, *sources(data)[1:])
    assert sorted(path.name for path in artifact.iterdir()) == [
        "files.parquet",
        "skipped.parquet",
        *(f"texts-{number:05d}.parquet" for number in range(3)),
    ]


@pytest.mark.parametrize("most", [1, 4, 5, 7, 100])
def test_max_records_takes_the_first_that_can_be_used(data, tmp_path, most):
    everything, _ = ingested(tmp_path / "a", sources(data)[2])
    source = dataclasses.replace(sources(data)[2], max_records=most)
    artifact, counts = ingested(tmp_path / "b", source)
    assert texts_of(artifact) == texts_of(everything)[:most]
    assert counts.n_out == min(most, 8)
    rows = pq.read_table(artifact / "files.parquet").to_pylist()
    assert sum(row["n_records"] for row in rows) == counts.n_in
    assert [row["sha256"] is None for row in rows][-1] == (most < 8)


def test_row_groups_are_small_in_rows_and_in_characters(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "ROW_GROUP_ROWS", 10)
    monkeypatch.setattr(artifacts, "ROW_GROUP_CHARS", 1000)
    texts = ["x" * size for size in [1] * 25 + [400] * 9 + [5000]]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    artifact, _ = ingested(
        tmp_path, SourceConfig(name="a", kind="text", paths=(str(tmp_path / "a.txt"),), separator="\n")
    )
    with pq.ParquetFile(artifact / "texts-00000.parquet") as file:
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert sizes == [10, 10, 8, 3, 3, 1]
    assert [text.text for text in texts_of(artifact)] == texts


def test_small_files_are_read_together_and_large_ones_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "PARTITION_BYTES", 1000)
    sizes = [300, 300, 300, 300, 5000, 10, 999, 1, 1]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.txt").write_bytes(b"x" * size)
    config = IngestConfig(sources=(SourceConfig(name="a", kind="text", paths=(str(tmp_path),)),))
    groups = [[file.n_bytes for file in item.files] for item in plan(config, tmp_path)]
    assert groups == [[300, 300, 300], [300], [5000], [10], [999, 1], [1]]


def test_hidden_files_and_other_kinds_in_a_folder_are_left_alone(data, tmp_path):
    for name in (".cache/a.jsonl", ".a.jsonl", "readme.md", "a.parquet"):
        (data / "lines" / name).parent.mkdir(exist_ok=True)
        (data / "lines" / name).write_text("{}")
    (data / "lines/deeper").mkdir()
    (data / "lines/deeper/b.ndjson").write_text("{}")
    [item] = plan(IngestConfig(sources=(SourceConfig(name="a", kind="jsonl", paths=(str(data / "lines"),)),)), tmp_path)
    assert [file.label for file in item.files] == ["lines/0.jsonl.gz", "lines/1.jsonl.gz", "lines/deeper/b.ndjson"]


def test_relative_paths_keep_their_names(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data.parent)
    for pattern in ("data/lines", "data/lines/*", "data/**/*.jsonl.gz", "./data/lines/0.jsonl.gz"):
        [item] = plan(IngestConfig(sources=(SourceConfig(name="a", kind="jsonl", paths=(pattern,)),)), tmp_path)
        assert item.files[0].label == "data/lines/0.jsonl.gz"


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder / "x").mkdir(parents=True)
        (tmp_path / folder / "x/1.txt").write_text("a")
    source = SourceConfig(name="s", kind="text", paths=(str(tmp_path / "a/x"), str(tmp_path / "b/x")))
    with pytest.raises(ValueError, match=r"s: paths has two files called x/1.txt: .* make two sources of them"):
        plan(IngestConfig(sources=(source,)), tmp_path)


def test_files_from_a_file_system_that_fsspec_knows(tmp_path):
    import fsspec

    fsspec.filesystem("memory").pipe("/folder/a.jsonl", b'{"text": "from afar"}')
    artifact, _ = ingested(tmp_path, SourceConfig(name="s", kind="jsonl", paths=("memory://folder/a.jsonl",)))
    assert [(text.url, text.text) for text in texts_of(artifact)] == [("s:memory://folder/a.jsonl#1", "from afar")]
    with pytest.raises(ValueError, match="memory://folder/b"):
        ingested(tmp_path / "b", SourceConfig(name="s", kind="jsonl", paths=("memory://folder/b.jsonl",)))


def test_files_outside_of_the_store_are_named(data):
    found = external_files(sources(data))
    assert len(found) == 9
    assert data / "lines/1.jsonl.gz" in found


def test_lists_indexes_and_folders_of_data_sets_are_outside_too(data):
    for name in ("list", "index"):
        (data / name).write_text("x")
    config = IngestConfig(
        sources=(
            SourceConfig(name="a", kind="common-crawl", path_list=str(data / "list")),
            SourceConfig(name="b", kind="common-crawl", index=str(data / "index"), base_url=str(data / "archives")),
            SourceConfig(name="c", kind="dataset", dataset=str(data / "rows")),
            SourceConfig(name="d", kind="dataset", dataset="owner/name", revision="0" * 40),
            SourceConfig(name="e", kind="dataset", dataset="json", paths=(str(data / "lines"), "https://a/b.json")),
        )
    )
    names = {str(path.relative_to(data)) for path in external_files(config.sources)}
    assert names == {
        "list",
        "index",
        *(f"archives/{number}.warc.gz" for number in range(3)),
        *(f"rows/{number}.parquet" for number in range(2)),
        *(f"lines/{number}.jsonl.gz" for number in range(2)),
    }


def test_a_source_that_gives_nothing_stops_the_stage(data, tmp_path):
    wrong = dataclasses.replace(sources(data)[2], text_field="content")
    message = (
        r"lines: none of its 10 records can be used \(no text field: 8, not JSON: 2; first: lines/0.jsonl.gz, line 1: "
    )
    with pytest.raises(ValueError, match=message):
        ingested(tmp_path, sources(data)[0], wrong)


@pytest.mark.parametrize("expected", [0, 9, 11])
def test_a_number_of_records_that_the_recipe_expects_is_checked(data, tmp_path, expected):
    source = dataclasses.replace(sources(data)[2], n_records=expected)
    with pytest.raises(ValueError, match=f"lines: 10 records came, but n_records is {expected}"):
        ingested(tmp_path / "a", source)
    ingested(tmp_path / "b", dataclasses.replace(source, n_records=10))


VALID = {"name": "a", "kind": "warc", "paths": ["x"]}


def test_a_recipe_section_becomes_a_config_and_goes_through_json():
    values = {
        "sources": [
            {"name": "cc", "kind": "common-crawl", "path_list": "https://a/warc.paths.gz", "max_files": 2},
            {"name": "tiny", "kind": "text", "paths": ["a.txt"], "separator": "<|endoftext|>", "max_records": 10},
        ],
        "snapshot": "2026-43",
    }
    config = TypeAdapter(IngestConfig).validate_python(values)
    assert config.sources[1] == SourceConfig(
        name="tiny", kind="text", paths=("a.txt",), separator="<|endoftext|>", max_records=10
    )
    assert from_dict(IngestConfig, json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert from_dict(IngestConfig, json.loads(json.dumps(identity(config)))) == config
    schema = TypeAdapter(IngestConfig).json_schema()
    fields = schema["$defs"]["SourceConfig"]["properties"]
    assert all(field["description"] for field in fields.values())
    assert fields["max_files"]["anyOf"][0]["minimum"] == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sources": []}, "sources is empty"),
        ({"sources": [VALID, VALID]}, "each must differ"),
        ({"sources": [VALID], "snapshot": "../x"}, "snapshot is '../x'; allowed"),
        ({"sources": [{**VALID, "name": "a b"}]}, "name is 'a b'; allowed"),
        ({"sources": [{**VALID, "kind": "csv"}]}, "Input should be 'warc', 'wet', 'common-crawl'"),
        ({"sources": [{**VALID, "path": "x"}]}, "Unexpected keyword argument"),
        ({"sources": [{"name": "a", "kind": "jsonl"}]}, "a: paths is empty; kind jsonl needs files"),
        ({"sources": [{**VALID, "dataset": "x"}]}, "a: dataset is 'x', which kind warc does not use; it uses paths"),
        ({"sources": [{**VALID, "max_records": 0}]}, "max_records is 0; allowed: 1 or more"),
        ({"sources": [{"name": "a", "kind": "common-crawl"}]}, "neither path_list nor index is given"),
        (
            {"sources": [{"name": "a", "kind": "common-crawl", "path_list": "x", "index": "y"}]},
            "both path_list and index",
        ),
        ({"sources": [{"name": "a", "kind": "common-crawl", "index": "y", "max_files": 1}]}, "it goes with path_list"),
        ({"sources": [{"name": "a", "kind": "dataset"}]}, "dataset is empty"),
        ({"sources": [{"name": "a", "kind": "dataset", "dataset": "o/n"}]}, "revision is None; allowed: a commit, 40"),
        (
            {"sources": [{"name": "a", "kind": "dataset", "dataset": "o/n", "revision": "main"}]},
            "revision is 'main'; .* https://huggingface.co/datasets/o/n/commits/main",
        ),
        ({"sources": [{"name": "a", "kind": "dataset", "dataset": "json"}]}, "dataset json needs the files to read"),
        (
            {"sources": [{"name": "a", "kind": "dataset", "dataset": "o/n", "revision": "0" * 40, "paths": ["x"]}]},
            "it goes with dataset parquet, json",
        ),
    ],
)
def test_what_a_recipe_can_have_wrong(values, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(IngestConfig).validate_python(values)


@pytest.mark.parametrize("path", ["nowhere", "nowhere/*.warc.gz", "."])
def test_paths_without_files_are_the_users_error(tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"a: paths has .* but there is"):
        plan(IngestConfig(sources=(SourceConfig(name="a", kind="warc", paths=(path,)),)), tmp_path)


def test_all_slices_together_are_all_records(data, tmp_path):
    artifact, counts = ingested(tmp_path, *sources(data))
    for size in (1, 4, 1000):
        parts = [list(part.read()) for part in record_slices(artifact, size)]
        assert sum(map(len, parts)) == counts.n_out
        assert list(itertools.chain(*parts)) == records_of(artifact)


@pytest.mark.parametrize("name", ["commoncrawl", "fineweb-edu", "tinystories"])
def test_the_recipes_name_sources_that_are_in_order(name, tmp_path):
    values = OmegaConf.to_container(OmegaConf.load(REPOSITORY / f"conf/{name}.yaml"))
    config = TypeAdapter(IngestConfig).validate_python(values["ingest"])
    assert external_files(config.sources) == []
    assert config.sources[0].max_records or config.sources[0].max_files == 1


def test_every_kind_of_source_says_what_it_uses():
    """One table: a new kind is a line in it, a reader, and the call of the reader in ingest.py."""
    assert set(KINDS) == set(get_args(Kind))
    fields = {field.name for field in dataclasses.fields(SourceConfig)}
    assert set().union(*(kind.fields for kind in KINDS.values())) <= fields
