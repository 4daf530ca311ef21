"""One server for the tests that do not change it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from llm.serve.answer import LoadedModel
from tests.llm.serve.serving import served, tiny_model


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Enough for tiny models; the tests share the machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def chat() -> LoadedModel:
    return tiny_model()


@pytest.fixture(scope="session")
def base() -> LoadedModel:
    return tiny_model(is_chat=False)


@pytest.fixture(scope="session")
def port(chat: LoadedModel) -> Iterator[int]:
    """Port of a server with the chat model."""
    with served(chat) as (_, port):
        yield port
