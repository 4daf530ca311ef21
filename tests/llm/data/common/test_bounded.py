"""Small files that stand for a lot: refused within time and memory, while honest ones come whole."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm.data.common.bounded import FREE_BYTES, MAX_RATIO, BoundedTable, HoldsTooMuch, bounded_rows
from llm.data.sources.common_crawl import listed_files
from llm.data.sources.config import SourceConfig
from llm.data.sources.found import Skipped
from llm.data.sources.tables import read_parquet
from llm.data.sources.text_files import read_jsonl
from llm.data.user_files.json_records import values_of
from tasks.core.workspace import REPOSITORY

SOURCE = SourceConfig(name="s", kind="parquet", paths=("x",))


def repeated(text: str, n: int) -> pa.DictionaryArray:
    """A text that stands in the file once, and counts n times."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array([text]))


def nested(n: int) -> pa.Array:
    """Rows of 100 messages, each the same long one."""
    parts = [pa.array(["user"] * n * 100), repeated("x" * 100_000, n * 100)]
    message = pa.StructArray.from_arrays(parts, ["role", "content"])
    return pa.ListArray.from_arrays(pa.array(range(0, n * 100 + 1, 100), pa.int32()), message)


def write(path: Path, column: pa.Array, **options: Any) -> Path:
    options = {"compression": "zstd", "store_schema": False, "write_statistics": False, **options}
    pq.write_table(pa.table({"text": column}), path, **options)
    return path


BOMBS = {
    "300 GB": lambda: repeated("x" * 30_000_000, 10_000),
    "120 GB": lambda: repeated("x" * 120_000, 1_000_000),
    "rows of 10 MB": lambda: nested(1_000),
    "10 million empty texts": lambda: repeated("", 10_000_000),
    "zeros": lambda: pa.array(["\0" * 300_000_000]),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_stands_for_a_lot_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "bomb.parquet", BOMBS[name]())
    assert path.stat().st_size < 200_000
    started = time.process_time()
    found = list(read_parquet(path, "bomb.parquet", SOURCE))
    last = found[-1]
    assert isinstance(last, Skipped)
    assert last.reason == "too large"
    assert f"{path.stat().st_size:,} bytes hold more than {FREE_BYTES:,}; allowed: {MAX_RATIO:,} times" in last.detail
    assert sum(getattr(one, "n_records", 1) for one in found) in (1, pq.read_metadata(path).num_rows)
    with pytest.raises(ValueError, match=r"bomb\.parquet: .*(bytes hold|row 1 holds) more than"):
        list(values_of(path))
    assert time.process_time() - started < 20


def test_the_worst_of_them_costs_little_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "bomb.parquet", BOMBS["300 GB"]())
    program = (
        "import sys; from pathlib import Path; from llm.data.common.bounded import bounded_rows\n"
        "try: n = sum(1 for _ in bounded_rows(Path(sys.argv[1])))\n"
        "except ValueError: print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 700_000, "KB; 7.5 GB where 64 rows are made at once"


def test_an_honest_file_that_is_compressed_400_times_comes_whole(tmp_path: Path) -> None:
    words = random.Random(2)
    line = " ".join(words.choice(["bread", "flour", "water", "salt", "yeast"]) for _ in range(600))
    texts = [f"{n * n * 7919 % 1_000_003} {line}" for n in range(100_000)]
    path = write(tmp_path / "a.parquet", pa.array(texts), compression_level=3)
    ratio = sum(map(len, texts)) / path.stat().st_size
    assert sum(map(len, texts)) > FREE_BYTES
    assert 250 < ratio < MAX_RATIO
    with BoundedTable(path, ["text", "missing"]) as table:
        rows = [row for number in range(table.metadata.num_row_groups) for row in table.rows(number)]
    assert [row and row["text"] for row in rows] == texts


def test_columns_of_every_form_come_as_arrow_gives_them(tmp_path: Path) -> None:
    rows = [
        {"text": f"{n % 3}", "raw": b"\xff" * (n % 2), "n": n, "list": ["a"] * (n % 4), "none": None,
         "chat": [{"role": "user", "content": f"c{n % 5}"}] if n % 3 else None, "map": [("k", "v")] * (n % 2)}
        for n in range(3_000)
    ]  # fmt: skip
    kinds = {"map": pa.map_(pa.string(), pa.string()), "raw": pa.binary(), "none": pa.string()}
    table = pa.table({name: pa.array([row[name] for row in rows], kinds.get(name)) for name in rows[0]})
    for stored in (True, False):
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=700, store_schema=stored)
        assert list(bounded_rows(tmp_path / "a.parquet")) == table.to_pylist()


def test_a_row_that_is_too_large_costs_itself(tmp_path: Path) -> None:
    texts = ["one", "x" * (33 * 2**20), "two"]
    found = list(read_parquet(write(tmp_path / "a.parquet", pa.array(texts)), "a.parquet", SOURCE))
    assert [getattr(one, "text", getattr(one, "reason", "")) for one in found] == ["one", "too large", "two"]


def test_a_footer_that_claims_more_rows_than_there_can_be_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", repeated("", 20_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(HoldsTooMuch, match="bytes hold more than"):
        BoundedTable(path)


@pytest.mark.parametrize(("form", "junk"), [("gzip", b" "), ("zstd", b"\n")])
def test_lines_behind_a_bomb_are_not_waited_for(tmp_path: Path, form: str, junk: bytes) -> None:
    lines = b'{"text": "good"}\n' + junk * (FREE_BYTES + 2**20) + b'\n{"text": "too late"}\n'
    packed = gzip.compress(lines, 9) if form == "gzip" else pa.compress(lines, "zstd", asbytes=True)
    path = tmp_path / "a.jsonl"
    path.write_bytes(bytes(packed))
    started = time.process_time()
    found = list(read_jsonl(path, "a", SourceConfig(name="s", kind="jsonl", paths=("x",))))
    assert time.process_time() - started < 20, "140 s for line breaks without a limit"
    assert [getattr(one, "text", getattr(one, "reason", "")) for one in found] == ["good", "too large"]
    assert isinstance(found[-1], Skipped)
    assert "bytes hold more than" in found[-1].detail
    listed = SourceConfig(name="s", kind="common-crawl", path_list=str(path))
    with pytest.raises(OSError, match=r"a\.jsonl is damaged \(too large, .* bytes hold more than"):
        listed_files(listed, tmp_path)
