"""Data sets of the Hugging Face hub, or of a folder, through the `datasets` library, streamed shard by shard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .config import LOCAL_BUILDERS, SourceConfig
from .found import Found
from .text_files import text_record


def open_dataset(source: SourceConfig, data_files: list[str]) -> Any:
    """Returns the split as a `datasets.IterableDataset`, with the columns that are read; nothing is downloaded whole.

    Raises ValueError for what the recipe has wrong, ConnectionError when the hub does not answer.
    """
    import datasets

    options: dict[str, Any] = {"split": source.split, "streaming": True}
    if source.dataset in LOCAL_BUILDERS:
        options["data_files"] = data_files
    elif source.is_on_hub:
        options["revision"] = source.revision
    try:
        found = datasets.load_dataset(source.dataset, source.config_name, **options)
    except ConnectionError:
        raise
    except (ValueError, FileNotFoundError) as error:  # what `datasets` raises for an unknown data set, split or file
        raise ValueError(f"{source.name}: dataset {source.dataset!r}: {error}") from error
    names = found.column_names
    if names is not None:
        source.require_fields(names, f"data set {source.dataset}")
        found = found.select_columns(list(source.fields))
    return found


def n_shards(source: SourceConfig, data_files: list[str]) -> int:
    """Returns the number of parts in which the split comes: its files, as a rule."""
    return int(open_dataset(source, data_files).num_shards)


def read_dataset(source: SourceConfig, data_files: list[str], shard: int | None) -> Iterator[Found]:
    """Yields the texts of one shard (None: of all, one after the other) in order; reasons as in `text_record`.

    Raises OSError where the library cannot read on: it says nothing of where the next sound record would be.
    """
    found = open_dataset(source, data_files)
    label = source.split
    if shard is not None and found.num_shards > 1:
        found, label = found.shard(num_shards=found.num_shards, index=shard), f"{source.split}/{shard}"
    row = -1
    try:
        for row, values in enumerate(found):
            yield text_record(values, label, f"row {row}", source)
    except Exception as error:  # `datasets` lets through whatever its readers raise
        kind = ConnectionError if _is_network(error) else OSError
        raise kind(
            f"{source.name}: data set {source.dataset}, {label}, cannot be read after row {row}: {error}. "
            "Its files can be read with kind parquet or jsonl, which leave out what is damaged"
        ) from error


def _is_network(error: Exception) -> bool:
    packages = ("aiohttp", "httpcore", "httpx", "huggingface_hub", "requests", "urllib3")
    return isinstance(error, ConnectionError) or type(error).__module__.startswith(packages)
