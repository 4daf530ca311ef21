"""Tests of chats as sequences to train on."""

import numpy as np
import pytest
import torch

from llm.tokenizer.tokenizer import Tokenizer
from llm.train.loader import IGNORED
from llm.train.loss import layout_of
from llm.train.methods.examples import Chats, HeldOutQuestions, prompts, read_examples
from tests.llm.train.train_materials import chat, write_chats


def test_examples_supervise_the_answer_and_the_end_of_turn(materials, tmp_path):
    tokenizer = Tokenizer.load(materials.tokenizer_dir)
    write_chats(tmp_path / "a.parquet", [chat("rye?", "bake it")])
    sequences = read_examples(tmp_path / "a.parquet", tokenizer, 16).sequences
    batch = sequences.batch(np.array([0]))
    learned = batch.targets[batch.targets != IGNORED].tolist()
    assert learned == [*tokenizer.encode("bake it"), tokenizer.end_token]


def test_a_turn_of_weight_0_is_context_only(materials, tmp_path):
    tokenizer = Tokenizer.load(materials.tokenizer_dir)
    wrong = chat("rye?", "salt")
    wrong[1]["weight"] = 0
    write_chats(tmp_path / "a.parquet", [[*wrong, *chat("rye?", "bake it")], chat("rye?", "fold")])
    sequences = read_examples(tmp_path / "a.parquet", tokenizer, 32).sequences
    tokens, learned = sequences[0]
    assert tokenizer.encode("salt")[0] in tokens
    assert tokens[learned].tolist() == [*tokenizer.encode("bake it"), tokenizer.end_token]
    tokens, learned = sequences[1]
    assert tokens[learned].tolist() == [*tokenizer.encode("fold"), tokenizer.end_token]


def test_examples_that_cannot_be_trained_on_are_counted(materials, tmp_path):
    tokenizer = Tokenizer.load(materials.tokenizer_dir)
    chats = [chat("rye?", "bake"), chat("rye?", "bake " * 40), [{"role": "user", "content": "rye?"}]]
    write_chats(tmp_path / "a.parquet", chats)
    examples = read_examples(tmp_path / "a.parquet", tokenizer, 16)
    assert len(examples.sequences) == 1
    assert examples.dropped == {"too long": 1, "no answer": 1}
    assert examples.chats == chats[:1]
    write_chats(tmp_path / "b.parquet", chats[1:])
    with pytest.raises(ValueError, match=r"b\.parquet holds no example to train on \(1 longer"):
        read_examples(tmp_path / "b.parquet", tokenizer, 16)


@pytest.mark.parametrize(
    ("questions", "is_asked"),
    [
        (["rye?"], True),
        ([" rye? "], True),
        (["salt?", "rye?"], True),
        (["continue"], True),
        (["salt?", "continue"], False),
        (["oven?"], False),
    ],
)
def test_a_later_question_is_the_same_only_after_the_same_or_alone(questions, is_asked, tmp_path):
    turn = {"role": "assistant", "content": "bake"}
    write_chats(tmp_path / "val.parquet", [[*chat("rye?", "bake"), *chat("continue", "fold")]])
    prompt = [message for text in questions for message in ({"role": "user", "content": text}, turn)][:-1]
    assert HeldOutQuestions.of(tmp_path).are_in([{"role": "system", "content": "rye?"}, *prompt]) == is_asked
    assert not HeldOutQuestions.of(None).are_in(prompt)


def test_a_chat_that_is_too_long_may_lose_its_last_exchanges(materials, tmp_path):
    tokenizer = Tokenizer.load(materials.tokenizer_dir)
    turns = [*chat("rye?", "bake"), *chat("salt?", "fold"), *chat("oven?", "proof " * 40)]
    system = [{"role": "system", "content": "crumb"}]
    write_chats(tmp_path / "a.parquet", [turns, system + turns, chat("rye?", "bake " * 60), turns[:2]])
    length = len(tokenizer.render_chat(turns[:4])[0])
    examples = read_examples(tmp_path / "a.parquet", tokenizer, length - 1, shorten=True)
    assert examples.chats == [turns[:4], system + turns[:2], turns[:2]]
    assert (examples.dropped, examples.n_shortened) == ({"too long": 1}, 2)
    assert read_examples(tmp_path / "a.parquet", tokenizer, length - 1).chats == [turns[:2]]


def test_prompts_end_where_the_answer_begins(materials):
    tokenizer = Tokenizer.load(materials.tokenizer_dir)
    (tokens,) = prompts([chat("rye?", "bake")], tokenizer, 3)
    assert tokenizer.decode(tokens) == "<|document|><|user|>rye?<|end|><|assistant|>"


def made_up_chats(lengths, width):
    """Chats of random tokens, some of which are learned; the first token of each is its number."""
    draw = np.random.default_rng(0)
    tokens = [np.array([number, *draw.integers(100, 999, n - 1)]) for number, n in enumerate(lengths)]
    masks = [np.array([False, *(draw.random(n - 2) < 0.5), True]) for n in lengths]
    return Chats(tokens, masks, width)


def test_every_chat_is_whole_in_one_row_of_a_step():
    lengths = np.random.default_rng(1).integers(2, 18, 60)
    sequences = made_up_chats(lengths, width=17)
    batches = list(sequences.batches(np.arange(60), 4))
    assert all(len(batch.inputs) <= 4 and batch.inputs.shape[1] <= 17 for batch in batches)
    seen = []
    for batch in batches:
        for inputs, targets, segments in zip(batch.inputs, batch.targets, batch.segments, strict=True):
            for segment in segments.unique()[segments.unique() >= 0]:
                places = segments == segment
                tokens, is_learned = sequences[int(inputs[places][0])]
                assert inputs[places].tolist() == tokens[:-1].tolist()
                expected = np.where(is_learned[1:], tokens[1:], IGNORED)
                assert targets[places].tolist() == expected.tolist()
                seen.append(int(tokens[0]))
            assert set(targets[segments < 0].tolist()) <= {IGNORED}
    assert sorted(seen) == list(range(60))
    n_inputs = lengths.sum() - 60
    n_rows = sum(len(batch.inputs) for batch in batches)
    assert n_rows <= 11 / 9 * n_inputs / 17 + 2  # Johnson 1973: at most 11/9 of the fewest rows possible, and some
    for batch in batches:
        assert batch.n_learned == (batch.targets != IGNORED).sum()
        assert batch.learned().tolist() == batch.targets[batch.targets != IGNORED].tolist()


def test_a_batch_of_one_chat_is_that_chat():
    sequences = made_up_chats([5, 9], width=16)
    batch = sequences.batch(np.array([1]))
    assert batch.inputs.tolist() == [sequences[1][0][:-1].tolist()]
    assert batch.segments.tolist() == [[0] * 8]


def test_the_layout_of_segments_restarts_and_separates():
    layout = layout_of(torch.tensor([[0, 0, 1, 1, 1, -1]]))
    assert layout.positions.tolist() == [[0, 1, 0, 1, 2, 0]]
    allowed = [[0], [0, 1], [2], [2, 3], [2, 3, 4], [5]]
    assert [row.nonzero().flatten().tolist() for row in layout.visible[0, 0]] == allowed
