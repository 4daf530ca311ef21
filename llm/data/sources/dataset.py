"""Data sets of the Hugging Face hub, or of a folder, through the `datasets` library, streamed shard by shard."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from ..common.credential import hub_errors, opened
from .config import LOCAL_BUILDERS, SourceConfig
from .found import Found
from .text_files import text_record


def open_dataset(source: SourceConfig, data_files: list[str]) -> Any:
    """Returns the split as a `datasets.IterableDataset`, with the columns that are read; nothing is downloaded whole.

    Raises ValueError for what the recipe has wrong, ConnectionError when the hub does not answer.
    """
    import datasets

    access = opened(source.credential)
    options: dict[str, Any] = {"split": source.split, "streaming": True, "token": access.token}
    if source.dataset in LOCAL_BUILDERS:
        options["data_files"] = data_files
    elif source.is_on_hub:
        options["revision"] = source.revision
    with hub_errors(f"{source.name}: dataset {source.dataset!r}", access):
        found = datasets.load_dataset(source.dataset, source.config_name, **options)
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
    what = f"{source.name}: data set {source.dataset}, {label}, cannot be read to its end"
    remedy = ". Its files can be read with kind parquet or jsonl, which leave out what is damaged"
    rows = iter(found)
    for number in itertools.count():
        with hub_errors(what, opened(source.credential), remedy):
            values = next(rows, None)
        if values is None:
            return
        yield text_record(values, label, f"row {number}", source)
