"""A run is killed or stopped at any moment, then the same command again: every artifact is that of an unbroken run."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from tasks.core.store import Artifact, Store
from tests.flows.runs import TINY, TINY_STAGES, Run, run_recipe

log = logging.getLogger(__name__)

DEADLINE_SECONDS = 300
SECONDS_TO_DIE = 15
"""After the end of a run, for all that it has started."""


def start(workspace: Path, environment: dict[str, str], *overrides: str) -> subprocess.Popen[bytes]:
    """Starts the command in a process group of its own, its output beside the workspace."""
    workspace.mkdir(exist_ok=True)
    with open(workspace / "output.txt", "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "flows", "run", TINY, *overrides],
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


Target = Literal["parent", "worker", "server"]
Signals = Literal["TERM", "KILL", "STOP", "STOP, parent KILL"]
CASES: list[tuple[Target, Signals]] = [
    *(("parent", "TERM"), ("parent", "KILL"), ("parent", "STOP")),
    *(("worker", "TERM"), ("worker", "KILL"), ("worker", "STOP"), ("worker", "STOP, parent KILL")),
    *(("server", "TERM"), ("server", "KILL"), ("server", "STOP")),
]
"""What is killed or stopped, and how; what is stopped goes on when a second run has had time to take its place."""
STAGES_WITH_WORKERS = ("clean", "pretrain", "dedup", "instruct", "shard", "finetune", "crawl")
SECONDS_STOPPED = 6


def processes_of(workspace: Path) -> dict[int, str]:
    """The command lines of all processes that work in a workspace, whoever has started them; zombies are none."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"SOURDOUGH_WORKSPACE={workspace}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found[int(path.name)] = (path / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it has ended in the meantime
            continue
    return {pid: command for pid, command in found.items() if command}


def kind_of(command: str) -> str:
    """What a process of a run is."""
    if "tasks.core.server" in command:
        return "server"
    return "worker" if "spawn_main" in command or " -m llm." in command else "other"


@dataclass
class Trial:
    """One run in which one stage is to be built, and something happens to it."""

    workspace: Path
    environment: dict[str, str]
    draw: random.Random
    artifact: Artifact
    """What is to be built; not there when the trial begins."""
    committed: set[int] = field(default_factory=set)
    """The directories that have been its own, by inode."""

    def pids(self, kind: str) -> list[int]:
        """The processes of a kind."""
        return sorted(pid for pid, command in processes_of(self.workspace).items() if kind_of(command) == kind)

    def start(self) -> subprocess.Popen[bytes]:
        """Starts a run with two workers."""
        return start(self.workspace, self.environment, "engine.n_workers=2")

    @property
    def place(self) -> Path:
        """Where the artifact is to be."""
        return self.workspace / "store" / self.artifact.stage / self.artifact.fingerprint

    def look(self) -> None:
        """Notes which directory the artifact is now."""
        with contextlib.suppress(FileNotFoundError):
            self.committed.add(self.place.stat().st_ino)

    def end_of(self, run: subprocess.Popen[bytes]) -> int:
        """Waits for the end of a run, with an eye on the artifact; returns its status."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while run.poll() is None:
            assert time.monotonic() < deadline, self.output()
            self.look()
            time.sleep(0.01)
        self.look()
        return run.returncode

    def wait_for(self, child: subprocess.Popen[bytes], target: Target) -> list[int]:
        """Waits until the stage is at work, and a random moment; returns the target, nothing if it was done by then."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not list(self.place.parent.glob(".tmp-*")) and child.poll() is None:
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.005)
        if target == "worker":
            while not self.pids("worker") and child.poll() is None:
                time.sleep(0.01)
        time.sleep(self.draw.uniform(0.0, 1.0 if target == "worker" else 0.3))
        found = [child.pid] if target == "parent" else self.pids(target)
        return found if child.poll() is None else []

    def hit(self, target: Target, signals: Signals) -> bool:
        """Runs, and does to the target what the signals say; returns whether it was there."""
        child = self.start()
        second = None
        try:
            pids = self.wait_for(child, target)
            if not pids:
                return False
            pid = self.draw.choice(pids)
            send(pid, getattr(signal, f"SIG{signals.split(',')[0]}"))
            if signals.startswith("STOP"):
                if "parent" in signals:
                    child.kill()
                    child.wait()
                second = self.start() if target != "server" else None
                time.sleep(SECONDS_STOPPED)
                send(pid, signal.SIGCONT)
            for run in filter(None, (child, second)):
                status = self.end_of(run)
                expects_success = target == "server" or run is second or (signals == "STOP" and target == "parent")
                assert status == 0 or not expects_success, self.output()
            return True
        finally:
            for run in filter(None, (child, second)):
                if run.poll() is None:
                    run.kill()
                    run.wait()

    def orphans(self) -> dict[int, str]:
        """What is left of the runs after the time that it has to die in."""
        deadline = time.monotonic() + SECONDS_TO_DIE
        while (left := processes_of(self.workspace)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def output(self) -> str:
        """What the runs have printed."""
        return (self.workspace / "output.txt").read_text()


def send(pid: int, number: int) -> None:
    """Sends a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        log.info("process %d has ended", pid)


@pytest.mark.parametrize(
    ("cases", "n"),
    [
        pytest.param([("worker", "STOP, parent KILL")], 1, id="some", marks=pytest.mark.timeout(600)),
        pytest.param(CASES, 100, id="many", marks=[pytest.mark.slow, pytest.mark.timeout(3 * 3600)]),
    ],
)
def test_nothing_is_lost_made_twice_or_left_behind(
    tiny: Run,
    tmp_path: Path,
    server_environment: dict[str, str],
    cases: list[tuple[Target, Signals]],
    n: int,
) -> None:
    workspace = tmp_path / "killed"
    shutil.copytree(tiny.workspace, workspace)
    happened: Counter[str] = Counter()
    for number in range(n):
        target, signals = cases[number % len(cases)]
        stage = STAGES_WITH_WORKERS[number // len(cases) % len(STAGES_WITH_WORKERS)]
        artifact = tiny.artifacts[stage]
        environment = dict(server_environment)
        if target == "server":
            environment.pop("PREFECT_API_URL")  # so the run starts a temporary one
        trial = Trial(workspace, environment, random.Random(number), artifact)
        shutil.rmtree(trial.place)
        was_there = trial.hit(target, signals)
        orphans = trial.orphans()
        happened[f"{target} {signals}" if was_there else "was done before"] += 1
        log.info("%d: %s of the %s in %s: hit %s, orphans %s", number, signals, target, stage, was_there, orphans)
        for pid, command in orphans.items():
            happened[f"orphan: {kind_of(command)}"] += 1
            send(pid, signal.SIGKILL)
        assert run_recipe(workspace).digests() == tiny.digests()
        trial.look()
        assert len(trial.committed) == 1
        assert [name for name in os.listdir(trial.place.parent) if name.startswith(".") and name != ".locks"] == []
    log.info("%s", dict(happened))
    assert not [name for name in happened if name.startswith("orphan")]
