"""The tiny recipe, run once for the whole test session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from tests.flows.runs import Run, run_recipe


@pytest.fixture(scope="session")
def tiny(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The tiny recipe, built once. Tests must not change its workspace."""
    return run_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def server_environment(prefect_server: None) -> dict[str, str]:
    """The environment for commands that use the session's Prefect server instead of starting one."""
    from prefect.settings import PREFECT_API_URL

    return {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value()), "MLFLOW_TRACKING_URI": ""}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for PyTorch; what the tested code sets it to goes with the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
