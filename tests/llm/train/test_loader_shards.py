"""Tests of reading shards: the same sequences from memory and from files, and damage that is found and named."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from llm.counts import Counts
from llm.data.pack.pack import (
    ShardConfig,
    finish_shards,
    pack_documents,
    pack_partition,
    read_shard,
    write_shard,
)
from llm.files import read_json, sha256_file, write_json, write_table
from llm.tokenizer.tokenizer import Tokenizer
from llm.train.__main__ import train
from llm.train.loader import IGNORED, StepLoader
from llm.train.shards import IN_MEMORY_BYTES, read_shards
from tests.llm.train.train_materials import WORDS, tiny_job


@pytest.fixture
def shards_dir(materials, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(materials.shards_dir, tmp_path / "shards")


def rewrite_hashes(directory):
    form = read_json(directory / "shards.json")
    hashes = {name: sha256_file(directory / name) for name in form["files"]}
    write_json(directory / "shards.json", form | {"files": hashes})


def tokens_in(sequences, rows):
    """The tokens of each of the rows, as lists."""
    found = []
    for row in rows:
        batch = sequences.batch(np.array([row]))
        found.append([*batch.inputs[0].tolist(), batch.targets[0, -1].item()])
    return found


@pytest.mark.parametrize("in_memory_bytes", [IN_MEMORY_BYTES, 0])
def test_shards_hold_the_tokens_that_were_packed(materials, in_memory_bytes):
    shards = read_shards(materials.shards_dir, materials.tokenizer_dir, in_memory_bytes=in_memory_bytes)
    for split, sequences in (("train", shards.train), ("val", shards.val)):
        packed = [read_shard(path) for path in sorted(materials.shards_dir.glob(f"{split}-*.parquet"))]
        rows = [row[:n].tolist() for shard in packed for row, n in zip(shard.tokens, shard.n_tokens, strict=True)]
        assert tokens_in(sequences, range(len(sequences))) == rows
        assert sequences.lengths(np.arange(len(rows))).tolist() == [len(row) for row in rows]
    assert (shards.context_length, shards.vocab_size) == (16, 310)


def test_pads_are_never_targets(materials):
    train = read_shards(materials.shards_dir, materials.tokenizer_dir).train
    lengths = train.lengths(np.arange(len(train)))
    short = np.flatnonzero(lengths < 17)
    assert 0 < len(short) <= 2  # at most one row of each partition
    full = np.flatnonzero(lengths == 17)
    batch = train.batch(np.array([full[0], *short]))
    assert ((batch.targets != IGNORED).sum(1).numpy() == np.array([16, *(lengths[short] - 1)])).all()
    assert batch.n_learned == 16 + (lengths[short] - 1).sum()
    assert train.batch(full).positions is None


@pytest.fixture(scope="module", params=[False, True], ids=["sources together", "sources apart"])
def many_groups(request, tmp_path_factory, materials):
    """Shards of three partitions with 2,000 sequences each, so of more than one row group; and the config."""
    directory, config = tmp_path_factory.mktemp("many"), ShardConfig(context_length=4, keep_sources_apart=request.param)
    draw, counts = np.random.default_rng(0), []
    for part in range(3):
        rows = [
            {
                "id": f"{part:016x}{i:016x}",
                "text": " ".join(draw.choice(WORDS, 60)),
                "held_out": i % 50 == 0,
                "source": ("wiki", "bakery", "wiki", "wiki")[i % 4],
            }
            for i in range(100 + 10 * part)
        ]
        write_table(directory / "documents.parquet", pa.Table.from_pylist(rows))
        counts.append(pack_partition(directory / "documents.parquet", materials.tokenizer_dir, directory, config))
        for split in ("train", "val"):
            (directory / f"{split}.parquet").rename(directory / f"{split}-{part:05d}.parquet")
    finish_shards(directory, materials.tokenizer_dir, config, Counts.total(counts))
    return directory, config


def test_streamed_and_in_memory_give_the_same_batches(many_groups, materials):
    directory, config = many_groups
    weights = {"wiki": 1, "bakery": 2} if config.keep_sources_apart else None
    held = read_shards(directory, materials.tokenizer_dir, weights)
    streamed = read_shards(directory, materials.tokenizer_dir, weights, in_memory_bytes=0)
    assert sum(pq.read_metadata(path).num_row_groups for path in directory.glob("train-*")) > 4
    loaders = [StepLoader(s.train, 50, 16, 3, torch.device("cpu")) for s in (held, streamed)]
    for step in (0, 1, 60, 200):
        for ours, theirs in zip(*(loader.batches(step) for loader in loaders), strict=True):
            assert ours.inputs.tolist() == theirs.inputs.tolist()
            assert ours.targets.tolist() == theirs.targets.tolist()


def test_a_mixture_draws_rows_of_the_sources(many_groups, materials):
    directory, config = many_groups
    if not config.keep_sources_apart:
        with pytest.raises(ValueError, match=r"set shard\.keep_sources_apart: true"):
            read_shards(directory, materials.tokenizer_dir, {"wiki": 1})
        return
    train = read_shards(directory, materials.tokenizer_dir, {"wiki": 1, "bakery": 3}).train
    sources = [s for path in sorted(directory.glob("train-*")) for s in read_shard(path).sources]
    drawn = [sources[row] for row in train.order.rows(0, 10_000, 0)]
    assert abs(drawn.count("bakery") / 7500 - 1) < 0.01
    with pytest.raises(ValueError, match=r"names 'wikipedia', .* they hold: 'bakery', 'wiki'"):
        read_shards(directory, materials.tokenizer_dir, {"wikipedia": 1})


def test_pretraining_asks_for_its_mixture(materials, tmp_path):
    """The field reaches the loader, which refuses it here."""
    with pytest.raises(ValueError, match=r"set shard\.keep_sources_apart: true"):
        train(tiny_job(materials, tmp_path, mixture={"wiki": 1}))


def test_a_large_vocabulary_is_read_from_32_bits(materials, tmp_path):
    """From packing to a batch, with ids above 65,535."""

    class Large:
        vocab_size, document_token, pad_token = 70_000, 0, 1

    config = ShardConfig(context_length=3)
    documents = [np.array([69_999, 7, 65_536, 65_535, 70_000 - 2])]
    shard = pack_documents(["a"], documents, [None], tokenizer=Large, config=config)
    metadata = {"dtype": "uint32"}
    for split in ("train", "val"):
        write_shard(tmp_path / f"{split}-00000.parquet", shard, metadata)
    form = read_json(materials.shards_dir / "shards.json")
    form |= {"dtype": "uint32", "vocab_size": 70_000, "context_length": 3}
    write_json(tmp_path / "shards.json", form | {"files": {"train-00000.parquet": "", "val-00000.parquet": ""}})
    rewrite_hashes(tmp_path)
    for in_memory_bytes in (0, IN_MEMORY_BYTES):
        train = read_shards(tmp_path, materials.tokenizer_dir, in_memory_bytes=in_memory_bytes).train
        assert tokens_in(train, range(2)) == [[0, 69_999, 7, 65_536], [0, 65_535, 69_998]]


def test_shards_of_another_tokenizer_are_refused(materials, tmp_path):
    Tokenizer.train(["one two one two"], 263).save(tmp_path)
    with pytest.raises(ValueError, match="another tokenizer"):
        read_shards(materials.shards_dir, tmp_path)


def test_missing_or_empty_shards_say_what_to_do(materials, shards_dir, tmp_path):
    with pytest.raises(ValueError, match="build the shards first"):
        read_shards(tmp_path, materials.tokenizer_dir)
    write_json(
        shards_dir / "shards.json", read_json(shards_dir / "shards.json") | {"n_val_tokens": 3, "n_val_sequences": 3}
    )
    with pytest.raises(ValueError, match=r"hold no held-out sequence: add documents, or make context_length \(16"):
        read_shards(shards_dir, materials.tokenizer_dir)


@pytest.mark.parametrize("spoil", ["flip", "cut", "empty", "remove"])
def test_a_damaged_shard_is_found_by_its_hash_and_named(materials, shards_dir, spoil):
    path = shards_dir / "train-00001.parquet"
    content = bytearray(path.read_bytes())
    draw = np.random.default_rng(0)
    for _ in range(20):
        spoiled = bytearray(content)
        if spoil == "flip":
            spoiled[draw.integers(len(content))] ^= 1 << draw.integers(8)
        path.write_bytes({"flip": spoiled, "cut": content[: draw.integers(1, len(content))]}.get(spoil, b""))
        if spoil == "remove":
            path.unlink()
        with pytest.raises(OSError, match=r"train-00001\.parquet"):
            read_shards(shards_dir, materials.tokenizer_dir)


def test_a_shard_spoilt_after_its_check_is_found_by_a_page_checksum(many_groups, materials, tmp_path):
    """Any bit of the pages with tokens: OSError that names the file, never other tokens."""
    directory = shutil.copytree(many_groups[0], tmp_path / "shards")
    path = directory / "train-00002.parquet"
    content = path.read_bytes()
    column = pq.read_metadata(path).row_group(0).column(0)
    draw = np.random.default_rng(0)
    for _ in range(20):
        train = read_shards(directory, materials.tokenizer_dir, in_memory_bytes=0).train
        rows = np.arange(len(train))
        spoiled = bytearray(content)
        place = int(draw.integers(column.data_page_offset + 40, column.data_page_offset + column.total_compressed_size))
        spoiled[place] ^= 1 << draw.integers(8)
        path.write_bytes(spoiled)
        with pytest.raises(OSError, match=r"train-00002\.parquet is damaged"):
            list(train.batches(rows, 100))
        path.write_bytes(content)
