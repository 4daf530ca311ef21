"""Token shards and chat examples as batches.

Both become the same thing: sequences of tokens, each token supervised (the model learns to predict it) or not. In
pretraining every token is; in fine-tuning what the assistant says. Which sequences a step sees is a function of seed
and step alone, so the loader has no state to save.

Letters in shapes: B sequences in a micro-batch, T tokens of the longest of them less one, N sequences.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ..files import read_table, sha256_file
from ..tokenizer import Tokenizer

IGNORED = -100
"""Target of a position that is not learned from; `cross_entropy` passes over it."""


@dataclass(frozen=True)
class Batch:
    """Inputs and the tokens that should follow each of them, `IGNORED` where nothing is learned; (B, T) int64 both."""

    inputs: Tensor
    targets: Tensor

    @property
    def n_learned(self) -> int:
        """Number of targets to learn."""
        return int((self.targets != IGNORED).sum())

    def learned(self) -> tuple[Tensor, Tensor]:
        """The targets to learn, (N,), and before them their places among the B * T positions, (N,)."""
        targets = self.targets.flatten()
        positions = (targets != IGNORED).nonzero().flatten()
        return positions, targets[positions]


@dataclass(frozen=True)
class Sequences:
    """N sequences: sequence i is `tokens[starts[i] : starts[i] + lengths[i]]`, of which `supervised` are learned."""

    tokens: np.ndarray
    """Unsigned integers, one sequence after the other."""
    starts: np.ndarray
    """(N,) int64."""
    lengths: np.ndarray
    """(N,) int64, each 2 or more."""
    supervised: np.ndarray | None = None
    """Booleans, as many as tokens; None: all. The first token of a sequence is never predicted."""

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, rows: np.ndarray) -> Batch:
        """The sequences `rows`, filled up to the longest of them."""
        width = int(self.lengths[rows].max()) - 1
        inputs = np.zeros((len(rows), width), np.int64)
        targets = np.full((len(rows), width), IGNORED, np.int64)
        for i, row in enumerate(rows):
            start, end = self.starts[row], self.starts[row] + self.lengths[row]
            inputs[i, : end - start - 1] = self.tokens[start : end - 1]
            targets[i, : end - start - 1] = self.tokens[start + 1 : end]
            if self.supervised is not None:
                targets[i, : end - start - 1][~self.supervised[start + 1 : end]] = IGNORED
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets))

    def batches(self, rows: np.ndarray, micro_batch_size: int) -> Iterator[Batch]:
        """The sequences `rows` in batches of `micro_batch_size`, shortest first, so that little is filled up."""
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        for start in range(0, len(rows), micro_batch_size):
            yield self.batch(rows[start : start + micro_batch_size])


def step_rows(n_sequences: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Which sequences step `step` learns from, (batch_size,) int64.

    Training reads one endless stream: every epoch all sequences once, in an order of its own. A step takes the next
    `batch_size` of it, so that any step can be had without those before it.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    return np.array([epoch_order(n_sequences, i // n_sequences, seed)[i % n_sequences] for i in positions])


@functools.lru_cache(maxsize=2)  # a step takes from two epochs at most, unless an epoch is shorter than a step
def epoch_order(n_sequences: int, epoch: int, seed: int) -> np.ndarray:
    """A random order of all sequences, (N,) int64.

    Sorting the raw numbers of a counter-based generator (Salmon et al. 2011) gives the same order with every numpy.
    """
    random = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(n_sequences)
    return np.argsort(random, kind="stable")


def evenly_spaced(n_sequences: int, n_chosen: int) -> np.ndarray:
    """At most `n_chosen` rows out of `n_sequences`, evenly spaced, the same each time."""
    n_chosen = min(n_chosen, n_sequences)
    return np.arange(n_chosen) * n_sequences // max(1, n_chosen)


@dataclass(frozen=True)
class Shards:
    """Packed sequences of a corpus, for training and held out."""

    train: Sequences
    val: Sequences
    context_length: int
    vocab_size: int
    digest: str
    """Hash of the shard files' content."""


def read_shards(directory: Path, tokenizer_dir: Path) -> Shards:
    """The shards `train-*.parquet` and `val-*.parquet` of a directory.

    Raises ValueError when there is nothing to train on or to measure on, or when they were made with another tokenizer.
    """
    train_files, val_files = sorted(directory.glob("train-*.parquet")), sorted(directory.glob("val-*.parquet"))
    if not train_files or not val_files:
        raise ValueError(f"{directory} holds no train-*.parquet or no val-*.parquet; build the shards first")
    form = _shard_form(train_files[0])
    for path in train_files + val_files:
        if _shard_form(path) != form:
            raise ValueError(f"{path.name} and {train_files[0].name} were not made together; build the shards again")
    if form["tokenizer_sha256"] != sha256_file(tokenizer_dir / "tokenizer.json"):
        raise ValueError("the shards were made with another tokenizer than the one given; build the shards again")
    train, val = _read_sequences(train_files, form), _read_sequences(val_files, form)
    for name, part in (("training", train), ("held-out", val)):
        if len(part) == 0:
            raise ValueError(
                f"the shards hold no {name} sequence: add documents, or make context_length "
                f"({form['context_length']} tokens) or the held-out share fit the corpus"
            )
    digest = files_digest(train_files + val_files)
    return Shards(train, val, int(form["context_length"]), int(form["vocab_size"]), digest)


def _shard_form(path: Path) -> dict[str, str]:
    """What a shard's own metadata says of it."""
    metadata = pq.read_schema(path).metadata or {}
    names = ("context_length", "dtype", "vocab_size", "tokenizer_sha256")
    try:
        return {name: metadata[name.encode()].decode() for name in names}
    except KeyError as error:
        raise ValueError(f"{path.name} lacks the metadata {error}; it is not a shard of ours") from error


def _read_sequences(files: Sequence[Path], form: dict[str, str]) -> Sequences:
    """All rows of some shards; read a row group at a time, so that memory holds the tokens once."""
    width = int(form["context_length"]) + 1
    n_rows = sum(pq.read_metadata(path).num_rows for path in files)
    tokens, lengths = np.empty(n_rows * width, form["dtype"]), np.empty(n_rows, np.int64)
    row = 0
    for batch in _row_groups(files):
        data = batch["tokens"]
        flat = np.frombuffer(data.buffers()[1], np.dtype(form["dtype"]).newbyteorder("<"))
        tokens[row * width : (row + len(batch)) * width] = flat[
            data.offset * width : (data.offset + len(batch)) * width
        ]
        lengths[row : row + len(batch)] = batch["n_tokens"].to_numpy()
        row += len(batch)
    rows = np.flatnonzero(lengths >= 2)  # one token alone predicts nothing
    return Sequences(tokens, rows * width, lengths[rows])


def _row_groups(files: Iterable[Path]) -> Iterator[pa.RecordBatch]:
    for path in files:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(columns=["tokens", "n_tokens"]):
                yield from [batch] if len(batch) else []


@dataclass(frozen=True)
class Examples:
    """Chats of an instruction set, and what had to be left out."""

    sequences: Sequences
    dropped: dict[str, int]
    chats: list[list[dict[str, str]]]
    """The messages of each sequence."""


def read_examples(path: Path, tokenizer: Tokenizer, context_length: int) -> Examples:
    """The chats of a Parquet file (column `messages`) as sequences of at most `context_length + 1` tokens.

    A chat that is longer is left out, not cut: a cut one would teach not to end the turn. So is one in which the
    assistant says nothing. Raises ValueError when nothing is left.
    """
    chats, rows, masks = [], [], []
    dropped = {"too long": 0, "no answer": 0}
    for messages in read_table(path, ["messages"])["messages"].to_pylist():
        tokens, mask = tokenizer.render_chat(messages)
        if len(tokens) > context_length + 1:
            dropped["too long"] += 1
        elif not any(mask[1:]):
            dropped["no answer"] += 1
        else:
            chats.append(messages)
            rows.append(np.array(tokens, np.uint32))
            masks.append(np.array(mask, np.bool_))
    if not rows:
        raise ValueError(
            f"{path.name} holds no example to learn from ({dropped['too long']} longer than context_length, "
            f"{context_length} tokens; {dropped['no answer']} without an answer); add shorter examples"
        )
    lengths = np.array([len(row) for row in rows], np.int64)
    starts = np.cumsum(lengths) - lengths
    sequences = Sequences(np.concatenate(rows), starts, lengths, np.concatenate(masks))
    return Examples(sequences, {reason: n for reason, n in dropped.items() if n}, chats)


def prompts(chats: Sequence[Any], tokenizer: Tokenizer, n_prompts: int) -> list[list[int]]:
    """Tokens that ask for an answer: some chats, evenly spaced, up to where the assistant's last turn begins."""
    chosen = evenly_spaced(len(chats), n_prompts)
    return [tokenizer.render_chat(chats[i][:-1], add_generation_prompt=True)[0] for i in chosen]


def files_digest(paths: Iterable[Path]) -> str:
    """One hash of the content of several files, in their order."""
    return hashlib.sha256("".join(sha256_file(path) for path in paths).encode()).hexdigest()
