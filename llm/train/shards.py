"""Packed shards as sequences: held in memory when they fit, else read a row group at a time."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import read_json, sha256_file
from ..tokenizer.tokenizer import TOKENIZER_FILE
from .loader import Batch, Sequences, batch_of
from .order import Epochs, Order, mixture

SHARDS_FILE = "shards.json"
IN_MEMORY_BYTES = 1 << 31
"""Sequences up to this size, a billion tokens of 16 bits, are held in memory by each process; more are streamed."""


@dataclass(frozen=True)
class RowGroup:
    """Rows of a shard file that are read together."""

    path: Path
    number: int
    """Its index in the file."""
    n_rows: int
    source: str | None
    """Where all its documents come from; None: the shards do not keep sources apart."""


class PackedSequences(Sequences):
    """The rows of some row groups, one after the other; every token is learned."""

    def __init__(
        self,
        groups: Sequence[RowGroup],
        width: int,
        *,
        dtype: np.dtype[np.unsignedinteger],
        order: Order,
        in_memory: bool,
    ) -> None:
        """Rows of `width` tokens stored as `dtype`. `order` is the stream that training reads.

        `in_memory` reads all of them at first use and keeps them; else the row groups in use are kept.
        """
        self.width, self.dtype, self.order = width, dtype, order
        self._blocks = [list(groups)] if in_memory else [[group] for group in groups]
        sizes = [sum(group.n_rows for group in block) for block in self._blocks]
        self._starts = np.cumsum([0, *sizes])  # the last one is the number of rows
        self._block = functools.lru_cache(maxsize=order.n_groups_open)(self._read)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Returns the tokens in each of the rows."""
        return self._gather(rows, 1)

    def batch(self, rows: np.ndarray) -> Batch:
        """Returns the rows, padded to the longest of them. Raises OSError when a shard cannot be read."""
        tokens, lengths = self._gather(rows, 0), self._gather(rows, 1)
        if lengths.min() == self.width:
            return batch_of(tokens)
        width = max(2, int(lengths.max()))
        return batch_of(tokens[:, :width], np.arange(width) < lengths[:, None])

    def _gather(self, rows: np.ndarray, column: int) -> np.ndarray:
        """Returns column 0, the tokens, or 1, how many of them are no pads, of each of the rows."""
        if len(self._blocks) == 1:
            return self._block(0)[column][rows]
        blocks = np.searchsorted(self._starts, rows, side="right") - 1
        found = np.empty((len(rows), self.width), self.dtype) if column == 0 else np.empty(len(rows), np.int32)
        indices = rows - self._starts[blocks]
        for i, (block, index) in enumerate(zip(blocks.tolist(), indices.tolist(), strict=True)):
            found[i] = self._block(block)[column][index]
        return found

    def _read(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the tokens of a block, (rows, width), and how many of them are no pads, (rows,)."""
        n_rows = int(self._starts[block + 1] - self._starts[block])
        tokens, lengths = np.empty((n_rows, self.width), self.dtype), np.empty(n_rows, np.int32)
        row = 0
        for group in self._blocks[block]:
            rows = slice(row, row + group.n_rows)
            tokens[rows], lengths[rows] = read_row_group(group, self.dtype)
            row += group.n_rows
        return tokens, lengths


def read_row_group(group: RowGroup, dtype: np.dtype[np.unsignedinteger]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens of a row group, (rows, width), and how many of them are no pads, (rows,).

    Raises OSError that names the file when a page's checksum does not match.
    """
    try:
        with pq.ParquetFile(group.path, page_checksum_verification=True) as file:
            table = file.read_row_group(group.number, columns=["tokens", "n_tokens"], use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(group.path, error) from error
    rows = table["tokens"].combine_chunks()
    n_bytes = rows.type.byte_width
    flat = np.frombuffer(rows.buffers()[1], np.uint8)[rows.offset * n_bytes :][: len(rows) * n_bytes]
    return flat.view(dtype).reshape(len(rows), n_bytes // dtype.itemsize), table["n_tokens"].to_numpy()


@dataclass(frozen=True)
class Shards:
    """Packed sequences of a corpus, for training and held out."""

    train: PackedSequences
    val: PackedSequences
    context_length: int
    vocab_size: int
    digest: str
    """Hash of the shard files' content."""


def read_shards(
    directory: Path,
    tokenizer_dir: Path,
    weights: Mapping[str, float] | None = None,
    *,
    in_memory_bytes: int = IN_MEMORY_BYTES,
) -> Shards:
    """Returns the shards of a directory, each file checked against its hash in `shards.json`.

    `weights` says how much of each source is trained on, of shards that keep sources apart. Raises ValueError when
    there is nothing to train on or to measure on, when they were made with another tokenizer, or for an unknown source;
    OSError that names the file for a damaged one.
    """
    form = _form(directory)
    if form["tokenizer_sha256"] != sha256_file(tokenizer_dir / TOKENIZER_FILE):
        raise ValueError("the shards were made with another tokenizer than the one given; build the shards again")
    for split, name in (("train", "training"), ("val", "held-out")):
        if form[f"n_{split}_tokens"] <= form[f"n_{split}_sequences"]:  # one token alone predicts nothing
            raise ValueError(
                f"the shards hold no {name} sequence: add documents, or make context_length "
                f"({form['context_length']} tokens) or the held-out share fit the corpus"
            )
    digest = _verified_digest(directory, form["files"])
    width, dtype = form["context_length"] + 1, np.dtype(form["dtype"]).newbyteorder("<")
    parts = {}
    for split, chosen in (("train", weights), ("val", None)):
        groups = [group for name in form["files"] if name.startswith(split) for group in _row_groups(directory / name)]
        in_memory = sum(group.n_rows for group in groups) * width * dtype.itemsize <= in_memory_bytes
        order = _order(groups, chosen)
        parts[split] = PackedSequences(groups, width, dtype=dtype, order=order, in_memory=in_memory)
    return Shards(**parts, context_length=form["context_length"], vocab_size=form["vocab_size"], digest=digest)


def _form(directory: Path) -> dict[str, Any]:
    """Returns what `shards.json` says."""
    if not (directory / SHARDS_FILE).exists():
        raise ValueError(f"{directory} holds no {SHARDS_FILE}; build the shards first")
    form: dict[str, Any] = read_json(directory / SHARDS_FILE)
    if "files" not in form:
        raise ValueError(f"{directory / SHARDS_FILE} names no files; build the shards again")
    return form


def _verified_digest(directory: Path, files: Mapping[str, str]) -> str:
    """Returns one hash of the content of all files; raises OSError that names the first damaged one."""
    for name, expected in files.items():
        if sha256_file(directory / name) != expected:
            raise OSError(f"{directory / name} is damaged: its SHA-256 is not the one in {SHARDS_FILE}; build it again")
    return hashlib.sha256("".join(files.values()).encode()).hexdigest()


def _row_groups(path: Path) -> list[RowGroup]:
    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error
    source = metadata.schema.names.index("source")
    groups = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        statistics = group.column(source).statistics
        groups.append(RowGroup(path, number, group.num_rows, statistics.min if statistics.has_min_max else None))
    return [group for group in groups if group.n_rows]


def _order(groups: Sequence[RowGroup], weights: Mapping[str, float] | None) -> Order:
    sizes = np.array([group.n_rows for group in groups], np.int64)
    starts = np.cumsum(sizes) - sizes
    if weights is None:
        return Epochs(starts, sizes)
    if any(group.source is None for group in groups):
        raise ValueError("pretrain.mixture is set, but the shards mix sources; set shard.keep_sources_apart: true")
    sources = np.array([group.source for group in groups])
    names = sorted(set(sources.tolist()))
    return mixture({name: Epochs(starts[sources == name], sizes[sources == name]) for name in names}, weights)


def _damaged(path: Path, error: Exception) -> OSError:
    return OSError(f"{path} is damaged ({error}); build the shards again")
