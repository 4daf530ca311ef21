"""Killed and resumed runs against unbroken ones, byte for byte."""

import functools
import json
import logging
import multiprocessing.forkserver
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from llm.files import file_state, write_json
from llm.process import REPOSITORY
from llm.train.__main__ import train
from llm.train.checkpoint import Checkpoints
from llm.train.parallel import World
from tests.llm.train.killed_job import run_until_call, run_until_save, run_until_step
from tests.llm.train.train_materials import TINY, artifact, tiny_job

log = logging.getLogger(__name__)

KINDS = ("pretrain", "finetune", "muon", "lora")


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


def run_in_process(processes, job, n_calls, run=run_until_call):
    """Exit code of a process that trains and is killed at its `n_calls`-th change."""
    process = processes.Process(target=run, args=(job, n_calls))
    process.start()
    process.join()
    return process.exitcode


def make_job(materials, folder, kind):
    """A job with dropout: `pretrain`, `finetune`, with `lora`, or `muon`, which is a modern model with Muon."""
    if kind == "lora":
        return tiny_job(materials, folder, "finetune", lora={"rank": 2})
    if kind != "muon":
        return tiny_job(materials, folder, kind)
    return tiny_job(materials, folder, model=TINY | {"architecture": "modern"}, optimizer={"kind": "muon"})


@pytest.fixture(scope="module")
def unbroken(processes, materials, tmp_path_factory):
    """For each kind the files of an unbroken run, and how many changes to the file system it made."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        assert run_in_process(processes, make_job(materials, folder, kind), -1) == 0
        found[kind] = (artifact(folder), int((folder / "work" / "n_calls").read_text()))
    return found


def empty(out_dir):
    """What the parent does before it runs a job again."""
    for path in out_dir.iterdir():
        path.unlink()


def require_same_after_kill(processes, materials, unbroken, folder, kind, n_calls):
    expected, _ = unbroken[kind]
    job = make_job(materials, folder, kind)
    assert run_in_process(processes, job, n_calls) == -signal.SIGKILL
    empty(folder / "out")
    assert run_in_process(processes, job, -1) == 0
    assert artifact(folder) == expected, f"after a kill at change {n_calls}; see {folder}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_while_it_writes_ends_with_the_same_bytes(kind, processes, materials, unbroken, tmp_path):
    _, n_changes = unbroken[kind]
    for n_calls in random.Random(kind).sample(range(1, n_changes + 1), 2):
        require_same_after_kill(processes, materials, unbroken, tmp_path / str(n_calls), kind, n_calls)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_at_any_write_ends_with_the_same_bytes(kind, processes, materials, unbroken, tmp_path):
    for n_calls in range(1, unbroken[kind][1] + 1):
        require_same_after_kill(processes, materials, unbroken, tmp_path / str(n_calls), kind, n_calls)


def killed_again_and_again(processes, job, run, draw, *, most=6):
    """Runs a job to its end, after up to `most` kills; yields after each of them."""
    for _ in range(most):
        # a process that finishes first is not killed
        if run_in_process(processes, job, draw.randint(1, 8), functools.partial(run, seed=draw.getrandbits(32))) == 0:
            return
        empty(Path(job["out_dir"]))
        yield
    assert run_in_process(processes, job, -1) == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills_at_random_steps_change_no_bit(processes, materials, unbroken, tmp_path):
    """Of losses (in the metrics) and weights; the model is pretrained, fine-tuned, and pretrained with Muon in turn."""
    draw, n_kills, n_runs = random.Random(0), 0, 0
    while n_kills < 50:
        kind, folder = KINDS[n_runs % len(KINDS)], tmp_path / str(n_runs)
        job = make_job(materials, folder, kind)
        n_kills += sum(1 for _ in killed_again_and_again(processes, job, run_until_step, draw))
        assert artifact(folder) == unbroken[kind][0]
        n_runs += 1
    log.info("%d kills at random steps of %d runs: all equal to unbroken ones", n_kills, n_runs)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("in_background", [False, True])
def test_a_hundred_kills_while_saving_leave_a_whole_checkpoint(
    in_background, processes, materials, unbroken, tmp_path, caplog
):
    draw, n_kills, n_runs, n_half_written = random.Random(0), 0, 0, 0
    while n_kills < 100:
        kind, folder = KINDS[n_runs % len(KINDS)], tmp_path / str(n_runs)
        job = make_job(materials, folder, kind)
        job["config"]["loop"] = job["config"]["loop"] | {"checkpoint_in_background": in_background}
        before = -1
        for _ in killed_again_and_again(processes, job, run_until_save, draw, most=12):
            n_kills += 1
            checkpoints = folder / "work" / "checkpoints"
            n_half_written += any(checkpoints.glob(".step-*"))
            found = Checkpoints(checkpoints, World(torch.device("cpu"))).newest()
            step = -1 if found is None else found.state["step"]
            assert step >= before, "what was saved is lost"
            before = step
        assert artifact(folder) == unbroken[kind][0]
        n_runs += 1
    assert "is skipped" not in caplog.text
    log.info("%d kills while saving in %d runs, %d with a checkpoint half-written", n_kills, n_runs, n_half_written)


def test_a_run_killed_again_and_again_ends_with_the_same_bytes(processes, materials, unbroken, tmp_path):
    """Kills at random moments; whatever it was doing, it goes on from the last checkpoint."""
    draw = random.Random(0)
    job = tiny_job(materials, tmp_path)
    exit_codes = []
    while not exit_codes or exit_codes[-1] != 0:
        process = processes.Process(target=run_until_call, args=(job, -1))
        process.start()
        time.sleep(draw.uniform(0.02, 0.1 * 1.5 ** len(exit_codes)))  # longer each time, so that it ends at last
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
        ({"optimizer": {"learning_rate": 0.5}}, "optimizer.learning_rate: [0-9.]+ then, 0.5 now"),
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
    deadline = time.monotonic() + 120
    while (not metrics.exists() or metrics.read_text().count("\n") < 5) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    stderr = process.communicate(timeout=30)[1]
    assert process.returncode == 3, stderr.decode()
    newest = max((tmp_path / "work" / "checkpoints").iterdir())
    assert 1 <= json.loads((newest / "state.json").read_text())["state"]["step"] < 150
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"going on from step" in done.stderr
    counts = json.loads((tmp_path / "work" / "counts.json").read_text())
    assert counts["figures"]["n_steps"] == 150


@pytest.mark.parametrize("what", ["code", "outside file"])
def test_no_checkpoint_is_made_of_what_was_edited_while_it_was_loaded(what, materials, tmp_path):
    """Undone later, the edit would be in a model that says it was made without; after the loading it harms nobody."""
    file = tmp_path / "labels.txt"
    file.write_text("1")
    name = "llm/train/loop.py" if what == "code" else str(file)
    state = file_state(REPOSITORY / name)
    job = tiny_job(materials, tmp_path) | {"made_of": {name: "another state"}}
    with pytest.raises(ValueError, match=rf"others than when it was started.*: {name}; .*run again"):
        train(job)
    assert not list((tmp_path / "work").rglob("step-*"))
    assert list((tmp_path / "out").iterdir()) == []
    assert train(job | {"made_of": {name: state}}).n_out > 0
