"""The store: whole artifacts or none, and damage is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llm.counts import Counts
from llm.files import read_json
from tasks.core.fingerprint import Code, Key
from tasks.core.store import Artifact, Store

KEY = Key("toy", 1, {"x": 1}, [], Code("", {}))


def build(store: Store, text: str = "some text\n", key: Key = KEY) -> Artifact:
    out_dir = store.new_out_dir(key.stage, key.fingerprint)
    (out_dir / "data.jsonl").write_text(text)
    (out_dir / "speed.txt").write_text(str(os.getpid()) + text)
    return store.commit(out_dir, key, Counts("lines", 1, 1), undigested=["speed.txt"], provenance={"started": "2026"})


def test_commit_and_find(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find("toy", KEY.fingerprint) is None
    built = build(store)
    assert store.find("toy", KEY.fingerprint) == built
    assert built.damage(full=True) == []
    entries = {entry["path"]: entry["records"] for entry in built.manifest["files"]}
    assert entries == {"data.jsonl": 1, "speed.txt": None}
    assert sorted(path.name for path in built.path.iterdir()) == [
        "data.jsonl",
        "manifest.json",
        "provenance.json",
        "speed.txt",
    ]
    assert [path.name for path in (tmp_path / "toy").iterdir()] == [KEY.fingerprint]


def test_digest_sees_content_only(tmp_path: Path) -> None:
    digests = [build(Store(tmp_path / name), text).digest for name, text in (("a", "x"), ("b", "x"), ("c", "y"))]
    assert digests[0] == digests[1] != digests[2]
    first, second = (Store(tmp_path / name).find("toy", KEY.fingerprint) for name in "ac")
    assert first is not None
    assert second is not None
    manifest = {name: value for name, value in first.manifest.items() if name not in ("files", "digest")}
    assert manifest == {name: value for name, value in second.manifest.items() if name not in ("files", "digest")}


@pytest.mark.parametrize("how", ["flip", "cut", "remove", "flip an undigested file"])
def test_damage_is_named(tmp_path: Path, how: str) -> None:
    artifact = build(Store(tmp_path))
    path = artifact.path / ("speed.txt" if "undigested" in how else "data.jsonl")
    data = bytearray(path.read_bytes())
    if how == "remove":
        path.unlink()
    else:
        data[0] ^= 1
        path.write_bytes(bytes(data[:-1]) if how == "cut" else bytes(data))
    assert path.name in artifact.damage(full=True)[0]
    assert path.name in artifact.damage(full=False)[0]


def test_a_flip_that_keeps_size_and_time_is_found_by_the_full_check_only(tmp_path: Path) -> None:
    artifact = build(Store(tmp_path))
    path = artifact.path / "data.jsonl"
    times = path.stat()
    path.write_text("Some text\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert artifact.damage(full=False) == []
    assert len(artifact.damage(full=True)) == 1


def test_no_manifest_no_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = build(store)
    (artifact.path / "manifest.json").write_text("{ broken")
    assert store.find("toy", KEY.fingerprint) is None
    (artifact.path / "manifest.json").unlink()
    assert store.find("toy", KEY.fingerprint) is None
    assert store.artifacts("toy") == []
    build(store)
    assert store.find("toy", KEY.fingerprint) is not None


def test_a_build_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    left = store.new_out_dir("toy", KEY.fingerprint)
    (left / "half").write_text("x")
    build(store)
    assert not [path for path in (tmp_path / "toy").iterdir() if path.name.startswith(".tmp")]


def test_provenance_is_kept_out_of_the_manifest(tmp_path: Path) -> None:
    artifact = build(Store(tmp_path))
    assert artifact.provenance["started"] == "2026"
    assert "2026" not in (artifact.path / "manifest.json").read_text()
    assert str(tmp_path) not in (artifact.path / "manifest.json").read_text()
    assert read_json(artifact.path / "manifest.json")["digest"] == artifact.digest


@pytest.mark.parametrize("content", ["", "[]", '{"digest": "x"}', "null"])
def test_a_damaged_manifest_or_provenance_is_no_accident(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    artifact = build(store)
    (artifact.path / "provenance.json").write_text(content)
    assert store.artifacts("toy")[0].damage(full=False) == []
    (artifact.path / "manifest.json").write_text(content)
    assert store.artifacts("toy") == []
