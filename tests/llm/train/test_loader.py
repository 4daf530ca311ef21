import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from llm.data.pack import Shard, read_shard, write_shard
from llm.tokenizer import Tokenizer
from llm.train.loader import (
    IGNORED,
    Sequences,
    epoch_order,
    evenly_spaced,
    prompts,
    read_examples,
    read_shards,
    step_rows,
)
from tests.llm.train.train_materials import chat, write_chats


def ragged(*rows, masks=None):
    lengths = np.array([len(row) for row in rows])
    supervised = None if masks is None else np.concatenate(masks).astype(bool)
    return Sequences(np.concatenate(rows).astype(np.uint16), np.cumsum(lengths) - lengths, lengths, supervised)


def test_targets_are_the_inputs_one_place_on():
    batch = ragged([5, 6, 7, 8], [9, 10]).batch(np.array([1, 0]))
    assert batch.inputs.tolist() == [[9, 0, 0], [5, 6, 7]]
    assert batch.targets.tolist() == [[10, IGNORED, IGNORED], [6, 7, 8]]


def test_only_supervised_tokens_are_targets():
    sequences = ragged([5, 6, 7, 8], [1, 2, 3], masks=[[0, 0, 1, 1], [1, 0, 1]])
    batch = sequences.batch(np.array([0, 1]))
    assert batch.targets.tolist() == [[IGNORED, 7, 8], [IGNORED, 3, IGNORED]]


def test_micro_batches_hold_every_row_once_and_like_lengths_together():
    rows = [list(range(1, n)) for n in (9, 3, 7, 4, 8, 3)]
    sequences = ragged(*rows)
    batches = list(sequences.batches(np.arange(6), 2))
    assert [batch.inputs.shape[1] for batch in batches] == [1, 5, 7]
    n_targets = sum(int((batch.targets != IGNORED).sum()) for batch in batches)
    assert n_targets == sum(len(row) - 1 for row in rows)


def test_every_epoch_sees_every_sequence_once_in_an_order_of_its_own():
    n_sequences, batch_size = 7, 3
    stream = np.concatenate([step_rows(n_sequences, batch_size, step, seed=4) for step in range(14)])
    epochs = stream.reshape(-1, n_sequences)
    assert all(sorted(epoch) == list(range(n_sequences)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    assert not np.array_equal(epoch_order(100, 0, seed=0), epoch_order(100, 0, seed=1))


def test_a_step_larger_than_an_epoch_repeats_it():
    assert np.bincount(step_rows(3, 8, 1, seed=0), minlength=3).sum() == 8
    stream = np.concatenate([step_rows(3, 8, step, seed=0) for step in range(3)])
    assert np.bincount(stream).tolist() == [8, 8, 8]


def test_the_order_is_the_same_everywhere():
    """Remake: `epoch_order(8, 1, 2).tolist()`; it must never change, or resumed runs would see other data."""
    assert epoch_order(8, 1, 2).tolist() == [2, 7, 0, 1, 5, 6, 3, 4]


def test_evenly_spaced_rows():
    assert evenly_spaced(10, 3).tolist() == [0, 3, 6]
    assert evenly_spaced(2, 5).tolist() == [0, 1]
    assert evenly_spaced(5, 0).tolist() == []


def test_shards_hold_the_tokens_that_were_packed(materials):
    shards = read_shards(materials.shards_dir, materials.tokenizer_dir)
    for split, sequences in (("train", shards.train), ("val", shards.val)):
        packed = [read_shard(path) for path in sorted(materials.shards_dir.glob(f"{split}-*.parquet"))]
        rows = [row[:n].tolist() for shard in packed for row, n in zip(shard.tokens, shard.n_tokens, strict=True)]
        read = [sequences.tokens[a : a + n].tolist() for a, n in zip(sequences.starts, sequences.lengths, strict=True)]
        assert read == [row for row in rows if len(row) > 1]
    assert shards.context_length == 16
    assert shards.vocab_size == 310
    assert shards.train.tokens.dtype == np.uint16


def test_pads_are_never_targets(materials):
    shards = read_shards(materials.shards_dir, materials.tokenizer_dir)
    short = np.flatnonzero(shards.train.lengths < 17)
    assert len(short) == 2  # the last row of each partition
    batch = shards.train.batch(np.array([0, *short]))
    assert ((batch.targets != IGNORED).sum(1) == np.array([16, *(shards.train.lengths[short] - 1)])).all()
    assert (batch.targets != Tokenizer.load(materials.tokenizer_dir).pad_token).all()


def test_shards_of_another_tokenizer_are_refused(materials, tmp_path):
    Tokenizer.train(["one two one two"], 263).save(tmp_path)
    with pytest.raises(ValueError, match="another tokenizer"):
        read_shards(materials.shards_dir, tmp_path)


def test_missing_or_empty_shards_say_what_to_do(materials, tmp_path):
    with pytest.raises(ValueError, match="build the shards first"):
        read_shards(tmp_path, materials.tokenizer_dir)
    shards = shutil.copytree(materials.shards_dir, tmp_path / "shards")
    metadata = {"context_length": "16", "dtype": "uint16", "vocab_size": "310"}
    metadata["tokenizer_sha256"] = pq.read_schema(shards / "val-00000.parquet").metadata[b"tokenizer_sha256"].decode()
    for path in shards.glob("val-*.parquet"):
        write_shard(path, Shard(np.zeros((0, 17), np.uint16), np.zeros(0, np.int32), [], []), metadata)
    with pytest.raises(ValueError, match=r"hold no held-out sequence: add documents, or make context_length \(16"):
        read_shards(shards, materials.tokenizer_dir)


def test_examples_supervise_the_answer_and_the_end_of_turn(materials, tmp_path):
    tokenizer = Tokenizer.load(materials.tokenizer_dir)
    write_chats(tmp_path / "a.parquet", [chat("rye?", "bake it")])
    sequences = read_examples(tmp_path / "a.parquet", tokenizer, 16).sequences
    batch = sequences.batch(np.array([0]))
    learned = batch.targets[batch.targets != IGNORED].tolist()
    assert learned == [*tokenizer.encode("bake it"), tokenizer.end_token]


def test_examples_that_cannot_be_learned_are_counted(materials, tmp_path):
    tokenizer = Tokenizer.load(materials.tokenizer_dir)
    chats = [chat("rye?", "bake"), chat("rye?", "bake " * 40), [{"role": "user", "content": "rye?"}]]
    write_chats(tmp_path / "a.parquet", chats)
    examples = read_examples(tmp_path / "a.parquet", tokenizer, 16)
    assert len(examples.sequences) == 1
    assert examples.dropped == {"too long": 1, "no answer": 1}
    assert examples.chats == chats[:1]
    write_chats(tmp_path / "b.parquet", chats[1:])
    with pytest.raises(ValueError, match=r"b\.parquet holds no example to learn from \(1 longer"):
        read_examples(tmp_path / "b.parquet", tokenizer, 16)


def test_prompts_end_where_the_answer_begins(materials):
    tokenizer = Tokenizer.load(materials.tokenizer_dir)
    (tokens,) = prompts([chat("rye?", "bake")], tokenizer, 3)
    assert tokenizer.decode(tokens) == "<|document|><|user|>rye?<|end|><|assistant|>"
