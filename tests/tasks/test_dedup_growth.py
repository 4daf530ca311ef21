"""The dedup stage takes the memory of a partition and the time of a document, however many there are."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest

from llm.data.common import keyed
from llm.data.dedup import steps as dedup_steps
from llm.data.dedup.dedup import DedupConfig
from llm.documents import Document, document_id, documents_table
from llm.files import write_table
from tasks.core.build import Build
from tasks.core.engine import EngineConfig
from tasks.core.workspace import REPOSITORY
from tasks.dedup import dedup

FILE_DOCUMENTS = 250


def make_documents(folder: Path, n: int) -> None:
    """Files of short documents, every tenth with a near duplicate in another file."""
    folder.mkdir(parents=True)
    for start in range(0, n, FILE_DOCUMENTS):
        rows = []
        for i in range(start, start + FILE_DOCUMENTS):
            rng = random.Random(i if i % 10 else (i * 7 + 1) % n)
            text = " ".join(f"w{rng.randrange(5_000)}" for _ in range(60)) + (" more" if i % 10 == 0 else "")
            url = f"https://site/{i:07d}"
            rows.append(Document(document_id(url, text), url, "", text, "en", len(text), False, "site"))
        write_table(folder / f"documents-{start // FILE_DOCUMENTS:05d}.parquet", documents_table(rows))


def peak_bytes(root: Path, n: int) -> int:
    """The most that Python and numpy held while the stage ran over `n` documents."""
    make_documents(root / "in", n)
    (root / "out").mkdir()
    build = Build(root / "out", root / "work", EngineConfig(n_workers=1), lambda *_: None)
    tracemalloc.start()
    try:
        counts = dedup.__wrapped__(build, SimpleNamespace(path=root / "in"), config=DedupConfig())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert counts.dropped["near duplicate"] > n // 20
    return peak


def test_memory_is_that_of_a_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed, "RANGE_ENTRIES", 2_000)
    monkeypatch.setattr(dedup_steps, "RANGE_ENTRIES", 2_000)
    peak_bytes(tmp_path / "warm", 250)
    few, many = (peak_bytes(tmp_path / str(n), n) for n in (500, 2_500))
    # A signature alone is 512 bytes, the shingles are 224, the text 350: held for all documents they would be seen.
    assert (many - few) / 2_000 < 500


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_time_and_memory_of_a_hundred_thousand_documents(tmp_path: Path) -> None:
    runs = {}
    for n in (10_000, 100_000):
        command = [sys.executable, "-m", "benchmarks.dedup_growth", "--data", tmp_path, "--documents", str(n), "--json"]
        result = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
        runs[n] = json.loads(result.stdout)
    few, many = runs[10_000], runs[100_000]
    assert many["seconds"] / 100_000 < 1.2 * few["seconds"] / 10_000
    assert many["peak_mb"] < 1.2 * few["peak_mb"]
