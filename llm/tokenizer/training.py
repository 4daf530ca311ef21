"""The tokenizer stage: a vocabulary made from documents, or a published one that is measured on them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ..config import Config, setting
from ..counts import Counts
from ..documents import document_files
from ..files import read_table, write_json
from .tokenizer import MIN_VOCAB_SIZE, Tokenizer, batched

REPORT_FILE = "report.json"


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Config):
    """How the tokenizer is trained, or which published one is taken over."""

    start_from: str | None = setting(None, optional=True)
    """Directory with the tokenizer.json of a published model (byte-level BPE, as GPT-2 and Qwen3 have it), which is
    taken over instead of training one; special tokens for chats are added. Empty: pretrain.start_from."""
    vocab_size: int = setting(4096, at_least=MIN_VOCAB_SIZE)
    """Number of tokens, of which 262 are the special tokens and the bytes; with start_from that tokenizer's own."""

    max_train_bytes: int | None = setting(None, at_least=1)
    """Train on at most so many UTF-8 bytes of text: whole documents, drawn evenly by their id. Empty: on all."""


def train_tokenizer(
    documents_dir: Path, out_dir: Path, config: TokenizerConfig, published: Tokenizer | None = None
) -> Counts:
    """Trains on the documents that are not held out; writes the tokenizer and `report.json`, returns the counts.

    With `published`, the tokenizer of `config.start_from`, it is measured on these documents instead of trained.
    `n_out` is the number of documents trained on; figure `bytes_per_token` is that of held-out text (absent when there
    is none), `n_bytes` the text trained on. Raises ValueError when there is too little text.
    """
    files = document_files(documents_dir)
    index = _document_index(files)
    chosen = _training_documents(index, config.max_train_bytes)
    if not chosen:
        raise ValueError(
            f"no document to train the tokenizer on: {len(index)} documents, all held out or over "
            f"max_train_bytes ({config.max_train_bytes}); add documents or raise max_train_bytes"
        )
    tokenizer = published or Tokenizer.train(_texts(files, chosen), config.vocab_size)
    tokenizer.save(out_dir)
    held_out = {row.id for row in index if row.held_out}
    report = _report(tokenizer, _texts(files, chosen), _texts(files, held_out))
    write_json(out_dir / REPORT_FILE, report)
    n_over = len(index) - len(held_out) - len(chosen)
    dropped = {"held out": len(held_out), "over the byte budget": n_over}
    figures = {"vocab_size": tokenizer.vocab_size, "n_bytes": report["train"]["n_bytes"]}
    if report["held_out"]["n_tokens"]:
        figures["bytes_per_token"] = report["held_out"]["bytes_per_token"]
    return Counts("documents", len(index), len(chosen), {name: n for name, n in dropped.items() if n}, figures)


@dataclass(frozen=True)
class _DocumentSize:
    id: str
    n_bytes: int
    held_out: bool


def _document_index(files: Sequence[Path]) -> list[_DocumentSize]:
    rows = []
    for path in files:
        table = read_table(path, ["id", "text", "held_out"])
        columns = (table["id"], pc.binary_length(table["text"]), table["held_out"])
        rows += [_DocumentSize(*row) for row in zip(*(column.to_pylist() for column in columns), strict=True)]
    return rows


def _training_documents(index: Sequence[_DocumentSize], max_bytes: int | None) -> set[str]:
    """Ids of the documents to train on. Ids are hashes, so the first ones in their order are an even sample."""
    rows = sorted((row for row in index if not row.held_out), key=lambda row: row.id)
    totals = itertools.accumulate(row.n_bytes for row in rows)
    return {row.id for row, total in zip(rows, totals, strict=True) if max_bytes is None or total <= max_bytes}


def _texts(files: Sequence[Path], ids: set[str]) -> Iterator[str]:
    for path in files:
        table = read_table(path, ["id", "text"])
        for document_id, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
            if document_id in ids:
                yield text


def _report(tokenizer: Tokenizer, train: Iterable[str], held_out: Iterable[str]) -> dict[str, Any]:
    """Bytes per token on both parts of the corpus; the longest tokens, and those that the training text uses least."""
    counts, n_bytes = _count_tokens(tokenizer, train)
    held_out_counts, held_out_n_bytes = _count_tokens(tokenizer, held_out)
    merged = np.arange(MIN_VOCAB_SIZE, tokenizer.vocab_size)
    lengths = tokenizer.token_n_bytes()
    by_length = merged[np.argsort(-lengths[merged], kind="stable")]
    by_count = merged[np.argsort(counts[merged], kind="stable")]

    def rows(ids: np.ndarray) -> list[dict[str, Any]]:
        return [
            {"id": int(i), "text": tokenizer.decode([int(i)]), "n_bytes": int(lengths[i]), "count": int(counts[i])}
            for i in ids[:20]
        ]

    return {
        "vocab_size": tokenizer.vocab_size,
        "train": _bytes_per_token(counts, n_bytes),
        "held_out": _bytes_per_token(held_out_counts, held_out_n_bytes),
        "longest_tokens": rows(by_length),
        "rarest_tokens": rows(by_count),
    }


def _bytes_per_token(counts: np.ndarray, n_bytes: int) -> dict[str, Any]:
    n_tokens = int(counts.sum())
    return {"n_bytes": n_bytes, "n_tokens": n_tokens, "bytes_per_token": n_bytes / n_tokens if n_tokens else None}


def _count_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[np.ndarray, int]:
    """How often each token occurs in the texts, int64 `(vocab_size,)`, and the texts' UTF-8 bytes."""
    counts, n_bytes = np.zeros(tokenizer.vocab_size, np.int64), 0
    for batch in batched(texts):
        counts += np.bincount(np.concatenate(tokenizer.encode_arrays(batch)), minlength=tokenizer.vocab_size)
        n_bytes += sum(len(text.encode()) for text in batch)
    return counts, n_bytes
