"""Every bit that flips in an artifact is found, or changes nothing that is taken."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import logging
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import save_file

from llm.counts import Counts
from llm.documents import Document, documents_table
from llm.files import write_json, write_sealed, write_table
from llm.tokenizer.tokenizer import Tokenizer
from llm.train.checkpoint import DAMAGE, Checkpoint, Checkpoints
from llm.train.compile import hashes_of, keep_listed
from llm.train.parallel import World
from tasks.core.build import Build
from tasks.core.engine import EngineConfig, Partition, why_not
from tasks.core.fingerprint import Code, Key
from tasks.core.session import Session
from tasks.core.stage import Stage, StageError, StageOptions
from tasks.core.store import Artifact, Store
from tests.tasks.core.toy import NumbersConfig
from tests.tasks.document_stage import prose

KEY = Key("toy", 1, {"rate": 0.1, "name": "é"}, [{"stage": "a", "fingerprint": "b", "digest": "c"}], Code("", {}))
TIMES = (1_767_225_600, 1_767_312_000)
"""2026-01-01 and the day after."""


Results = Counter[tuple[str, str]]
"""How many flips in each file were found, and how many were harmless."""


def build(store: Store, code: str, time: int) -> Artifact:
    """An artifact with a file of each form that stages write."""
    key = dataclasses.replace(KEY, code=Code(code, {"llm.toy": code}))
    folder = store.new_out_dir(key.stage, key.fingerprint)
    texts = [prose(30, n) for n in range(20)]
    documents = [Document(f"{n:032}", "http://a/", "", text, "en", len(text), False) for n, text in enumerate(texts)]
    write_table(folder / "documents-00000.parquet", documents_table(documents))
    write_table(folder / "train-00000.parquet", documents_table(documents[:0]))
    (folder / "pages-00000.warc.gz").write_bytes(gzip.compress(" ".join(texts).encode(), mtime=0))
    save_file({"weight": np.arange(64, dtype=np.float32)}, folder / "model.safetensors")
    np.save(folder / "signatures.npy", np.arange(100))
    Tokenizer.train(texts, 300).save(folder)
    write_json(folder / "config.json", {"model": {"d_model": 8}})
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    (folder / "report.html").write_text("<p>" + texts[0])
    (folder / "compiled").mkdir()
    (folder / "compiled" / "kernel.bin").write_bytes(random.Random(code).randbytes(300))
    provenance = {"started": f"2026-01-0{1 + TIMES.index(time)}T00:00:00+00:00", "seconds": 1.5, "command": ["flows"]}
    made = store.commit(folder, key, Counts("documents", 21, 20, {"short": 1}, {"loss": 2.5}), provenance=provenance)
    os.utime(made.path / "manifest.json", (time, time))
    return made


def taken(store: Store) -> list[tuple[str, str, object]]:
    """What a run takes that asks for each of two artifacts, and for the newest of them whatever its code."""
    keys = [dataclasses.replace(KEY, code=Code(code, {"llm.toy": code})) for code in ("one", "two", "three")]
    outcomes = [Session(store).decide(key, "reuse" if key is keys[-1] else "rebuild") for key in keys]
    return [
        (item.fingerprint, item.digest, item.manifest)
        for it in outcomes
        if it.action == "hit" and (item := it.artifact)
    ]


@contextlib.contextmanager
def flipped_bit(path: Path, draw: random.Random) -> Iterator[int]:
    """Changes one bit of a file for the block, keeping its times; yields the byte's position."""
    whole, times = path.read_bytes(), path.stat()
    damaged, position = bytearray(whole), draw.randrange(len(whole))
    damaged[position] ^= 1 << draw.randrange(8)
    path.write_bytes(damaged)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    try:
        yield position
    finally:
        path.write_bytes(whole)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def files_below(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def flip_in_artifacts(root: Path, n: int, draw: random.Random) -> Results:
    store = Store(root)
    made = [build(store, code, time) for code, time in zip(("one", "two"), TIMES, strict=True)]
    before = taken(store)
    assert [fingerprint for fingerprint, _, _ in before] == [made[i].fingerprint for i in (0, 1, 1)]
    results = Results()
    for i in range(n):
        artifact = made[i % 2]
        path = draw.choice(files_below(artifact.path))
        with flipped_bit(path, draw) as position:
            damaged = {fingerprint for _, fingerprint, problems in store.verify() if problems}
            after = taken(store)
            if damaged:
                assert damaged == {artifact.fingerprint}
                assert all(item in before and item[0] not in damaged for item in after), (path.name, position)
            else:
                assert path.name in ("manifest.json", "provenance.json"), (path.name, position)
                assert after == before, (path.name, position)
        results[path.name, "found" if damaged else "harmless"] += 1
    assert taken(store) == before
    return results


def write_files(number: int, out_dir: Path, config: None) -> Counts:
    """A partition with a file of each form that partitions have."""
    write_table(out_dir / "documents.parquet", pa.table({"number": [number] * 20, "text": [prose(9, number)] * 20}))
    np.save(out_dir / "keys.npy", np.arange(50) + number)
    (out_dir / "lines.jsonl").write_text(json.dumps({"number": number}) + "\n")
    return Counts("numbers", 1, 1, figures={"sum": number})


def flip_in_partitions(root: Path, n: int, draw: random.Random) -> Results:
    (root / "out").mkdir(parents=True)
    build = Build(root / "out", root / "work", EngineConfig(n_workers=1), lambda *_: None)
    build.map(write_files, range(4), config=None)
    winners = sorted((root / "work" / "write_files").glob("*.json"))
    before = [Partition.read(winner) for winner in winners]
    results = Results()
    for _ in range(n):
        path = draw.choice(files_below(root / "work"))
        with flipped_bit(path, draw) as position:
            sound = [why_not(winner, build.origin) is None for winner in winners]
            found = [Partition.read(w) for w, is_sound in zip(winners, sound, strict=True) if is_sound]
            assert found == [p for p, is_sound in zip(before, sound, strict=True) if is_sound], (path, position)
            assert all(sound) or sound.count(False) == 1
            assert not all(sound) or path in winners, (path, position)
        results[path.name if path not in winners else "winner", "harmless" if all(sound) else "found"] += 1
    return results


def flip_in_checkpoints(root: Path, n: int, draw: random.Random) -> Results:
    checkpoints = Checkpoints(root, World(torch.device("cpu")))
    for step in (1, 2):
        tensors = {"weight": torch.arange(40.0) * step, "optimizer.weight.mean": torch.arange(9.0)}
        checkpoints.save(tensors, {"step": step, "progress": {"loss": 2.5 / step, "val": {}}, "identity": {"é": 1}})
    before = {step: checkpoints.of_step(step) for step in (1, 2)}
    results = Results()
    for _ in range(n):
        path = draw.choice(files_below(root))
        with flipped_bit(path, draw) as position:
            found = whole_or_none(checkpoints, path.parent)
            step = int(path.parent.name[-1])
            assert found in (None, before[step]), (path, position)
            assert found is None or path.name == "state.json", (path, position)
            assert checkpoints.newest() == before[1 if step == 2 and found is None else 2]
        results[path.name, "found" if found is None else "harmless"] += 1
    return results


def whole_or_none(checkpoints: Checkpoints, path: Path) -> Checkpoint | None:
    try:
        return checkpoints._whole(path)
    except DAMAGE:
        return None


def flip_in_compiled_code(root: Path, n: int, draw: random.Random) -> Results:
    code, listing = root / "code", root / "hashes.json"
    for number in range(6):
        (code / f"{number}").mkdir(parents=True)
        (code / f"{number}" / "kernel.so").write_bytes(random.Random(number).randbytes(200))
        (code / f"{number}" / "kernel.cpp").write_text(f"int f() {{ return {number}; }}")
    write_sealed(listing, {"files": hashes_of(code)})
    kept = root.with_name("kept code")
    shutil.copytree(code, kept)
    before = hashes_of(code)
    results = Results()
    for _ in range(n):
        path = draw.choice(files_below(root))
        with flipped_bit(path, draw) as position:
            keep_listed(code, listing)
            after = hashes_of(code)
            assert after.items() <= before.items(), (path, position)
            assert path == listing or str(path.relative_to(code)) not in after
        results[path.name, "harmless" if after == before else "found"] += 1
        shutil.rmtree(code)
        shutil.copytree(kept, code)
    return results


SERIES = (flip_in_artifacts, flip_in_partitions, flip_in_checkpoints, flip_in_compiled_code)
HARMLESS = {"manifest.json", "provenance.json", "winner", "state.json", "hashes.json"}
"""Files of JSON, which reads some bytes alike (white space); provenance says nothing that decides."""


@pytest.mark.parametrize(
    "n", [100, pytest.param(2500, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])], ids=["some", "many"]
)
@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.__name__)
def test_each_flipped_bit_is_found_or_harmless(
    tmp_path: Path, series: Callable[[Path, int, random.Random], Results], n: int
) -> None:
    n = 4 * n if series is flip_in_artifacts else n
    results = series(tmp_path / "here", n, random.Random(1))
    logging.getLogger(__name__).info("%s: %s", series.__name__, dict(sorted(results.items())))
    assert results.total() == n
    names = {name for name, _ in results}
    assert len(names) == {flip_in_artifacts: 13, flip_in_partitions: 4}.get(series, 3)
    assert {name for name in names if not results[name, "found"]} <= {"provenance.json"}
    assert {name for name in names if results[name, "harmless"]} <= HARMLESS


def test_a_large_artifact_is_verified_before_training_and_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hit costs no hashing of large files whose times are kept, so a run takes them; training does not."""
    monkeypatch.setattr("tasks.core.session.FULL_CHECK_BYTES", 0)
    store, draw = Store(tmp_path), random.Random(1)
    made = build(store, "one", TIMES[0])
    key = dataclasses.replace(KEY, code=Code("one", {"llm.toy": "one"}))
    for entry in made.manifest["files"]:
        with flipped_bit(made.path / entry["path"], draw):
            assert Session(store).decide(key, "rebuild").action == "hit"
            assert [len(problems) for _, _, problems in store.verify()] == [1]
            trained = Stage(training_on_one, StageOptions(version=1, verify_inputs=True))
            with pytest.raises(StageError, match=rf"input toy is damaged \({entry['path']} has changed"):
                trained._check_inputs([made])
        assert store.find("toy", made.fingerprint) is None  # out of use, so the next run builds it again
        made = build(store, "one", TIMES[0])


def training_on_one(build: Build, source: Artifact, config: NumbersConfig) -> Counts:
    """Never gets to run here."""
    raise NotImplementedError
