"""Files that appear whole, once, and that say when they are damaged."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path

import pytest

from llm.files import (
    atomic_path,
    changed_files,
    file_damage,
    file_entry,
    file_state,
    lock_at_once,
    put_new,
    read_sealed,
    remove_at_once,
    sealed,
    write_json,
    write_sealed,
)


def no_links(source: Path, target: Path) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("has_links", [True, False])
def test_of_many_that_put_a_file_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    if not has_links:  # no such file system can be had without root
        monkeypatch.setattr("os.link", no_links)
    for round_number in range(20):
        path, results = tmp_path / f"{round_number}.json", list[tuple[bool, bytes]]()
        barrier = threading.Barrier(8)

        def put(number: int, path: Path = path, barrier: threading.Barrier = barrier) -> None:
            content = sealed({"number": number, "filler": "x" * 5000})
            barrier.wait()
            results.append((put_new(path, content), content))  # noqa: B023 - the threads end in this round

        threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [content for is_winner, content in results if is_winner]
        assert winners == [path.read_bytes()]
        assert not put_new(path, b"late")
        assert path.read_bytes() == winners[0]
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        put_new(tmp_path / "a", b"content")
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "a", 1)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_never_share_a_temporary_one(tmp_path: Path) -> None:
    """In two containers both have the same process id."""
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
    assert (tmp_path / "a").read_text() == "first"


def test_each_flipped_bit_of_a_sealed_file_is_found_or_changes_nothing(tmp_path: Path) -> None:
    path, values = tmp_path / "a.json", {"name": "é", "files": [{"bytes": 3}], "loss": 0.25, "none": None}
    n_found = 0
    write_sealed(path, values)
    whole, draw = path.read_bytes(), random.Random(1)
    for _ in range(500):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            found = read_sealed(path)
        except ValueError:
            n_found += 1
        else:
            assert found == values
    assert n_found > 400


def test_damage_names_each_file(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("cut.jsonl", "flipped.txt", "gone.txt", "kept.txt", "sound.txt")]
    for path in paths:
        path.write_text("a\nb\n")
    listed = [file_entry(path, tmp_path) for path in paths]
    assert [entry["records"] for entry in listed] == [2, None, None, None, None]
    assert file_damage(tmp_path, listed) == []
    paths[0].write_text("a\n")
    paths[1].write_text("a\nc\n")
    paths[2].unlink()
    paths[3].write_text("c\nc\n")
    known = {"kept.txt": paths[3].stat().st_mtime_ns}
    named = [line.split()[0] for line in file_damage(tmp_path, listed, known)]
    assert named == ["cut.jsonl", "flipped.txt", "gone.txt"]
    assert len(file_damage(tmp_path, listed)) == 4


def test_changed_files_are_named_from_a_root(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("x")
    states = {"code.py": file_state(tmp_path / "code.py"), str(tmp_path / "new.txt"): "absent"}
    assert changed_files(states, tmp_path) == []
    (tmp_path / "new.txt").touch()
    assert changed_files(states, tmp_path) == [str(tmp_path / "new.txt")]


def test_who_holds_a_lock_keeps_it(tmp_path: Path) -> None:
    with lock_at_once(tmp_path / "lock") as first, lock_at_once(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
    with lock_at_once(tmp_path / "lock") as third:
        assert third


def test_a_directory_that_is_written_to_goes_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    (folder / "deep").mkdir(parents=True)
    with open(folder / "deep" / "open.txt", "w") as file:
        remove_at_once(folder, tmp_path / ".gone")
        file.write("still written")
        with pytest.raises(FileNotFoundError):
            (folder / "deep" / "new.txt").write_text("late")
    assert list(tmp_path.iterdir()) == []
    remove_at_once(folder, tmp_path / ".gone")
