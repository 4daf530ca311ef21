"""A tiny model and a store for it, for the tests of what is registered and shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm.serve.answer import LoadedModel
from tasks.core.store import Store
from tests.flows.chat_models import new_store
from tests.llm.serve.serving import tiny_model


@pytest.fixture(scope="session")
def tiny() -> LoadedModel:
    return tiny_model()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)
