"""Every bit that flips in an artifact is found, or changes nothing that is taken."""

from __future__ import annotations

import dataclasses
import gzip
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from llm.counts import Counts
from llm.documents import Document, documents_table
from llm.files import write_json, write_table
from llm.tokenizer.tokenizer import Tokenizer
from tasks.core.fingerprint import Code, Key
from tasks.core.session import Session
from tasks.core.store import Artifact, Store
from tests.tasks.document_stage import prose

KEY = Key("toy", 1, {"rate": 0.1, "name": "é"}, [{"stage": "a", "fingerprint": "b", "digest": "c"}], Code("", {}))
TIMES = (1_767_225_600, 1_767_312_000)
"""2026-01-01 and the day after."""


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


def flip_bits(root: Path, n: int, seed: int) -> Counter[tuple[str, str]]:
    """Flips bits one at a time, keeping times; returns how many of each file were found and how many were harmless."""
    store, rng = Store(root), random.Random(seed)
    made = [build(store, code, time) for code, time in zip(("one", "two"), TIMES, strict=True)]
    before = taken(store)
    assert [fingerprint for fingerprint, _, _ in before] == [made[i].fingerprint for i in (0, 1, 1)]
    results: Counter[tuple[str, str]] = Counter()
    for i in range(n):
        artifact = made[i % 2]
        path = rng.choice(sorted(path for path in artifact.path.rglob("*") if path.is_file()))
        whole, times = path.read_bytes(), path.stat()
        flipped, position = bytearray(whole), rng.randrange(len(whole))
        flipped[position] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        damaged = {fingerprint for _, fingerprint, problems in store.verify() if problems}
        after = taken(store)
        if damaged:
            assert damaged == {artifact.fingerprint}
            assert all(item in before and item[0] not in damaged for item in after), (path.name, position)
        else:
            assert path.name in ("manifest.json", "provenance.json"), (path.name, position)
            assert after == before, (path.name, position)
        results[path.name, "found" if damaged else "harmless"] += 1
        path.write_bytes(whole)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert taken(store) == before
    return results


@pytest.mark.parametrize(
    "n", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])], ids=["some", "many"]
)
def test_each_flipped_bit_is_found_or_harmless(tmp_path: Path, n: int) -> None:
    results = flip_bits(tmp_path, n, seed=1)
    assert results.total() == n
    names = {name for name, _ in results}
    assert len(names) == 13
    assert {name for name in names if not results[name, "found"]} == {"provenance.json"}
    assert {name for name in names if results[name, "harmless"]} <= {"provenance.json", "manifest.json"}
