from __future__ import annotations

from pathlib import Path

import pytest

from llm.data.common.file_patterns import all_matching_files, matching_files

SUFFIXES = (".json", ".jsonl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.JSON", "c.txt", "below/d.json", ".hidden.json", ".git/e.json", "odd[1].json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "folder.json").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["a.JSON", "b.jsonl", "below/d.json", "odd[1].json"]),
        ("c.txt", ["c.txt"]),  # what is named itself is taken as it is
        ("odd[1].json", ["odd[1].json"]),
        ("*.json", ["odd[1].json"]),
        ("**/*.json", ["below/d.json", "odd[1].json"]),
        ("[ab].*", ["a.JSON", "b.jsonl"]),
    ],
)
def test_paths_folders_and_patterns(folder: Path, pattern: str, expected: list[str]) -> None:
    found = matching_files("x.files", str(folder / pattern), SUFFIXES)
    assert [path.relative_to(folder).as_posix() for path in found] == expected


@pytest.mark.parametrize(
    ("pattern", "why"),
    [("none.json", "no such file"), ("*.csv", "no such file"), (".git/..", r"no file that ends in \.x")],
)
def test_where_there_is_no_file_the_field_is_named(folder: Path, pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match=rf"x\.files has '.*', but there is {why}"):
        matching_files("x.files", str(folder / pattern), (".x",))


def test_several_patterns_keep_their_order_and_each_file_once(folder: Path) -> None:
    patterns = [str(folder / name) for name in ("b.jsonl", "*.json*", "a.JSON")]
    found = all_matching_files("x.files", patterns, SUFFIXES)
    assert [path.name for path in found] == ["b.jsonl", "odd[1].json", "a.JSON"]
