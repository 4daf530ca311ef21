"""Runs the ingest stage's functions one after the other, and reads the artifact back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llm.counts import Counts
from llm.data.clean.clean import record_slices
from llm.data.common.texts import TextRecord
from llm.data.common.warc_read import WebPage
from llm.data.sources.config import SourceConfig
from llm.data.sources.ingest import IngestConfig, ingest_partition, plan, put_together


def ingested(
    folder: Path, *sources: SourceConfig, downloads: Path | None = None, snapshot: str = "1"
) -> tuple[Path, Counts]:
    """The artifact of some sources, made in `folder`, and the summed counts."""
    config = IngestConfig(sources=sources, snapshot=snapshot)
    downloads = downloads or folder / "downloads"
    folders, counts = [], []
    for number, item in enumerate(plan(config, downloads)):
        out_dir = folder / "parts" / f"{number:05d}"
        out_dir.mkdir(parents=True)
        counts.append(ingest_partition(item, downloads, out_dir=out_dir, config=config))
        folders.append(out_dir)
    artifact = folder / "artifact"
    artifact.mkdir(parents=True)
    put_together(folders, artifact, config, os.link)
    return artifact, Counts.total(counts)


def records_of(artifact: Path) -> list[Any]:
    """All records, as the clean stage reads them."""
    return [record for part in record_slices(artifact, 7) for record in part.read()]


def pages_of(artifact: Path) -> dict[str, bytes]:
    """The pages by URL, in order."""
    return {record.url: record.body for record in records_of(artifact) if isinstance(record, WebPage)}


def texts_of(artifact: Path) -> list[TextRecord]:
    """The texts in order."""
    return [record for record in records_of(artifact) if isinstance(record, TextRecord)]


def skipped_of(artifact: Path) -> list[dict[str, Any]]:
    """The rows of `skipped.parquet`."""
    return pq.read_table(artifact / "skipped.parquet").to_pylist()


def content_of(artifact: Path) -> dict[str, bytes]:
    """All files of an artifact by name."""
    return {path.name: path.read_bytes() for path in sorted(artifact.iterdir())}
