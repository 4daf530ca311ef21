"""Killed and resumed runs against unbroken ones, byte for byte."""

import json
import multiprocessing.forkserver
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm.files import write_json
from llm.train.__main__ import train
from tests.llm.train.killed_job import run_until_call
from tests.llm.train.train_materials import artifact, tiny_job


@pytest.fixture(scope="module")
def processes():
    """Processes forked from one that has imported all they need: a new one takes milliseconds."""
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        # torch.optim imports torch._dynamo at its first step, which takes longer than all the training here
        context.set_forkserver_preload(["pytest", "torch._dynamo", "killed_job"])
        multiprocessing.forkserver.ensure_running()
    return context


def run_in_process(processes, job, n_calls):
    """Exit code of a process that trains and is killed at its `n_calls`-th change."""
    process = processes.Process(target=run_until_call, args=(job, n_calls))
    process.start()
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def unbroken(processes, materials, tmp_path_factory):
    """For each kind the files of an unbroken run, and how many changes to the file system it made."""
    found = {}
    for kind in ("pretrain", "finetune"):
        folder = tmp_path_factory.mktemp(kind)
        assert run_in_process(processes, tiny_job(materials, folder, kind), -1) == 0
        found[kind] = (artifact(folder), int((folder / "work" / "n_calls").read_text()))
    return found


def empty(out_dir):
    """What the parent does before it runs a job again."""
    for path in out_dir.iterdir():
        path.unlink()


def require_same_after_kill(processes, materials, unbroken, folder, kind, n_calls):
    expected, _ = unbroken[kind]
    job = tiny_job(materials, folder, kind)
    assert run_in_process(processes, job, n_calls) == -signal.SIGKILL
    empty(folder / "out")
    assert run_in_process(processes, job, -1) == 0
    assert artifact(folder) == expected, f"after a kill at change {n_calls}; see {folder}"


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_run_killed_while_it_writes_ends_with_the_same_bytes(kind, processes, materials, unbroken, tmp_path):
    _, n_changes = unbroken[kind]
    for n_calls in random.Random(kind).sample(range(1, n_changes + 1), 8):
        require_same_after_kill(processes, materials, unbroken, tmp_path / str(n_calls), kind, n_calls)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_run_killed_at_any_write_ends_with_the_same_bytes(kind, processes, materials, unbroken, tmp_path):
    for n_calls in range(1, unbroken[kind][1] + 1):
        require_same_after_kill(processes, materials, unbroken, tmp_path / str(n_calls), kind, n_calls)


def test_a_run_killed_again_and_again_ends_with_the_same_bytes(processes, materials, unbroken, tmp_path):
    """Kills at random moments; whatever it was doing, it goes on from the last checkpoint."""
    draw = random.Random(0)
    job = tiny_job(materials, tmp_path)
    exit_codes = []
    while not exit_codes or exit_codes[-1] != 0:
        process = processes.Process(target=run_until_call, args=(job, -1))
        process.start()
        time.sleep(draw.uniform(0.02, 0.1 + 0.1 * len(exit_codes)))  # longer each time, so that it ends at last
        process.kill()
        process.join()
        exit_codes.append(process.exitcode)
        if process.exitcode != 0:
            empty(tmp_path / "out")
    assert exit_codes.count(-signal.SIGKILL) >= 2
    assert artifact(tmp_path) == unbroken["pretrain"][0]


def test_metrics_of_a_resumed_run_hold_every_step_once(processes, materials, unbroken, tmp_path):
    job = tiny_job(materials, tmp_path)
    run_in_process(processes, job, unbroken["pretrain"][1] * 2 // 3)
    run_in_process(processes, job, -1)
    lines = [json.loads(line) for line in (tmp_path / "work" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optimizer": {"learning_rate": 0.5}}, "optimizer.learning_rate: 0.003 then, 0.5 now"),
        ({"n_steps": 9}, "n_steps"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(changes, named, materials, tmp_path):
    train(tiny_job(materials, tmp_path))
    with pytest.raises(ValueError, match=f"belongs to another run .*{named}"):
        train(tiny_job(materials, tmp_path, **changes))


def test_the_process_stops_on_sigterm_and_goes_on(materials, tmp_path):
    """As its parent runs it: `python -m llm.train job.json`, exit status 3 when stopped, 0 when done."""
    long_loop = {"eval_every": 10**6, "checkpoint_every": 10**6, "log_every": 1, "n_threads": 1}
    job = tiny_job(materials, tmp_path, n_steps=150, loop=long_loop)
    write_json(tmp_path / "job.json", job)
    command = [sys.executable, "-m", "llm.train", str(tmp_path / "job.json")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    metrics = tmp_path / "work" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while (not metrics.exists() or metrics.read_text().count("\n") < 5) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    stderr = process.communicate(timeout=20)[1]
    assert process.returncode == 3, stderr.decode()
    (checkpoint,) = (tmp_path / "work" / "checkpoints").iterdir()
    assert 1 <= json.loads((checkpoint / "state.json").read_text())["state"]["step"] < 150
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"going on from step" in done.stderr
    counts = json.loads((tmp_path / "work" / "counts.json").read_text())
    assert counts["figures"]["n_steps"] == 150
