"""Fixtures for the tests of llm/train."""

from __future__ import annotations

import multiprocessing.forkserver
import os
from pathlib import Path

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


@pytest.fixture(scope="session")
def forkserver():
    """Processes forked from one that has imported all they need: a new one takes milliseconds."""
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[3]), prepend=os.pathsep)
        # torch.optim imports torch._dynamo at its first step, which takes longer than all the training here
        context.set_forkserver_preload(["pytest", "torch._dynamo", "tests.llm.train.ranks"])
        multiprocessing.forkserver.ensure_running()
    return context
