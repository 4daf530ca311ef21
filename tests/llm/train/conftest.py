"""Fixtures for the tests of llm/train."""

from __future__ import annotations

import pytest
import torch

from tests.llm.train.train_materials import Materials, make_materials


@pytest.fixture(autouse=True)
def one_thread():
    """One CPU thread: enough for tiny models, and the tests may share the machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def materials(tmp_path_factory) -> Materials:
    """A tiny corpus, its shards and chats."""
    return make_materials(tmp_path_factory.mktemp("materials"))
