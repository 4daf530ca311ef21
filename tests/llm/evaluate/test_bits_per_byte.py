from __future__ import annotations

import lzma
import math

import numpy as np
import pytest
import torch

from llm.documents import Document
from llm.evaluate.bits_per_byte import MAX_SOURCES, bits_per_byte, document_tokens, xz_score

TEXTS = ["os.path.join joins paths.", "naïve café ☕ 日本語 🍞", "", "x", "returns the square root of a number. " * 9]


def documents(texts: list[str], sources: list[str] | None = None) -> list[Document]:
    named = zip(texts, sources or [""] * len(texts), strict=True)
    return [Document(f"{i}", "u", "t", text, "en", len(text), True, source) for i, (text, source) in enumerate(named)]


def test_bytes_of_the_tokens_are_the_bytes_of_the_texts(tokenizer):
    sizes = tokenizer.token_n_bytes()
    by_token = [sum(int(sizes[token]) for token in tokens) for tokens in document_tokens(tokenizer, TEXTS)]
    assert by_token == [len(text.encode()) for text in TEXTS]


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary_a_token(tokenizer, model):
    uniform = type(model)(model.config).eval()
    with torch.no_grad():
        uniform.token_embedding.weight.zero_()
    units = bits_per_byte(uniform, documents(TEXTS), document_tokens(tokenizer, TEXTS), batch_tokens=100)
    n_tokens = np.array([len(tokenizer.encode(text)) for text in TEXTS])
    np.testing.assert_allclose(units.values, n_tokens * math.log2(tokenizer.vocab_size), rtol=1e-6)


def test_bits_are_those_of_the_tokens_after_the_document_token(tokenizer, model):
    (bits,) = bits_per_byte(model, documents(["path"]), document_tokens(tokenizer, ["path"]), batch_tokens=100).values
    tokens = [tokenizer.document_token, *tokenizer.encode("path")]
    with torch.no_grad():
        probabilities = torch.softmax(model(torch.tensor([tokens]))[0].double(), dim=-1)
    expected = -sum(math.log2(probabilities[i, token]) for i, token in enumerate(tokens[1:]))
    assert bits == pytest.approx(expected, rel=1e-5)


def test_xz_is_the_xz_of_the_joined_texts():
    content = "\n".join(TEXTS).encode()
    compressed = lzma.compress(content, preset=9)
    assert lzma.decompress(compressed) == content
    assert xz_score(TEXTS).estimate.score == 8 * len(compressed) / len(content)
    with pytest.raises(ValueError, match="no text"):
        xz_score([""])


def test_the_sources_with_the_most_bytes_are_scored_by_themselves(tokenizer, model):
    texts = ["path " * n for n in range(1, MAX_SOURCES + 3)]
    found = documents(texts, [f"s{i}" for i in range(len(texts))])
    units = bits_per_byte(model, found, document_tokens(tokenizer, texts), batch_tokens=100)
    assert list(units.parts) == [f"source s{i}" for i in range(len(texts) - 1, 1, -1)]
    assert [mask.sum() for mask in units.parts.values()] == [1] * MAX_SOURCES
    assert units.weights.tolist() == [len(text) for text in texts]
    one = bits_per_byte(model, documents(texts), document_tokens(tokenizer, texts), batch_tokens=100)
    assert one.parts == {}
