from __future__ import annotations

import numpy as np
import pytest
import torch

from llm.evaluate.likelihood import n_targets, token_log_likelihoods


def one_at_a_time(model, tokens: list[int]) -> list[float]:
    """ln p of each token after the first, each from a forward pass of its own over its window, no padding."""
    context = model.config.context_length
    scores = []
    with torch.no_grad():
        for position in range(1, len(tokens)):
            start = (position - 1) // context * context
            logits = model(torch.tensor([tokens[start:position]]))[0, -1].double()
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


def test_no_batch_is_larger_than_asked(model, monkeypatch):
    shapes = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda tokens: shapes.append(tuple(tokens.shape)) or forward(tokens))
    token_log_likelihoods(model, random_sequences(model, range(2, 40)), batch_tokens=64, advance=lambda _: None)
    assert all(rows * width <= 64 for rows, width in shapes)
    assert max(rows for rows, _ in shapes) > 3


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
