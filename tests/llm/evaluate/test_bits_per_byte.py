from __future__ import annotations

import lzma
import math

import numpy as np
import pytest
import torch

from llm.evaluate.bits_per_byte import document_tokens, text_bits, text_bytes, xz_bits_per_byte

TEXTS = ["os.path.join joins paths.", "naïve café ☕ 日本語 🍞", "", "x", "returns the square root of a number. " * 9]


def test_bytes_of_the_tokens_are_the_bytes_of_the_texts(tokenizer):
    sizes = tokenizer.token_n_bytes()
    by_token = [sum(int(sizes[token]) for token in tokens) for tokens in document_tokens(tokenizer, TEXTS)]
    assert by_token == text_bytes(TEXTS).tolist() == [len(text.encode()) for text in TEXTS]


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary_a_token(tokenizer, model):
    uniform = type(model)(model.config).eval()
    with torch.no_grad():
        uniform.token_embedding.weight.zero_()
    documents = document_tokens(tokenizer, TEXTS)
    bits = text_bits(uniform, documents, batch_tokens=100)
    n_tokens = np.array([len(tokenizer.encode(text)) for text in TEXTS])
    np.testing.assert_allclose(bits, n_tokens * math.log2(tokenizer.vocab_size), rtol=1e-6)


def test_bits_are_those_of_the_tokens_after_the_document_token(tokenizer, model):
    (bits,) = text_bits(model, document_tokens(tokenizer, ["path"]), batch_tokens=100)
    tokens = [tokenizer.document_token, *tokenizer.encode("path")]
    with torch.no_grad():
        probabilities = torch.softmax(model(torch.tensor([tokens]))[0].double(), dim=-1)
    expected = -sum(math.log2(probabilities[i, token]) for i, token in enumerate(tokens[1:]))
    assert bits == pytest.approx(expected, rel=1e-5)


def test_xz_is_the_xz_of_the_joined_texts():
    content = "\n".join(TEXTS).encode()
    compressed = lzma.compress(content, preset=9)
    assert lzma.decompress(compressed) == content
    assert xz_bits_per_byte(TEXTS) == 8 * len(compressed) / len(content)
    with pytest.raises(ValueError, match="no text"):
        xz_bits_per_byte(["", ""][:1])
