"""Configs, counts and files: bounds are checked, books balance, files are whole or absent."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm.config import Config, from_dict, setting
from llm.counts import Counts
from llm.files import (
    atomic_path,
    exclusive_lock,
    read_rows,
    read_table,
    sha256_file,
    write_json,
    write_table,
)
from llm.process import MetricsLog, read_metrics


@dataclass(frozen=True, kw_only=True)
class Inner(Config):
    size: int = setting(1, at_least=1, at_most=8)


@dataclass(frozen=True, kw_only=True)
class Outer(Config):
    inner: Inner = Inner()
    maybe: Inner | None = None
    names: tuple[str, ...] = ()
    share: float | None = setting(0.5, at_least=0)


@pytest.mark.parametrize(("size", "message"), [(0, "size is 0; allowed: from 1 to 8"), (9, "size is 9")])
def test_bounds(size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Inner(size=size)


def test_a_config_survives_plain_values() -> None:
    config = Outer(inner=Inner(size=2), maybe=Inner(size=3), names=("a", "b"), share=None)
    assert from_dict(Outer, dataclasses.asdict(config)) == config


def test_counts_must_balance() -> None:
    with pytest.raises(AssertionError, match="5 pages in, but 3 out and 1 dropped"):
        Counts("pages", 5, 3, {"short": 1})


def test_counts_add_up_and_survive_json() -> None:
    parts = [Counts("pages", 3, 1, {"b": 2}, {"n": 1.5}), Counts("pages", 2, 1, {"a": 1}, {"n": 2})]
    total = Counts.total(parts)
    assert total == Counts("pages", 5, 2, {"b": 2, "a": 1}, {"n": 3.5})
    assert Counts.from_dict(total.to_dict()) == total
    assert list(total.to_dict()["dropped"]) == ["a", "b"]
    with pytest.raises(ValueError, match="empty"):
        Counts.total([])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_refuses_what_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_the_same_table_gives_the_same_bytes_and_a_flipped_bit_is_found(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text {n}" for n in range(5000)]})
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write_table(first, table)
    write_table(second, table)
    assert sha256_file(first) == sha256_file(second)
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 4
    first.write_bytes(data)
    with pytest.raises(OSError, match=r"(?i)crc|checksum|corrupt"):
        read_table(first)


def test_rows_come_from_the_row_groups_that_hold_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_table(path, pa.table({"x": range(20)}), row_group_size=6)
    for start, stop in [(0, 20), (5, 7), (6, 12), (13, 99), (20, 30), (4, 4)]:
        assert [row["x"] for row in read_rows(path, start, stop)] == list(range(20))[start:stop]
    data = bytearray(path.read_bytes())
    first = pq.read_metadata(path).row_group(0).column(0)
    data[first.data_page_offset + first.total_compressed_size // 2] ^= 1  # what is damaged is not looked at
    path.write_bytes(data)
    assert len(list(read_rows(path, 6, 20))) == 14
    with pytest.raises(OSError, match=r"\S"):
        list(read_rows(path, 0, 20))


def hold(path: Path, ready: Path) -> None:
    with exclusive_lock(path):
        ready.touch()
        time.sleep(60)


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    lock, ready = tmp_path / "lock", tmp_path / "ready"
    holder = multiprocessing.get_context("spawn").Process(target=hold, args=(lock, ready))
    holder.start()
    while not ready.exists():
        time.sleep(0.02)
    os.kill(holder.pid or 0, signal.SIGKILL)
    with exclusive_lock(lock):
        holder.join()
    assert holder.exitcode == -signal.SIGKILL


def test_a_metrics_log_is_cut_where_a_run_goes_on(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in range(4):
        log.write(step, loss=1.0)
    log.close()
    with open(log.path, "a") as file:
        file.write('{"step": 4, "lo')  # cut short by a kill
    assert [line["step"] for line in read_metrics(log.path)] == [0, 1, 2, 3]
    resumed = MetricsLog(tmp_path, keep=lambda line: line["step"] <= 1)
    resumed.write(2, loss=0.5)
    resumed.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(log.path)] == [(0, 1.0), (1, 1.0), (2, 0.5)]
