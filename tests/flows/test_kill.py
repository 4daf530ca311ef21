"""kill -9 of a whole run at any moment, then the same command again: every artifact is that of an unbroken run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.core.store import Store
from tests.flows.runs import TINY, TINY_STAGES, Run

DEADLINE_SECONDS = 120


def start(workspace: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Starts the command in a process group of its own, its output beside the workspace."""
    workspace.mkdir(exist_ok=True)
    with open(workspace / "output.txt", "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "flows", "run", TINY],
            env={**environment, "SOURDOUGH_WORKSPACE": str(workspace)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def kill_in_stage(workspace: Path, environment: dict[str, str], stage: str, delay_seconds: float) -> bool:
    """Runs until `stage` has been at work for `delay_seconds`, then kills everything; False if it was done by then."""
    child = start(workspace, environment)
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        while not list(workspace.glob(f"store/{stage}/.tmp-*")) and child.poll() is None:
            assert time.monotonic() < deadline, (workspace / "output.txt").read_text()
            time.sleep(0.005)
        time.sleep(delay_seconds)
    finally:
        was_running = child.poll() is None
        if was_running:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return was_running


def finish(workspace: Path, environment: dict[str, str]) -> dict[str, str]:
    """Runs to the end; the digests by stage."""
    child = start(workspace, environment)
    assert child.wait(DEADLINE_SECONDS) == 0, (workspace / "output.txt").read_text()
    store = Store(workspace / "store")
    assert not list(workspace.glob("store/*/.tmp-*"))
    assert not list(workspace.glob("store/*/.partial-*"))
    return {stage: store.artifacts(stage)[0].digest for stage in TINY_STAGES}


@pytest.mark.timeout(600)
def test_killed_once_in_every_stage(tiny: Run, tmp_path: Path, server_environment: dict[str, str]) -> None:
    draw = random.Random(1)
    workspace = tmp_path / "killed"
    n_killed = sum(kill_in_stage(workspace, server_environment, stage, draw.uniform(0.0, 0.4)) for stage in TINY_STAGES)
    assert n_killed >= len(TINY_STAGES) // 2
    assert finish(workspace, server_environment) == tiny.digests()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stage", TINY_STAGES)
def test_killed_at_random_moments(
    tiny: Run, tmp_path: Path, server_environment: dict[str, str], stage: str, seed: int
) -> None:
    """A failing trial keeps its workspace (pytest keeps the last three)."""
    draw = random.Random(f"{stage} {seed}")
    workspace = tmp_path / "killed"
    for _ in range(2):
        kill_in_stage(workspace, server_environment, stage, draw.uniform(0.0, 2.0))
    assert finish(workspace, server_environment) == tiny.digests(), workspace
