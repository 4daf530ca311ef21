"""Builds the ingest artifact of a folder of JSONL files as the stage does: `python -m tests.tasks.ingest_job`."""

from __future__ import annotations

import sys
from pathlib import Path

from llm.data.sources import ingest
from llm.data.sources.config import SourceConfig
from llm.data.sources.ingest import IngestConfig, ingest_partition, plan, put_together
from tasks.core.build import Build, place
from tasks.core.engine import EngineConfig


def main(data: Path, root: Path, n_workers: int) -> None:
    """Builds into `root/out`, keeping finished partitions in `root/work`."""
    ingest.PARTITION_FILES = 1
    config = IngestConfig(sources=(SourceConfig(name="a", kind="jsonl", paths=(str(data),)),))
    (root / "out").mkdir()
    engine = EngineConfig(n_workers=n_workers)
    build = Build(root / "out", root / "work", engine, lambda n_done, n_total, lines: None)
    folders, counts = build.each(ingest_partition, plan(config, root), root, config=config)
    put_together(folders, build.out_dir, config, place)
    sys.stdout.write(f"{counts.n_out}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
