"""Tests of chats as sequences to learn from."""

import numpy as np
import pytest

from llm.tokenizer import Tokenizer
from llm.train.examples import prompts, read_examples
from llm.train.loader import IGNORED
from tests.llm.train.train_materials import chat, write_chats


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
