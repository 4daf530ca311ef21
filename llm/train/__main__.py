"""`python -m llm.train job.json`: pretraining or fine-tuning as a process of its own.

The job file: `kind` ("pretrain" or "finetune"), `config` (plain values), `work_dir` (checkpoints, metrics), `out_dir`
(the model, written at the end), `tokenizer_dir`, and `shards_dir`, or `base_dir` and `examples_dir`; with `cache_dir`
compiled code is kept there for the next run. On SIGTERM the
process saves a checkpoint and ends; started again it goes on from there. With `loop.parallel.n_processes` above 1 it
starts that many processes for the job and watches them; under torchrun it is one of those that torchrun has started
(see parallel.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..config import from_dict
from ..counts import Counts
from ..files import read_json
from ..process import die_with_parent, run_job
from .compile import keep_code_in
from .config import FinetuneConfig, PretrainConfig
from .finetune import finetune
from .launch import launch
from .parallel import leave
from .pretrain import pretrain


def main() -> None:
    """Does what the job file named on the command line says, in as many processes as it says."""
    job_path = Path(sys.argv[1])
    job = read_json(job_path)
    n_processes = job["config"].get("loop", {}).get("parallel", {}).get("n_processes", 1)
    if n_processes > 1 and "RANK" not in os.environ:
        die_with_parent()
        sys.exit(launch("llm.train", job_path, Path(job["work_dir"]), n_processes))
    run_job(train)
    leave()


def train(job: dict[str, Any]) -> Counts:
    """Does what a job file says; raises `Stopped` after a SIGTERM."""
    with sigterm_event() as stop:
        return train_until(job, stop.is_set)


@contextlib.contextmanager
def sigterm_event() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, instead of ending the process."""
    event = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def train_until(job: dict[str, Any], should_stop: Callable[[], bool]) -> Counts:
    """Calls the function for a job's kind with its paths and config."""
    paths = {name: Path(job[name]) for name in ("tokenizer_dir", "work_dir", "out_dir")}
    if "cache_dir" in job:
        keep_code_in(Path(job["cache_dir"]))
    if job["kind"] == "pretrain":
        config = from_dict(PretrainConfig, job["config"])
        return pretrain(Path(job["shards_dir"]), **paths, config=config, should_stop=should_stop)
    if job["kind"] == "finetune":
        folders = {name: Path(job[name]) for name in ("base_dir", "examples_dir")}
        return finetune(**folders, **paths, config=from_dict(FinetuneConfig, job["config"]), should_stop=should_stop)
    raise ValueError(f"kind is {job['kind']!r}; allowed: 'pretrain', 'finetune'")


if __name__ == "__main__":
    main()
