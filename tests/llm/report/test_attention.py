from __future__ import annotations

import numpy as np
import pytest
import torch

from llm.model.files import load_model
from llm.report.attention import chat_attention, reach, text_attention

QUESTION, ANSWER = "What does os.path.join do?", "Joins one or more\npath segments."


def test_reach_counts_what_is_neither_first_nor_self_nor_before():
    weights = torch.zeros(1, 2, 4, 4)
    weights[0, 0] = torch.tensor([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.2, 0.3, 0.5, 0], [0.1, 0.6, 0.2, 0.1]])
    weights[0, 1] = torch.tensor([[1.0, 0, 0, 0]] * 4)
    assert reach(weights).tolist() == [[pytest.approx(0.6 / 4), 0.0]]


@pytest.fixture
def model_dir(make_run, tmp_path):
    return make_run(tmp_path)[-2].path


def test_map_is_the_models_own_attention(model_dir, tiny_tokenizer):
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    found = chat_attention(model_dir, messages, 20)
    tokens = tiny_tokenizer.render_chat(messages)[0][:20]
    with torch.no_grad():
        layers = list(load_model(model_dir).attention_weights(torch.tensor([tokens])))
    expected = layers[found.layer - 1][0, found.head - 1].numpy()
    np.testing.assert_allclose(found.weights, expected, atol=0.005001)
    assert found.labels[:2] == ["<|document|>", "<|user|>"]
    assert (np.triu(found.weights, 1) == 0).all()
    scores = [reach(weights)[0] for weights in layers]
    assert float(torch.stack(scores).max()) == float(scores[found.layer - 1][found.head - 1])


def test_a_document_is_read_from_its_start_and_no_further_than_the_context(model_dir):
    found = text_attention(model_dir, ANSWER + " x" * 100, 1000)
    assert found.labels[0] == "<|document|>"
    assert len(found.labels) == 32  # the context length of the model
    assert "".join(found.labels[1:]).startswith("Joins·one·or·more⏎path·segments.")
