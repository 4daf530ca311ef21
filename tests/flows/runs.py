"""Running the tiny recipe, in a workspace of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.pipeline import stages_of
from flows.recipe import load_recipe
from llm.files import read_json
from tasks.core.credentials import USER, key
from tasks.core.store import Artifact, Store
from tasks.core.workspace import REPOSITORY, workspace

PORT = 7932 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Each test process serves the site at a port of its own."""


def tiny_recipe() -> str:
    """Path of the tiny recipe for this test process."""
    path = workspace() / "tiny.yaml"
    place = f"127.0.0.1:{PORT}"
    path.write_text(
        f"extends: {REPOSITORY / 'tests/flows/tiny.yaml'}\nname: tiny\n"
        f"crawl: {{seeds: ['http://{place}/index.html'], allow_private: ['{place}'], site: {{port: {PORT}}}}}\n"
    )
    return str(path)


TINY = tiny_recipe()
TINY_STAGES = stages_of(load_recipe(TINY))


def post_to_prefect(workspace: Path, path: str, body: Any = None) -> Any:
    """What the Prefect server of `flows ui` answers to one who has its key."""
    url = read_json(workspace / "servers.json")["prefect"] + "/api" + path
    login = (USER, key(workspace, "prefect"))
    return httpx.post(url, json=body or {}, auth=login, timeout=30, trust_env=False).raise_for_status().json()


@dataclass(frozen=True)
class Run:
    """A finished run: its artifacts by stage."""

    workspace: Path
    artifacts: dict[str, Artifact]

    def digests(self) -> dict[str, str]:
        """The digest of each stage's artifact."""
        return {stage: artifact.digest for stage, artifact in self.artifacts.items()}


def run_recipe(workspace: Path, *overrides: str, **options: object) -> Run:
    """Runs the tiny recipe as the flow that users run, in a workspace of its own."""
    from flows.pipeline import pipeline
    from flows.recipe import load_recipe

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURDOUGH_WORKSPACE", str(workspace))
        patch.setenv("MLFLOW_TRACKING_URI", "")  # tracking has tests of its own
        paths = pipeline(load_recipe(TINY, overrides), **options)  # type: ignore[arg-type]
    store = Store(workspace / "store")
    found = {stage: store.find(stage, Path(path).name) for stage, path in paths.items()}
    return Run(workspace, {stage: artifact for stage, artifact in found.items() if artifact})
