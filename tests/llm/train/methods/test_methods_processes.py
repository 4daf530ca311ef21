"""Methods after fine-tuning: killed runs against unbroken ones, byte for byte, and two processes against one."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llm.files import write_json
from llm.process import read_metrics
from tests.llm.train.killed_job import run_until_call
from tests.llm.train.method_jobs import (
    QUIET,
    classify_job,
    make_reference,
    prefer_job,
    reinforce_job,
    write_labelled,
    write_questions,
)
from tests.llm.train.train_materials import artifact

N_KILLS = 4


def run(forkserver, job, n_calls):
    """Exit code of a process that trains and is killed at its `n_calls`-th change to the file system."""
    process = forkserver.Process(target=run_until_call, args=(job, n_calls))
    process.start()
    process.join()
    return process.exitcode


@pytest.fixture
def make_job(materials, tmp_path):
    """Makes a job of a kind in a folder."""

    def make(kind, folder):
        if kind == "prefer":
            return prefer_job(folder, materials, make_reference(tmp_path, materials))
        if kind == "reinforce":
            return reinforce_job(folder, materials, write_questions(tmp_path))
        return classify_job(folder, materials, write_labelled(tmp_path), n_steps=6)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prefer", "reinforce", "classify"])
def test_a_killed_run_ends_with_the_same_bytes(kind, forkserver, make_job, tmp_path):
    assert run(forkserver, make_job(kind, tmp_path / "unbroken"), -1) == 0
    n_changes = int((tmp_path / "unbroken" / "work" / "n_calls").read_text())
    for n_calls in random.Random(kind).sample(range(1, n_changes + 1), N_KILLS):
        folder = tmp_path / str(n_calls)
        job = make_job(kind, folder)
        assert run(forkserver, job, n_calls) == -signal.SIGKILL
        for path in Path(job["out_dir"]).iterdir():
            path.unlink()
        assert run(forkserver, job, -1) == 0
        assert artifact(folder) == artifact(tmp_path / "unbroken"), f"after a kill at change {n_calls}"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "tensor"])
def test_two_processes_learn_the_preferences_that_one_learns(strategy, materials, tmp_path):
    reference_dir, losses = make_reference(tmp_path, materials), []
    for parallel in ({}, {"n_processes": 2, "strategy": strategy}):
        folder = tmp_path / str(len(losses))
        job = prefer_job(folder, materials, reference_dir, n_steps=4, loop=QUIET | {"parallel": parallel})
        write_json(folder / "job.json", job)
        subprocess.run([sys.executable, "-m", "llm.train", str(folder / "job.json")], check=True, capture_output=True)
        lines = read_metrics(folder / "work" / "metrics.jsonl")
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
