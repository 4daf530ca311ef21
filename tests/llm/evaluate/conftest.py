"""A tiny tokenizer and a tiny random model, which is as good as a trained one to check arithmetic on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm.model.gpt import GPT, GPTConfig
from llm.tokenizer.tokenizer import Tokenizer

CONTEXT_LENGTH = 24

CORPUS = [
    "os.path.join joins one or more path segments.",
    "os.path.split returns the pair of head and tail of a path.",
    "math.sqrt returns the square root of a number.",
    "str.join concatenates the strings of an iterable.",
] * 5


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CORPUS, 300)


def random_model(tokenizer: Tokenizer, seed: int, **shape: Any) -> GPT:
    torch.manual_seed(seed)
    shape = {"n_layers": 2, "n_heads": 2, "d_model": 16, "dropout": 0.1, "context_length": CONTEXT_LENGTH, **shape}
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **shape))
    for parameter in model.parameters():  # far from uniform, so that a wrong position or token shows
        parameter.data.mul_(8)
    return model.eval()


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tokenizer, 0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
