"""One build of a stage that turns documents into documents, on real files, as the pipeline builds it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from llm.counts import Counts
from llm.documents import Document, documents_table
from llm.files import read_table, sha256_file, write_table
from tasks.core.build import Build
from tasks.core.engine import EngineConfig
from tasks.core.stage import Stage


def prose(n_words: int, seed: object) -> str:
    """Made-up words, the same for a seed."""
    rng = random.Random(str(seed))
    return " ".join(f"w{rng.randrange(3_000)}" for _ in range(n_words))


class StageRun:
    """A build of `stage` over documents cut into files: its counts and what is in its files."""

    def __init__(
        self, stage: Stage, documents: Sequence[Document], root: Path, config: Any, n_files: int = 2, **engine: Any
    ) -> None:
        (root / "in").mkdir(parents=True)
        (root / "out").mkdir()
        for i, rows in enumerate(np.array_split(np.arange(len(documents)), n_files)):
            table = documents_table([documents[row] for row in rows])
            write_table(root / "in" / f"documents-{i:05d}.parquet", table)
        build = Build(root / "out", root / "work", EngineConfig(**{"n_workers": 1, **engine}), lambda *_: None)
        self.counts: Counts = stage.__wrapped__(build, SimpleNamespace(path=root / "in"), config=config)
        self.out = root / "out"

    def rows(self, pattern: str) -> list[dict[str, Any]]:
        """The rows of the Parquet files whose names match."""
        return [row for path in sorted(self.out.glob(pattern)) for row in read_table(path).to_pylist()]

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file, by name."""
        return {path.name: sha256_file(path) for path in self.out.iterdir()}
