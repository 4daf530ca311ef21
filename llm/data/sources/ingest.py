"""Ingest: pages and texts out of archives, data sets and files, in the form that the clean stage reads.

What cannot be used is counted and named, file and place; the rest is used. A partition is a group of files; their order
is fixed.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...config import Config, setting
from ...counts import Counts
from ...files import sha256_file
from ..common.credential import Access, opened
from .config import SourceConfig
from .found import Found, Skipped
from .ingested import PartitionWriter, gather, require_records
from .locate import SourceFile, local_path, source_files

PARTITION_BYTES = 64 * 2**20
PARTITION_FILES = 1_000
"""Small files are read together, up to so many bytes or files a partition."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig(Config):
    """What to read instead of a crawl: one source or several, of different kinds."""

    sources: tuple[SourceConfig, ...]
    """The sources, in the order in which their records come."""

    snapshot: str = setting("1", name="-_.")
    """Name for what the world may change: a new name fetches everything again; the old artifact stays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [source.name for source in self.sources]
        if not names:
            raise ValueError("sources is empty; give at least one source, with name, kind and where it lies")
        if len(set(names)) < len(names):
            raise ValueError(f"sources have the names {names}; each must differ")


@dataclass(frozen=True)
class Item:
    """The input of one partition: some files of a source, or a shard of a data set (None: all of it, in order)."""

    source: SourceConfig
    files: tuple[SourceFile, ...] = ()
    shard: int | None = None


def download_dir(config: IngestConfig, downloads: Path) -> Path:
    """Returns the folder, within `downloads`, that keeps what this config has fetched."""
    return downloads / "ingest" / config.snapshot


def plan(config: IngestConfig, downloads: Path) -> list[Item]:
    """Returns the partitions, always the same for the same config and files.

    Fetches path lists and indexes. Raises ValueError where a source has no files.
    """
    folder = download_dir(config, downloads)
    return [item for source in config.sources for item in _items(source, folder)]


def _items(source: SourceConfig, downloads: Path) -> Iterator[Item]:
    if source.kind == "common-crawl":
        from .common_crawl import listed_files

        files = listed_files(source, downloads)
    else:
        files = source_files(source)
    if source.max_records is not None:
        yield Item(source, tuple(files))
    elif source.kind == "dataset":
        from .dataset import n_shards

        yield from (Item(source, tuple(files), shard) for shard in range(n_shards(source, _locations(files))))
    else:
        yield from (Item(source, group) for group in _groups(files))


def _groups(files: Iterable[SourceFile]) -> Iterator[tuple[SourceFile, ...]]:
    """Groups neighbours up to PARTITION_BYTES; a file of unknown size, which must be fetched, stands alone."""
    group: list[SourceFile] = []
    n_bytes = 0
    for file in files:
        size = PARTITION_BYTES if file.n_bytes is None else file.n_bytes
        if group and (n_bytes + size > PARTITION_BYTES or len(group) == PARTITION_FILES):
            yield tuple(group)
            group, n_bytes = [], 0
        group.append(file)
        n_bytes += size
    if group:
        yield tuple(group)


def _locations(files: Iterable[SourceFile]) -> list[str]:
    return [file.location for file in files]


def ingest_partition(item: Item, downloads: Path, out_dir: Path, config: IngestConfig) -> Counts:
    """Writes the records of some files, what was skipped, and the totals of each file; see `PartitionWriter`.

    Counts records: those used, and those skipped by reason. Raises ValueError for what the recipe has wrong,
    ConnectionError when a file cannot be fetched.
    """
    folder = download_dir(config, downloads)
    with PartitionWriter(out_dir, item.source.name) as writer:
        if item.source.kind == "dataset":
            _read_dataset(item, writer)
        else:
            access = opened(item.source.credential)
            for file in item.files:
                if not _is_enough(writer, item.source):
                    _read_file(file, folder, access, item.source, writer)
    return writer.counts


def _is_enough(writer: PartitionWriter, source: SourceConfig) -> bool:
    return source.max_records is not None and writer.n_used >= source.max_records


def _take(records: Iterable[Found], label: str, source: SourceConfig, writer: PartitionWriter) -> bool:
    """Writes records until there are enough; True if all were taken."""
    for found in records:
        writer.add(found, label)
        if _is_enough(writer, source):
            return False
    return True


def _read_dataset(item: Item, writer: PartitionWriter) -> None:
    from .dataset import read_dataset

    source, before = item.source, writer.totals
    label = f"{source.dataset} {source.split}" + (f" shard {item.shard}" if item.shard is not None else "")
    _take(read_dataset(source, _locations(item.files), item.shard), label, source, writer)
    writer.end_file(label, before, None, None)


def _read_file(
    file: SourceFile, downloads: Path, access: Access, source: SourceConfig, writer: PartitionWriter
) -> None:
    before = writer.totals
    if file.spans:
        _take(_records_of_spans(file, downloads, access, source), file.label, source, writer)
        writer.end_file(file.label, before, file.n_bytes, None)
        return
    path = local_path(file.location, downloads, access)
    whole = _take(_records(path, file.label, source), file.label, source, writer)
    writer.end_file(file.label, before, path.stat().st_size, sha256_file(path) if whole else None)


def _records(path: Path, label: str, source: SourceConfig) -> Iterator[Found]:
    """Yields the records of a file, by the reader of the source's kind."""
    from .tables import read_parquet
    from .text_files import read_jsonl, read_text
    from .warc_files import read_warc, read_wet

    if source.kind in ("parquet", "jsonl", "text"):
        reader = {"parquet": read_parquet, "jsonl": read_jsonl, "text": read_text}[source.kind]
        yield from reader(path, label, source)
        return
    with open(path, "rb", buffering=2**18) as file:
        yield from read_wet(file, source.name) if _is_wet(label, source) else read_warc(file)


def _records_of_spans(file: SourceFile, downloads: Path, access: Access, source: SourceConfig) -> Iterator[Found]:
    from .common_crawl import read_spans
    from .warc_files import read_warc, read_wet

    for start, content in read_spans(file, downloads, access):
        piece = io.BytesIO(content)
        is_wet = _is_wet(file.label, source)
        yield from read_wet(piece, source.name, start) if is_wet else read_warc(piece, start)
        if not content:
            yield Skipped(f"byte {start}", "cut off", "the file ends before")


def _is_wet(label: str, source: SourceConfig) -> bool:
    """Returns whether a file holds extracted texts: Common Crawl says so in the name."""
    return source.kind == "wet" or (source.kind == "common-crawl" and label.endswith((".wet", ".wet.gz")))


def put_together(folders: list[Path], out_dir: Path, config: IngestConfig) -> None:
    """Makes the artifact of the partitions' folders; raises ValueError when a source gave not what it should."""
    gather(folders, out_dir)
    require_records(out_dir, {source.name: source.n_records for source in config.sources})
