"""The store: whole artifacts or none, and damage is found."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from llm.counts import Counts
from llm.files import hash_json, read_json, sha256_file, write_json, write_sealed, write_text
from tasks.core.build import Build
from tasks.core.engine import EngineConfig
from tasks.core.fingerprint import Code, Key
from tasks.core.store import Artifact, Store, give_number, given_number, warn_once

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


def test_a_file_that_the_manifest_does_not_list_is_named(tmp_path: Path) -> None:
    artifact = build(Store(tmp_path))
    for name in (".provenance.json.123.tmp", ".DS_Store", ".hidden/data.jsonl", "folder/data.jsonl", "data (1).jsonl"):
        (artifact.path / name).parent.mkdir(exist_ok=True)
        (artifact.path / name).touch()
    (artifact.path / "data-2.jsonl").symlink_to(tmp_path / "nowhere")
    names = ["data (1).jsonl", "data-2.jsonl", "folder/data.jsonl"]
    assert artifact.strangers() == [artifact.path / name for name in names]
    assert artifact.file_damage(full=True) == []
    for full in (True, False):
        assert artifact.damage(full=full) == [
            f"{artifact.path / name} is not in the manifest: remove it" for name in names
        ]


def test_building_again_what_is_there_keeps_a_stranger(tmp_path: Path) -> None:
    stranger = build(Store(tmp_path)).path / "notes.txt"
    stranger.write_text("mine")
    assert build(Store(tmp_path)).strangers() == [stranger]


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("files", []),
        ("digest", "0" * 32),
        ("counts", {"unit": "lines", "n_in": 9, "n_out": 9, "dropped": {}, "figures": {}}),
        ("version", float("nan")),
        ("hash", None),
        ("stray", 1),
    ],
)
def test_a_changed_manifest_is_no_artifact_and_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, value: object
) -> None:
    store = Store(tmp_path)
    path = build(store).path / "manifest.json"
    path.write_text(json.dumps({**read_json(path), name: value}))
    warn_once.cache_clear()
    assert store.find("toy", KEY.fingerprint) is None
    assert store.artifacts("toy") == []
    assert [record.message for record in caplog.records] == [
        f"{path} is damaged or cannot be read: the artifact counts as never built; run again to rebuild it"
    ]
    assert [(stage, fingerprint) for stage, fingerprint, _ in store.verify()] == [("toy", KEY.fingerprint)]
    assert all(str(path) in problems[0] for _, _, problems in store.verify())
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        _ = Artifact("toy", KEY.fingerprint, "", path.parent).manifest
    build(store)
    assert [problems for _, _, problems in store.verify()] == [[]]


def test_a_manifest_of_another_form_is_no_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = build(store)
    manifest = {name: value for name, value in artifact.manifest.items() if name != "external_files"}
    write_json(artifact.path / "manifest.json", {**manifest, "hash": hash_json(manifest)})
    assert store.find("toy", KEY.fingerprint) is None


@pytest.mark.parametrize("content", ["", "[]", '{"started": 5}', '{"modified_ns": 5}', '{"started": "2126"}'])
def test_damaged_provenance_leaves_the_newest_artifact_the_newest(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    names = ["first", "second", "third"]
    made = [build(store, key=dataclasses.replace(KEY, config={"name": name})) for name in names]
    for n, artifact in enumerate(made):
        artifact.note(started=f"2026-01-0{n + 1}")
        os.utime(artifact.path / "manifest.json", (1_767_225_600 + n * 86_400,) * 2)  # from 2026-01-01
    for artifact in made:
        path = artifact.path / "provenance.json"
        whole = path.read_bytes()
        path.write_text(content)
        assert [item.manifest["config"]["name"] for item in store.artifacts("toy")] == names[::-1]
        assert artifact.provenance.keys() == {"started", "number"}
        assert artifact.damage(full=False) == []
        path.write_bytes(whole)


def keyed(name: str) -> Key:
    """A key of an artifact of its own."""
    return dataclasses.replace(KEY, config={"name": name})


def test_the_newest_is_what_was_committed_last_whatever_the_clocks_say(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name, started in (("ten years ahead", "2036"), ("now", "2026"), ("a day back", "2025")):
        build(store, key=keyed(name)).note(started=started)
    names = [item.manifest["config"]["name"] for item in store.artifacts("toy")]
    assert names == ["a day back", "now", "ten years ahead"]
    assert build(store, key=keyed("ten years ahead")).age[0] == 4  # built again, it is the newest
    assert store.artifacts("toy")[0].manifest["config"]["name"] == "ten years ahead"


def test_artifacts_from_before_there_were_numbers_are_older_and_in_order_of_their_times(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name, started in (("second", "2036"), ("first", "2035"), ("third", "2026")):
        made = build(store, key=keyed(name))
        values = made.provenance | {"started": started}
        write_sealed(
            made.path / "provenance.json", {k: v for k, v in values.items() if k != "number" or name == "third"}
        )
    assert [item.manifest["config"]["name"] for item in store.artifacts("toy")] == ["third", "second", "first"]


def give_many(folder: Path, name: str) -> list[int]:
    return [give_number(folder, name) for _ in range(20)]


def test_several_processes_get_different_numbers_that_rise(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("forkserver")) as pool:
        given = list(pool.map(give_many, [tmp_path / "order"] * 3, "abc"))
    assert sorted(number for numbers in given for number in numbers) == list(range(1, 61))
    assert all(numbers == sorted(numbers) for numbers in given)
    assert [given_number(tmp_path / "order", name) for name in "abcd"] == [*(numbers[-1] for numbers in given), 0]


def write_two(number: int, out_dir: Path, config: None) -> Counts:
    for name in ("kept.jsonl", "mended.jsonl"):
        (out_dir / name).write_text(f"{number}\n")
    return Counts("numbers", 1, 1)


def test_files_of_partitions_are_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, hashed = Store(tmp_path), list[str]()
    out_dir = store.new_out_dir("toy", KEY.fingerprint)
    build = Build(out_dir, store.work_dir("toy", KEY.fingerprint), EngineConfig(n_workers=1), lambda *_: None)
    counts = build.map(write_two, range(2), config=None)
    write_text(out_dir / "mended-00001.jsonl", "2\n")  # by the stage, in place of what the partition has written
    (out_dir / "report.txt").write_text("of the stage")
    damaged = out_dir / "kept-00000.jsonl"
    times = damaged.stat()
    damaged.write_text("7\n")  # after the worker has read it back
    os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))

    def noted(path: Path) -> str:
        hashed.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr("llm.files.sha256_file", noted)
    made = store.commit(out_dir, KEY, counts, provenance={})
    assert hashed == ["mended-00001.jsonl", "report.txt"]
    entries = {entry["path"]: entry for entry in made.manifest["files"]}
    assert entries["kept-00001.jsonl"] == {
        "path": "kept-00001.jsonl",
        "bytes": 2,
        "records": 1,
        "sha256": sha256_file(made.path / "kept-00001.jsonl"),
    }
    assert entries["mended-00001.jsonl"]["sha256"] == sha256_file(made.path / "mended-00001.jsonl")
    assert made.provenance["modified_ns"].keys() == entries.keys()
    assert made.damage(full=True) == ["kept-00000.jsonl has changed since it was built"]


def test_two_builds_with_the_same_process_id_have_directories_of_their_own(tmp_path: Path) -> None:
    """As in two containers where no lock holds: the later one takes the place, and what is left of the first fails."""
    store = Store(tmp_path)
    first = store.new_out_dir("toy", KEY.fingerprint)
    second = store.new_out_dir("toy", KEY.fingerprint)
    assert first != second
    with pytest.raises(FileNotFoundError):
        (first / "data.txt").write_text("late")
    assert list(second.iterdir()) == []
