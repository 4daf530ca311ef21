"""A stage's own process: it is followed, its errors arrive, it stops when asked, it dies with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm.files import file_state, read_json, write_json
from llm.process import EXIT_FAILED, read_metrics
from tasks.core.build import Build, WorkerLost
from tasks.core.engine import EngineConfig
from tasks.core.fingerprint import Origin, code_closure
from tasks.core.workspace import REPOSITORY

JOB = "tests.tasks.core.job_for_tests"


def make_build(root: Path, heard: list[Any]) -> Build:
    out_dir = root / "out"
    out_dir.mkdir(parents=True, exist_ok=True)
    return Build(out_dir, root / "work", EngineConfig(), lambda *arguments: heard.append(arguments))


def test_metrics_arrive_and_counts_come_back(tmp_path: Path) -> None:
    heard: list[Any] = []
    counts = make_build(tmp_path, heard).process(JOB, n_steps=3, ending="well")
    assert counts.n_out == 3
    assert (tmp_path / "out" / "result.txt").read_text() == "done"
    assert [line["loss"] for _, _, lines in heard for line in lines] == [1, 1 / 2, 1 / 3]
    assert heard[-1][:2] == (3, 3)


@pytest.mark.parametrize(
    ("ending", "error", "message"),
    [
        ("value", ValueError, "the message"),
        ("network", ConnectionError, "the message"),
        ("bug", RuntimeError, "KeyError"),
        ("kill", WorkerLost, "SIGKILL"),
    ],
)
def test_a_failure_arrives_as_what_it_was(tmp_path: Path, ending: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_build(tmp_path, []).process(JOB, n_steps=1, ending=ending)


def test_an_interrupted_parent_asks_its_child_to_stop(tmp_path: Path) -> None:
    build = make_build(tmp_path, [])
    timer = threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            build.process(JOB, n_steps=1000, step_seconds=0.1, ending="well")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "work" / "stopped").exists()


def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, '.')\n"
        "from tests.tasks.core.test_build import make_build, JOB\n"
        "make_build(Path(sys.argv[1]), []).process(JOB, n_steps=1000, step_seconds=0.05, ending='well')\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY)
    metrics = tmp_path / "work" / "metrics.jsonl"
    deadline = time.monotonic() + 30
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while not (tmp_path / "work" / "stopped").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    size = metrics.stat().st_size
    time.sleep(0.5)
    assert size > 0
    assert metrics.stat().st_size == size


def test_a_child_whose_parent_died_while_it_was_starting_ends(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    job = {"parent_pid": dead.pid, "work_dir": str(tmp_path), "out_dir": str(tmp_path), "n_steps": 1, "ending": "well"}
    write_json(tmp_path / "job.json", job)
    child = subprocess.run([sys.executable, "-m", JOB, str(tmp_path / "job.json")], cwd=REPOSITORY, check=False)
    assert child.returncode == -signal.SIGTERM
    assert not (tmp_path / "result.txt").exists()


def test_a_process_with_other_code_or_files_than_asked_for_refuses_to_work(tmp_path: Path) -> None:
    """Code that was edited between its start and what it loads; so would a machine with other code."""
    files = {"llm/files.py": "0" * 64, "llm/counts.py": file_state(REPOSITORY / "llm/counts.py"), str(tmp_path): "1 2"}
    folders = {"work_dir": str(tmp_path), "out_dir": str(tmp_path)}
    write_json(tmp_path / "job.json", {"made_of": files, "n_steps": 1, "ending": "well", **folders})
    child = subprocess.run([sys.executable, "-m", JOB, str(tmp_path / "job.json")], cwd=REPOSITORY, check=False)
    assert child.returncode == EXIT_FAILED
    error = read_json(tmp_path / "error.json")
    assert error["kinds"][0] == "ValueError"
    assert f"{REPOSITORY}: {tmp_path}, llm/files.py; nobody can say" in error["message"]
    assert not (tmp_path / "metrics.jsonl").exists()
    assert not (tmp_path / "result.txt").exists()


def test_no_process_is_started_for_code_that_was_edited_since_the_run_began(tmp_path: Path) -> None:
    build = make_build(tmp_path, [])
    code = code_closure(["llm.counts"])
    build.origin = Origin(("llm.counts",), code)
    build.process(JOB, n_steps=1, ending="well")
    assert read_json(tmp_path / "work" / "job.json")["made_of"] == build.origin.files() != {}
    build.origin = Origin(("llm.counts",), replace(code, content="other", modules={"llm.counts": "other"}))
    with pytest.raises(ValueError, match=r"code of llm\.counts has changed"):
        build.process(JOB, n_steps=2, ending="well")
    assert read_json(tmp_path / "work" / "job.json")["n_steps"] == 1


def test_a_damaged_line_of_metrics_costs_that_line(tmp_path: Path) -> None:
    build = make_build(tmp_path, [])
    build.process(JOB, n_steps=3, ending="well")
    path = tmp_path / "work" / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"\xff" + lines[1], lines[2].replace(b'"step"', b'"stdp"'), b"[1]", b""]))
    assert [line["step"] for line in read_metrics(path)] == [1]
    heard: list[Any] = []
    make_build(tmp_path, heard).process(JOB, n_steps=2, ending="well")
    assert read_metrics(path)[0]["step"] == 1
