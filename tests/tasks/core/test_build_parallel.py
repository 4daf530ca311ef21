"""A training of several processes as a stage runs it: a process is killed, the stage is stopped, its parent dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llm.files import read_json, write_json
from llm.process import read_metrics
from tasks.core.build import Build, WorkerLost
from tasks.core.engine import EngineConfig
from tasks.core.workspace import REPOSITORY
from tests.llm.train.train_materials import CONTEXT_LENGTH, LOOP, TINY, make_materials

pytestmark = pytest.mark.slow

SECONDS_TO_START = 120


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """80 steps with a checkpoint every 5, on two processes."""
    made = make_materials(tmp_path_factory.mktemp("materials"))
    loop = LOOP | {"checkpoint_every": 5, "eval_every": 20, "parallel": {"n_processes": 2, "strategy": "fsdp"}}
    config = {"n_steps": 80, "batch_tokens": 8 * CONTEXT_LENGTH, "model": TINY, "loop": loop}
    return {
        "kind": "pretrain",
        "config": config,
        "shards_dir": str(made.shards_dir),
        "tokenizer_dir": str(made.tokenizer_dir),
    }


def make_build(root: Path) -> Build:
    out_dir = root / "out"
    out_dir.mkdir(parents=True, exist_ok=True)
    return Build(out_dir, root / "work", EngineConfig(), lambda *_: None)


def after_step(work_dir: Path, step: int, action: Any) -> threading.Thread:
    """Calls `action` in a thread when the run has come to a step."""

    def watch() -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline:
            lines = read_metrics(work_dir / "metrics.jsonl")
            if lines and lines[-1]["step"] >= step:
                return action()
            time.sleep(0.005)
        return None

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def ranks_of(work_dir: Path) -> dict[str, int]:
    """The process id of each rank that trains in a work directory."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if str(work_dir / "job.json") in (path / "cmdline").read_text().split("\0"):
                variables = dict(v.split("=", 1) for v in (path / "environ").read_text().split("\0") if "=" in v)
                if "RANK" in variables:
                    found[variables["RANK"]] = int(path.name)
        except OSError:  # it has ended in the meantime
            continue
    return found


def test_a_killed_rank_is_named_and_a_retry_ends_as_an_unbroken_run(job: dict[str, Any], tmp_path: Path) -> None:
    make_build(tmp_path / "unbroken").process("llm.train", **job)
    build = make_build(tmp_path / "killed")
    after_step(build.work_dir, 12, lambda: os.kill(ranks_of(build.work_dir)["1"], signal.SIGKILL))
    start = time.monotonic()
    with pytest.raises(WorkerLost, match="process 1 of 2 was ended by SIGKILL"):
        build.process("llm.train", **job)
    assert time.monotonic() - start < SECONDS_TO_START
    assert not ranks_of(build.work_dir)
    build.process("llm.train", **job)
    assert [line["step"] for line in read_metrics(build.work_dir / "metrics.jsonl") if "loss" in line] == [
        *range(1, 81)
    ]
    first, second = ((tmp_path / name / "out" / "model.safetensors").read_bytes() for name in ("unbroken", "killed"))
    assert first == second


def test_a_stopped_stage_leaves_a_checkpoint_of_all_ranks(job: dict[str, Any], tmp_path: Path) -> None:
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    (tmp_path / "out").mkdir()
    write_json(tmp_path / "job.json", job | {"work_dir": str(work_dir), "out_dir": str(tmp_path / "out")})
    command = [sys.executable, "-m", "llm.train", str(tmp_path / "job.json")]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE)
    after_step(work_dir, 7, process.terminate)
    stderr = process.communicate(timeout=SECONDS_TO_START)[1].decode()
    assert process.returncode == 3, stderr
    newest = sorted((work_dir / "checkpoints").glob("step-*"))[-1]
    state = read_json(newest / "state.json")
    assert state["world_size"] == 2
    assert 7 <= state["state"]["step"] < 80
    assert state["state"]["step"] == read_metrics(work_dir / "metrics.jsonl")[-1]["step"]


def test_ranks_do_not_outlive_a_killed_parent(job: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "job.json", job)
    code = (
        "import json, sys; from pathlib import Path; sys.path.insert(0, '.')\n"
        "from tests.tasks.core.test_build_parallel import make_build\n"
        "root = Path(sys.argv[1])\n"
        "make_build(root).process('llm.train', **json.loads((root / 'job.json').read_text()))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY)
    work_dir = tmp_path / "work"
    after_step(work_dir, 3, parent.kill).join()
    parent.wait()
    deadline = time.monotonic() + 40
    while ranks_of(work_dir) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not ranks_of(work_dir)
    assert list((work_dir / "checkpoints").glob("step-*"))
