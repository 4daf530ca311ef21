from __future__ import annotations

from pathlib import Path

from llm.data.common.drops import (
    DROPPED_SCHEMA,
    EXCERPT_CHARS,
    Dropped,
    read_dropped,
    sample_dropped,
    write_dropped,
)
from llm.files import read_table


def drop(number: int, reason: str = "too short") -> Dropped:
    return Dropped.of(f"id{number}", f"https://site/{number}", f"text {number}", reason, f"{number} characters")


def test_an_excerpt_is_one_line_of_limited_length() -> None:
    assert Dropped.of("1", "u", " a\n\n b\tc ", "r", "d") == Dropped("1", "u", "r", "d", "a b c")
    assert len(Dropped.of("", "", "word " * 1_000, "r").excerpt) == EXCERPT_CHARS
    assert Dropped.of("", "", "", "r").excerpt == ""


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = [drop(n, "empty" if n % 2 else "too short") for n in range(7)]
    write_dropped(tmp_path / "dropped-00000.parquet", written[:4])
    write_dropped(tmp_path / "dropped-00001.parquet", iter(written[4:]))
    write_dropped(tmp_path / "dropped-00002.parquet", [])
    assert list(read_dropped(tmp_path)) == written
    assert read_table(tmp_path / "dropped-00002.parquet").schema.equals(DROPPED_SCHEMA)
    assert list(read_dropped(tmp_path / "nothing")) == []


def test_samples_do_not_depend_on_the_order_of_the_files(tmp_path: Path) -> None:
    items = [drop(n, "empty" if n % 3 else "too short") for n in range(200)]
    samples = []
    for name, rows in (("a", items), ("b", items[::-1])):
        (tmp_path / name).mkdir()
        write_dropped(tmp_path / name / "dropped-00000.parquet", rows[:120])
        write_dropped(tmp_path / name / "dropped-00001.parquet", rows[120:])
        samples.append(sample_dropped(tmp_path / name, 5))
    assert samples[0] == samples[1]
    assert {reason: len(found) for reason, found in samples[0].items()} == {"empty": 5, "too short": 5}
    # Drawn from all of them, not from the first rows.
    assert any(int(item.id[2:]) >= 100 for found in samples[0].values() for item in found)
