"""Documents to packed token sequences, in Parquet.

A row has `context_length + 1` tokens: the inputs and, shifted by one, the targets. No token is lost or repeated; where
each goes is decided in `best_fit.py`. Every row begins with `<|document|>`, so every token of a document is a target
once, and a model finds at its first position in use what it found there in training. Pads stand only at the end of a
partition's last row (or, where sources are kept apart, of each source's last).

A document that goes on in another row begins there after a `<|document|>` too. What follows is learned like all else,
though no document begins so: to leave it out would give rows different numbers of targets, and passes of one shape
are what a GPU is fast at. All that a model learns wrongly is which token comes after a lone `<|document|>`; held-out
bits per byte are the same either way (2.308 and 2.308, 2.286 and 2.285 in two pairs of runs).

Tokens are one fixed-size binary a row: against lists of integers 4 times faster to read and 15 % smaller (Parquet
stores 16-bit integers in 32).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...config import Config, setting
from ...counts import Counts
from ...files import atomic_path, read_table, sha256_file, write_json
from ...tokenizer.tokenizer import TOKENIZER_FILE, Tokenizer, batched
from .best_fit import Piece, best_fit

# On 2 MB of 32,768 kinds of tokens from documentation, rows of 257: zstd level 6 takes 1.14 bytes per token, 9 1.14,
# 16 1.11, 17 1.04, 19 1.04, and writes 26, 20, 3.5, 2.9 and 1.6 M tokens/s; the bytes of each place in the tokens apart
# (BYTE_STREAM_SPLIT, or two columns) takes 10 to 25 % more, for repeated words are then found twice.
PARQUET_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 17,
    "use_dictionary": ["document_ids.list.element", "source"],
    "write_statistics": ["source"],
    "write_page_checksum": True,
}
ROW_GROUP_ROWS = 1024
SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class ShardConfig(Config):
    """How documents become sequences."""

    context_length: int = setting(256, at_least=2)
    """Tokens that the model sees at once; a stored sequence has one more, the last target."""
    keep_sources_apart: bool = False
    """Whether a sequence holds documents of one source only, so that pretrain.mixture can draw sources by weight; each
    source then has one sequence in a partition that is not full."""


@dataclass(frozen=True)
class Shard:
    """The sequences of one file.

    `tokens`: uint16 or uint32 `(n_sequences, context_length + 1)`. `n_tokens`: int32 `(n_sequences,)`, how many of
    them are no pads. For each sequence the pieces of documents in it: `document_ids`; `offsets`, where in the row the
    `<|document|>` of each stands; `starts`, at which of its document's tokens the piece begins, 0 for the beginning.
    `sources`: the source of a sequence's documents, None where sources are not kept apart.
    """

    tokens: np.ndarray
    n_tokens: np.ndarray
    document_ids: list[list[str]]
    offsets: list[list[int]]
    starts: list[list[int]]
    sources: list[str | None]


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """Returns the little-endian type in which token ids are stored: uint16, or uint32 when the vocabulary needs it."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def pack_partition(documents: Path, tokenizer_dir: Path, out_dir: Path, config: ShardConfig) -> Counts:
    """Packs one `documents-*.parquet` into `train.parquet` and `val.parquet` (held-out documents; may be empty).

    The counts are of documents; the figures say tokens, sequences and UTF-8 bytes of text of both files.
    """
    tokenizer = Tokenizer.load(tokenizer_dir)
    metadata = _shard_metadata(tokenizer, tokenizer_dir, config)
    columns = ["id", "text", "held_out"] + ["source"] * config.keep_sources_apart
    table = read_table(documents, columns)
    held_out = table["held_out"].to_numpy()
    figures: dict[str, float] = {}
    for split, chosen in zip(SPLITS, (~held_out, held_out), strict=True):
        part = table.filter(pa.array(chosen))
        ids, texts = part["id"].to_pylist(), part["text"].to_pylist()
        sources = part["source"].to_pylist() if config.keep_sources_apart else [None] * len(part)
        shard = pack_documents(ids, _encode(tokenizer, texts), sources, tokenizer=tokenizer, config=config)
        write_shard(out_dir / f"{split}.parquet", shard, metadata)
        figures[f"n_{split}_tokens"] = int(shard.n_tokens.sum())
        figures[f"n_{split}_sequences"] = len(shard.tokens)
        figures[f"n_{split}_bytes"] = sum(len(text.encode()) for text in texts)
    return Counts("documents", len(table), len(table), {}, figures)


def finish_shards(out_dir: Path, tokenizer_dir: Path, config: ShardConfig, counts: Counts) -> None:
    """Writes `shards.json`: the totals of all partitions, whose summed counts are `counts`, and each file's hash.

    Raises ValueError when the training documents do not fill one sequence or no document is held out.
    """
    figures = {name: int(value) for name, value in counts.figures.items()}
    needed = config.context_length + 1
    if counts.n_in == 1:
        raise ValueError(
            "there is one document, so there cannot be one to train on and one to evaluate with: add documents; a text "
            "file is one unless a separator stands between its documents: for blank lines 'ingest.sources.0.separator="
            '"\\n\\n"\', both kinds of quotes included'
        )
    if not figures["n_val_sequences"] or not figures["n_train_tokens"]:
        missing, change = ("training", "smaller") if figures["n_val_sequences"] else ("evaluation", "larger")
        raise ValueError(
            f"none of the {counts.n_in} documents is for {missing}: add documents or set a {change} "
            "clean.held_out_fraction"
        )
    if figures["n_train_tokens"] < needed:
        raise ValueError(
            f"shard.context_length is {config.context_length}: one sequence needs {needed} tokens, but the training "
            f"documents have only {figures['n_train_tokens']}; add documents or set a smaller shard.context_length"
        )
    metadata = _shard_metadata(Tokenizer.load(tokenizer_dir), tokenizer_dir, config)
    numbers = {"context_length": int(metadata["context_length"]), "vocab_size": int(metadata["vocab_size"])}
    files = [path for split in SPLITS for path in sorted(out_dir.glob(f"{split}-*.parquet"))]
    hashes = {"files": {path.name: sha256_file(path) for path in files}}
    write_json(out_dir / "shards.json", metadata | numbers | figures | hashes)


def pack_documents(
    ids: Sequence[str],
    tokens: Sequence[np.ndarray],
    sources: Sequence[str | None],
    *,
    tokenizer: Tokenizer,
    config: ShardConfig,
) -> Shard:
    """Packs documents, given as ids, token arrays without `<|document|>`, and sources that are kept apart, or None."""
    width = config.context_length + 1
    pieces: list[Piece] = []
    row_sources: list[str | None] = []
    for source, chosen in sorted(_by_source(sources).items(), key=lambda item: str(item[0])):
        placed = best_fit([len(tokens[i]) for i in chosen], width)
        first_row = len(row_sources)
        pieces += [piece._replace(document=chosen[piece.document], row=first_row + piece.row) for piece in placed]
        row_sources += [source] * (placed[-1].row + 1)
    rows = np.full((len(row_sources), width), tokenizer.pad_token, token_dtype(tokenizer.vocab_size))
    shard = Shard(
        tokens=rows,
        n_tokens=np.zeros(len(rows), np.int32),
        document_ids=[[] for _ in rows],
        offsets=[[] for _ in rows],
        starts=[[] for _ in rows],
        sources=row_sources,
    )
    for document, start, n_tokens, row, offset in pieces:
        end = offset + 1 + n_tokens
        rows[row, offset] = tokenizer.document_token
        rows[row, offset + 1 : end] = tokens[document][start : start + n_tokens]
        shard.n_tokens[row] = end
        shard.document_ids[row].append(ids[document])
        shard.offsets[row].append(offset)
        shard.starts[row].append(start)
    return shard


def _by_source(sources: Sequence[str | None]) -> dict[str | None, list[int]]:
    """Returns the indices of each source's documents."""
    indices: dict[str | None, list[int]] = {}
    for index, source in enumerate(sources):
        indices.setdefault(source, []).append(index)
    return indices


def write_shard(path: Path, shard: Shard, metadata: dict[str, str]) -> None:
    """Writes one shard file; `metadata` goes into the Parquet schema. Each row group holds rows of one source."""
    n_rows, width = shard.tokens.shape
    n_bytes = width * shard.tokens.itemsize
    schema = pa.schema(
        [
            ("tokens", pa.binary(n_bytes)),
            ("n_tokens", pa.int32()),
            ("document_ids", pa.list_(pa.string())),
            ("offsets", pa.list_(pa.int32())),
            ("starts", pa.list_(pa.int32())),
            ("source", pa.string()),
        ],
        metadata=metadata,
    )
    tokens = pa.Array.from_buffers(pa.binary(n_bytes), n_rows, [None, pa.py_buffer(shard.tokens.tobytes())])
    columns = [tokens, pa.array(shard.n_tokens), shard.document_ids, shard.offsets, shard.starts, shard.sources]
    table = pa.table(columns, schema=schema)
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, **PARQUET_OPTIONS) as writer:
        first = 0
        for _, run in itertools.groupby(shard.sources):
            n_run = len(list(run))
            writer.write_table(table.slice(first, n_run), row_group_size=ROW_GROUP_ROWS)
            first += n_run


def read_shard(path: Path) -> Shard:
    """Returns the sequences of one shard file."""
    table = read_table(path)
    dtype = np.dtype(table.schema.metadata[b"dtype"].decode()).newbyteorder("<")
    width = table.schema.field("tokens").type.byte_width // dtype.itemsize
    rows = b"".join(table["tokens"].to_pylist())
    return Shard(
        np.frombuffer(rows, dtype).reshape(len(table), width),
        table["n_tokens"].to_numpy(),
        *(table[name].to_pylist() for name in ("document_ids", "offsets", "starts", "source")),
    )


def documents_in(shard: Shard, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    """Yields the id and text of every document of a shard, put together again from its pieces, by their first row."""
    pieces: dict[str, list[tuple[int, np.ndarray]]] = {}
    columns = (shard.tokens, shard.n_tokens, shard.document_ids, shard.offsets, shard.starts)
    for row, n_tokens, ids, offsets, starts in zip(*columns, strict=True):
        stops = [*offsets[1:], n_tokens]
        for document_id, start, offset, stop in zip(ids, starts, offsets, stops, strict=True):
            pieces.setdefault(document_id, []).append((start, row[offset + 1 : stop]))
    for document_id, found in pieces.items():
        found.sort(key=lambda piece: piece[0])
        yield document_id, tokenizer.decode(np.concatenate([tokens for _, tokens in found]).tolist())


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the tokens of each text, in the type they are stored in."""
    dtype = token_dtype(tokenizer.vocab_size)
    return [row.astype(dtype) for batch in batched(texts) for row in tokenizer.encode_arrays(batch)]


def _shard_metadata(tokenizer: Tokenizer, tokenizer_dir: Path, config: ShardConfig) -> dict[str, str]:
    return {
        "context_length": str(config.context_length),
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "vocab_size": str(tokenizer.vocab_size),
        "tokenizer_sha256": sha256_file(tokenizer_dir / TOKENIZER_FILE),
    }
