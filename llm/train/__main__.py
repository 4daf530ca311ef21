"""`python -m llm.train job.json`: pretraining or a method that follows it, as a process of its own.

The job file: `kind` (see `KINDS`), `config` (plain values), `work_dir` (checkpoints, metrics), `out_dir` (the model,
written at the end), and the folders that the method reads, named as its function names them; with `cache_dir` compiled
code is kept there for the next run. On SIGTERM the process saves a checkpoint and ends; started again it goes on from
there. With `loop.parallel.n_processes` above 1 it starts that many processes for the job and watches them; under
torchrun it is one of those that torchrun has started (see parallel.py).
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

from ..config import Config, from_dict
from ..counts import Counts
from ..files import read_json
from ..process import die_with_parent, run_job
from .classify import classify
from .compile import keep_code_in
from .config import PretrainConfig
from .finetune import finetune
from .launch import launch
from .method_configs import ClassifyConfig, FinetuneConfig, PreferConfig, ReferenceConfig, ReinforceConfig
from .parallel import leave
from .prefer import prefer
from .pretrain import pretrain
from .reference import reference
from .reinforce import reinforce

KINDS: dict[str, tuple[Callable[..., Counts], type[Config]]] = {
    "pretrain": (pretrain, PretrainConfig),
    "finetune": (finetune, FinetuneConfig),
    "reference": (reference, ReferenceConfig),
    "prefer": (prefer, PreferConfig),
    "reinforce": (reinforce, ReinforceConfig),
    "classify": (classify, ClassifyConfig),
}
"""What each kind of job calls, with the job's folders as arguments, and the class of its config."""


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
    """Calls the function for a job's kind with its folders and config."""
    if job["kind"] not in KINDS:
        raise ValueError(f"kind is {job['kind']!r}; allowed: {', '.join(map(repr, KINDS))}")
    folders = {name: Path(path) for name, path in job.items() if name.endswith("_dir")}
    if "cache_dir" in folders:
        keep_code_in(folders.pop("cache_dir"))
    function, config_class = KINDS[job["kind"]]
    return function(**folders, config=from_dict(config_class, job["config"]), should_stop=should_stop)


if __name__ == "__main__":
    main()
