from __future__ import annotations

import numpy as np
import pytest
import torch

from llm.evaluate.likelihood import fitted, n_targets, score, token_log_likelihoods
from llm.evaluate.trees import Continuation, build_trees
from tests.llm.evaluate.conftest import random_model


def one_at_a_time(model, tokens: list[int]) -> list[float]:
    """ln p of each token after the first, each from a forward pass of its own over its window, no padding.

    A window after the first begins with the sequence's first token, then the last one before its edge.
    """
    context = model.config.context_length
    scores = []
    with torch.no_grad():
        for position in range(1, len(tokens)):
            seen = tokens[:position]
            if position > context:
                edge = position - 1 - (position - 1 - context) % (context - 1)  # the last token before the window
                seen = [tokens[0], *tokens[edge:position]]
            logits = model(torch.tensor([seen]))[0, -1].double()
            scores.append(float(torch.log_softmax(logits, dim=0)[tokens[position]]))
    return scores


def random_sequences(model, lengths) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(0, model.config.vocab_size, length).tolist() for length in lengths]


@pytest.mark.parametrize("batch_tokens", [1, 50, 10_000])
def test_batches_score_as_one_token_at_a_time(model, batch_tokens):
    context = model.config.context_length
    sequences = random_sequences(model, [5, 1, 2, context, context + 1, context + 2, 2 * context + 1, 70, 0, 5])
    progress: list[int] = []
    scores = token_log_likelihoods(model, sequences, batch_tokens=batch_tokens, advance=progress.append)
    assert [len(values) for values in scores] == [max(len(tokens) - 1, 0) for tokens in sequences]
    for values, tokens in zip(scores, sequences, strict=True):
        assert values == pytest.approx(one_at_a_time(model, tokens), abs=1e-4)  # float32 against float64 log_softmax
    assert sum(progress) == n_targets(sequences)


def families(model) -> list[Continuation]:
    """Continuations that begin alike in every way: choices of an item, one inside another, twice the same, alone."""
    random = np.random.default_rng(1)

    def draw(n: int) -> list[int]:
        return random.integers(0, model.config.vocab_size, n).tolist()

    made = []
    examples = draw(6)
    for _ in range(4):
        question = [*examples, *draw(int(random.integers(1, 7)))]
        choices = [draw(int(random.integers(1, 9))) for _ in range(4)]
        made += [Continuation([*question, *choice], len(question)) for choice in choices]
        made += [Continuation([*question, token], len(question)) for token in range(3)]  # one token: the same inputs
    made += [made[0], Continuation(made[0].tokens[:-1], 2), Continuation([1, 2], 1), Continuation(draw(25), 24)]
    return made


@pytest.mark.parametrize("architecture", ["gpt2", "modern", "speedrun"])
@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_what_is_shared_is_read_once_and_changes_nothing(tokenizer, architecture, batch_tokens):
    model = random_model(tokenizer, 0, architecture=architecture)
    continuations = families(model)
    scored = score(model, continuations, batch_tokens=batch_tokens)
    for continuation, scores in zip(continuations, scored, strict=True):
        with torch.no_grad():
            log_p = torch.log_softmax(model(torch.tensor([continuation.tokens[:-1]]))[0].double(), dim=-1)
        places = range(continuation.start, len(continuation.tokens))
        expected = [float(log_p[place - 1, continuation.tokens[place]]) for place in places]
        greedy = [int(log_p[place - 1].argmax()) == continuation.tokens[place] for place in places]
        assert scores.log_p == pytest.approx(expected, abs=1e-4)
        assert scores.is_greedy.tolist() == greedy


def test_each_shared_token_stands_in_a_tree_once(model):
    continuations = families(model)
    (tree, *others) = sorted(build_trees(continuations, 10_000), key=len, reverse=True)
    beginnings = {tuple(c.tokens[:n]) for c in continuations for n in range(1, len(c.tokens))}
    assert len(tree) + sum(map(len, others)) == len(beginnings)
    assert sorted(index for planted in (tree, *others) for index, _ in planted.asked) == list(range(len(continuations)))


def test_a_tree_is_no_larger_than_asked(model):
    for tree in build_trees(families(model), 20):
        assert len(tree) <= 20 or len(tree.asked) == 1


def test_what_is_too_long_loses_its_beginning():
    tokens = list(range(10))
    assert fitted(Continuation(tokens, 7), 9) == Continuation(tokens, 7)
    assert fitted(Continuation(tokens, 7), 5) == Continuation(tokens[4:], 3)
    assert fitted(Continuation(tokens, 2), 5) == Continuation(tokens[4:], 1)


def test_no_batch_is_larger_than_asked(model, monkeypatch):
    shapes = record_shapes(model, monkeypatch)
    token_log_likelihoods(model, random_sequences(model, range(2, 40)), batch_tokens=64, advance=lambda _: None)
    assert all(rows * width <= 64 for rows, width in shapes)
    assert max(rows for rows, _ in shapes) > 3


def record_shapes(model, monkeypatch) -> list[tuple[int, int]]:
    shapes: list[tuple[int, int]] = []
    features = model.features

    def recorded(tokens, **options):
        shapes.append(tuple(tokens.shape))
        return features(tokens, **options)

    monkeypatch.setattr(model, "features", recorded)
    return shapes


def test_a_batch_that_memory_is_too_small_for_is_halved(model, monkeypatch, caplog):
    continuations = families(model)
    expected = score(model, continuations, batch_tokens=200)
    features = model.features

    def small(tokens, **options):
        if len(tokens) > 1:
            raise torch.OutOfMemoryError("a card with room for one row")
        return features(tokens, **options)

    monkeypatch.setattr(model, "features", small)
    scored = score(model, continuations, batch_tokens=200)
    for one, other in zip(scored, expected, strict=True):
        assert one.log_p == pytest.approx(other.log_p, abs=1e-5)
    assert "in halves" in caplog.text


def test_dropout_is_off_and_the_mode_is_put_back(model):
    sequences = random_sequences(model, [9, 9])
    expected = token_log_likelihoods(model, sequences, batch_tokens=64, advance=lambda _: None)
    model.train()
    try:
        scores = token_log_likelihoods(model, sequences, batch_tokens=64, advance=lambda _: None)
        assert model.training
    finally:
        model.eval()
    np.testing.assert_array_equal(scores, expected)
