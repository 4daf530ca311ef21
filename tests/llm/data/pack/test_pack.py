"""Tests of packing: no token is lost or repeated, and documents come back as they went in."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.counts import Counts
from llm.data.pack.pack import (
    Shard,
    ShardConfig,
    documents_in,
    finish_shards,
    pack_documents,
    pack_partition,
    read_shard,
    token_dtype,
    write_shard,
)
from llm.documents import Document, document_id, documents_table
from llm.files import read_json, sha256_file, write_table
from llm.tokenizer.tokenizer import Tokenizer

METADATA = {"dtype": "uint16"}


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.train(["rye bread and wheat bread, baked and baked again " * 3], 280).save(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_dir)


def pack(texts: list[str], context_length: int, tokenizer: Tokenizer) -> Shard:
    tokens = [np.array(tokenizer.encode(text), np.uint16) for text in texts]
    ids = [f"document {i}" for i in range(len(texts))]
    config = ShardConfig(context_length=context_length)
    return pack_documents(ids, tokens, [None] * len(ids), tokenizer=tokenizer, config=config)


TEXTS = st.lists(st.one_of(st.text(max_size=30), st.sampled_from(["", "<|document|>", "rye bread " * 9])), max_size=8)


@settings(deadline=None, max_examples=50)
@given(TEXTS, st.integers(2, 40))
def test_documents_come_back(tokenizer: Tokenizer, texts: list[str], context_length: int) -> None:
    shard = pack(texts, context_length, tokenizer)
    assert sorted(documents_in(shard, tokenizer)) == sorted((f"document {i}", text) for i, text in enumerate(texts))


@settings(deadline=None, max_examples=50)
@given(TEXTS, st.integers(2, 40))
def test_every_row_begins_with_a_document_and_pads_are_last(
    tokenizer: Tokenizer, texts: list[str], context_length: int
) -> None:
    shard = pack(texts, context_length, tokenizer)
    assert shard.tokens.shape == (len(shard.n_tokens), context_length + 1)
    assert (shard.tokens[:, 0] == tokenizer.document_token).all()
    is_pad = np.arange(context_length + 1) >= shard.n_tokens[:, None]
    assert np.array_equal(shard.tokens == tokenizer.pad_token, is_pad)
    assert is_pad.any(1).sum() <= 1


@settings(deadline=None, max_examples=50)
@given(TEXTS, st.integers(2, 40))
def test_every_token_of_a_document_is_at_one_position(
    tokenizer: Tokenizer, texts: list[str], context_length: int
) -> None:
    """The metadata says where each token comes from; none is lost, none stands twice, nothing else is in a row."""
    shard = pack(texts, context_length, tokenizer)
    expected = {(f"document {i}", j): k for i, text in enumerate(texts) for j, k in enumerate(tokenizer.encode(text))}
    found, n_places = {}, 0
    columns = (shard.tokens, shard.n_tokens, shard.document_ids, shard.offsets, shard.starts)
    for row, n_tokens, ids, offsets, starts in zip(*columns, strict=True):
        for document, offset, end, start in zip(ids, offsets, [*offsets[1:], n_tokens], starts, strict=True):
            assert row[offset] == tokenizer.document_token
            found |= {(document, start + i): int(token) for i, token in enumerate(row[offset + 1 : end])}
            n_places += end - offset - 1
    assert found == expected
    assert n_places == len(expected)


@settings(max_examples=25, deadline=None)
@given(TEXTS, st.integers(2, 40))
def test_a_written_shard_is_read_back(
    tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory, texts: list[str], context_length: int
) -> None:
    shard, path = pack(texts, context_length, tokenizer), tmp_path_factory.mktemp("shard") / "train.parquet"
    write_shard(path, shard, METADATA)
    again = read_shard(path)
    assert again.tokens.dtype == np.uint16
    assert np.array_equal(again.tokens, shard.tokens)
    assert np.array_equal(again.n_tokens, shard.n_tokens)
    assert (again.document_ids, again.offsets, again.starts) == (shard.document_ids, shard.offsets, shard.starts)
    assert again.sources == [None] * len(shard.tokens)


def test_many_row_groups_are_read_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shard = pack([f"loaf {i} of rye bread" for i in range(2000)], 4, tokenizer)
    write_shard(tmp_path / "train.parquet", shard, METADATA)
    assert pq.ParquetFile(tmp_path / "train.parquet").num_row_groups > 2
    assert np.array_equal(read_shard(tmp_path / "train.parquet").tokens, shard.tokens)


def test_a_large_vocabulary_is_stored_in_32_bits(tmp_path: Path) -> None:
    assert (token_dtype(65_536), token_dtype(65_537)) == (np.dtype("<u2"), np.dtype("<u4"))
    large = SimpleNamespace(vocab_size=70_000, document_token=0, pad_token=1)
    config = ShardConfig(context_length=3)
    shard = pack_documents(["a"], [np.array([69_999, 7])], [None], tokenizer=large, config=config)
    write_shard(tmp_path / "train.parquet", shard, {"dtype": "uint32"})
    assert read_shard(tmp_path / "train.parquet").tokens.tolist() == [[0, 69_999, 7, 1]]


def write_documents(path: Path, texts: list[str], held_out: list[bool]) -> list[Document]:
    documents = [
        Document(document_id("", text), f"http://bakery/{i}", "", text, "en", len(text), out)
        for i, (text, out) in enumerate(zip(texts, held_out, strict=True))
    ]
    write_table(path, documents_table(documents))
    return documents


PARTS = [[f"bread {i} {'and wheat ' * i}" for i in range(40)], [f"rye {i}: crème brûlée 🍞" for i in range(30)]]


@pytest.fixture
def packed(tmp_path: Path, tokenizer_dir: Path) -> tuple[Path, list[list[Document]], list[Counts]]:
    """Two partitions, the second without held-out documents: the artifact, its documents and counts."""
    artifact, documents, counts = tmp_path / "artifact", [], []
    artifact.mkdir()
    for k, texts in enumerate(PARTS):
        held_out = [k == 0 and i % 4 == 0 for i in range(len(texts))]
        documents.append(write_documents(tmp_path / f"documents-0000{k}.parquet", texts, held_out))
        out_dir = tmp_path / f"out{k}"
        out_dir.mkdir()
        config = ShardConfig(context_length=16)
        counts.append(pack_partition(tmp_path / f"documents-0000{k}.parquet", tokenizer_dir, out_dir, config))
        for split in ("train", "val"):
            (out_dir / f"{split}.parquet").rename(artifact / f"{split}-0000{k}.parquet")
    return artifact, documents, counts


def test_training_and_held_out_documents_are_apart(packed, tokenizer: Tokenizer) -> None:
    artifact, documents, _ = packed
    for k in range(2):
        for split, held_out in (("train", False), ("val", True)):
            found = list(documents_in(read_shard(artifact / f"{split}-0000{k}.parquet"), tokenizer))
            assert sorted(found) == sorted((d.id, d.text) for d in documents[k] if d.held_out == held_out)


def test_the_counts_and_totals_are_right(packed, tokenizer: Tokenizer, tokenizer_dir: Path) -> None:
    artifact, documents, counts = packed
    total = Counts.total(counts)
    assert (total.unit, total.n_in, total.n_out) == ("documents", 70, 70)
    finish_shards(artifact, tokenizer_dir, ShardConfig(context_length=16), total)
    shards = read_json(artifact / "shards.json")
    for split, held_out in (("train", False), ("val", True)):
        texts = [d.text for part in documents for d in part if d.held_out == held_out]
        assert shards[f"n_{split}_bytes"] == sum(len(text.encode()) for text in texts)
        packed_shards = [read_shard(path) for path in artifact.glob(f"{split}-*.parquet")]
        assert shards[f"n_{split}_sequences"] == sum(len(shard.tokens) for shard in packed_shards)
        n_pieces = sum(len(ids) for shard in packed_shards for ids in shard.document_ids)
        assert shards[f"n_{split}_tokens"] == sum(len(tokenizer.encode(text)) for text in texts) + n_pieces
    fixed = {"context_length": 16, "dtype": "uint16", "vocab_size": 280}
    assert {name: shards[name] for name in fixed} == fixed
    assert shards["tokenizer_sha256"] == sha256_file(tokenizer_dir / "tokenizer.json")
    assert shards["files"] == {path.name: sha256_file(path) for path in artifact.glob("*.parquet")}


def test_the_files_have_the_agreed_schema(packed, tokenizer_dir: Path) -> None:
    for path in packed[0].glob("*.parquet"):
        schema = pq.read_schema(path)
        assert {name: schema.field(name).type for name in schema.names} == {
            "tokens": pa.binary(2 * 17),
            "n_tokens": pa.int32(),
            "document_ids": pa.list_(pa.string()),
            "offsets": pa.list_(pa.int32()),
            "starts": pa.list_(pa.int32()),
            "source": pa.string(),
        }
        assert {key.decode(): value.decode() for key, value in schema.metadata.items()} == {
            "context_length": "16",
            "dtype": "uint16",
            "vocab_size": "280",
            "tokenizer_sha256": sha256_file(tokenizer_dir / "tokenizer.json"),
        }


def test_packing_again_gives_the_same_bytes(packed, tmp_path: Path, tokenizer_dir: Path) -> None:
    (tmp_path / "again").mkdir()
    documents = tmp_path / "documents-00000.parquet"
    pack_partition(documents, tokenizer_dir, tmp_path / "again", ShardConfig(context_length=16))
    for split in ("train", "val"):
        again = (tmp_path / "again" / f"{split}.parquet").read_bytes()
        assert again == (packed[0] / f"{split}-00000.parquet").read_bytes()


def test_sources_are_kept_apart(tmp_path: Path, tokenizer: Tokenizer, tokenizer_dir: Path) -> None:
    """Rows and row groups hold one source each, which the row group's statistics name."""
    texts = [f"loaf {i} of bread, wheat and rye" for i in range(60)]
    sources = ["wiki" if i % 3 else "bakery" for i in range(60)]
    rows = [
        {"id": f"{i:032x}", "text": text, "held_out": i % 10 == 0, "source": source}
        for i, (text, source) in enumerate(zip(texts, sources, strict=True))
    ]
    write_table(tmp_path / "documents.parquet", pa.Table.from_pylist(rows))
    config = ShardConfig(context_length=16, keep_sources_apart=True)
    pack_partition(tmp_path / "documents.parquet", tokenizer_dir, tmp_path, config)
    shard = read_shard(tmp_path / "train.parquet")
    for source, ids in zip(shard.sources, shard.document_ids, strict=True):
        assert {sources[int(document, 16)] for document in ids} == {source}
    assert (shard.n_tokens < 17).sum() <= 2  # pads in each source's last row
    assert sorted(documents_in(shard, tokenizer)) == [(r["id"], r["text"]) for r in rows if not r["held_out"]]
    metadata = pq.read_metadata(tmp_path / "train.parquet")
    statistics = [metadata.row_group(i).column(5).statistics for i in range(metadata.num_row_groups)]
    assert [(s.min, s.max) for s in statistics] == [("bakery", "bakery"), ("wiki", "wiki")]


def test_a_token_takes_little_room(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Random tokens of 280 kinds: nothing to be found twice, so what is over 8.2 bits a token is overhead."""
    draw = np.random.default_rng(0)
    tokens = [draw.integers(6, 280, 3000).astype(np.uint16) for _ in range(60)]
    ids = [document_id("", str(i)) for i in range(60)]
    shard = pack_documents(ids, tokens, [None] * 60, tokenizer=tokenizer, config=ShardConfig(context_length=256))
    write_shard(tmp_path / "train.parquet", shard, METADATA)
    assert (tmp_path / "train.parquet").stat().st_size / (60 * 3000) < 1.25


def test_too_few_tokens_for_one_sequence(packed, tmp_path: Path, tokenizer_dir: Path) -> None:
    counts = packed[2][0]
    n_tokens = int(counts.figures["n_train_tokens"])
    fits, over = ShardConfig(context_length=n_tokens - 1), ShardConfig(context_length=n_tokens)
    finish_shards(tmp_path, tokenizer_dir, fits, counts)
    words = rf"context_length is {n_tokens}: one sequence needs {n_tokens + 1} tokens, .* only {n_tokens}; add"
    with pytest.raises(ValueError, match=words):
        finish_shards(tmp_path, tokenizer_dir, over, counts)


def test_no_document_to_evaluate_or_to_train_with(packed, tmp_path: Path, tokenizer_dir: Path) -> None:
    """Each is mended the other way, and a smaller context mends neither."""
    config, counts = ShardConfig(context_length=16), packed[2][1]
    with pytest.raises(ValueError, match=r"none of the \d+ documents is for evaluation: .* larger clean.held_out"):
        finish_shards(tmp_path, tokenizer_dir, config, counts)
    figures = counts.figures | {"n_train_tokens": 0, "n_val_sequences": 3}
    with pytest.raises(ValueError, match=r"none of the \d+ documents is for training: .* smaller clean.held_out"):
        finish_shards(tmp_path, tokenizer_dir, config, dataclasses.replace(counts, figures=figures))


def test_one_file_as_one_document_names_the_separator(packed, tmp_path: Path, tokenizer_dir: Path) -> None:
    """No share of one document can be held out."""
    counts = dataclasses.replace(packed[2][1], n_in=1, n_out=1)
    with pytest.raises(ValueError, match=r"there is one document.*'ingest.sources.0.separator=\"\\n\\n\"'"):
        finish_shards(tmp_path, tokenizer_dir, ShardConfig(context_length=16), counts)


def test_a_partition_without_documents_gives_empty_files(tmp_path: Path, tokenizer_dir: Path) -> None:
    write_documents(tmp_path / "documents-00000.parquet", [], [])
    counts = pack_partition(tmp_path / "documents-00000.parquet", tokenizer_dir, tmp_path, ShardConfig())
    assert (counts.n_in, set(counts.figures.values())) == (0, {0})
    for split in ("train", "val"):
        assert read_shard(tmp_path / f"{split}.parquet").tokens.shape == (0, 257)


def test_a_context_without_a_target_is_refused() -> None:
    with pytest.raises(ValueError, match="context_length is 1; allowed: 2 or more"):
        ShardConfig(context_length=1)
