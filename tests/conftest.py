"""Every test process has a workspace of its own, and Prefect and MLflow are pointed at it before they are imported."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
_workspace = tempfile.TemporaryDirectory(prefix="sourdough-tests-")
os.environ["SOURDOUGH_WORKSPACE"] = _workspace.name
os.environ["OMP_NUM_THREADS"] = "1"  # the tests run in two processes
for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)

from tasks.core import workspace  # noqa: E402

workspace.configure()


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a database that all tests of this process share: making one takes MLflow many seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Prefect's temporary server for the whole test session."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
