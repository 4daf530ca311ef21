"""`python -m llm.train job.json`: pretraining or a method that follows it, as a process of its own.

The job file: `method` (the module that holds the function of the same name), `config` (plain values), `work_dir`
(checkpoints, metrics), `out_dir` (the model, written at the end), and the folders that the method reads, named as its
function names them; with `cache_dir` compiled code is kept there for the next run. On SIGTERM the process saves a
checkpoint and ends; started again it goes on from there. With `loop.parallel.n_processes` above 1 it starts that many
processes for the job and watches them; under torchrun it is one of those that torchrun has started (see parallel.py).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import signal
import sys
import threading
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..config import from_dict
from ..counts import Counts
from ..files import read_json
from ..process import die_with_parent, require_files, run_job
from .compile import sharing_code
from .launch import launch
from .parallel import leave


def main() -> None:
    """Does what the job file named on the command line says, in as many processes as it says."""
    job_path = Path(sys.argv[1])
    job = read_json(job_path)
    n_processes = job["config"].get("loop", {}).get("parallel", {}).get("n_processes", 1)
    if n_processes > 1 and "RANK" not in os.environ:
        die_with_parent(job.get("parent_pid"))
        with sharing_code_of(job):
            status = launch("llm.train", job_path, Path(job["work_dir"]), n_processes)
        sys.exit(status)
    run_job(train)
    leave()


def train(job: dict[str, Any]) -> Counts:
    """Does what a job file says; raises `Stopped` after a SIGTERM."""
    is_one_of_several = "RANK" in os.environ  # then the process that has started them sees to the compiled code
    with sigterm_event() as stop, contextlib.nullcontext() if is_one_of_several else sharing_code_of(job):
        return train_until(job, stop.is_set)


def sharing_code_of(job: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
    """Keeps compiled code in the directory that a job names for it, if it does."""
    if "cache_dir" not in job:
        return contextlib.nullcontext()
    return sharing_code(Path(job["cache_dir"]), Path(job["work_dir"]) / "compiled")


@contextlib.contextmanager
def sigterm_event() -> Iterator[threading.Event]:
    """Yields an event that SIGTERM sets, instead of ending the process."""
    event = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def train_until(job: dict[str, Any], should_stop: Callable[[], bool]) -> Counts:
    """Calls a job's method with its folders and config."""
    function = getattr(importlib.import_module(job["method"]), job["method"].rpartition(".")[2])
    config = from_dict(typing.get_type_hints(function)["config"], job["config"])
    folders = {name: Path(path) for name, path in job.items() if name.endswith("_dir") and name != "cache_dir"}
    as_asked = functools.cache(lambda: require_files(job))

    def asks_to_stop() -> bool:
        as_asked()  # code and outside files are loaded when a method asks first, and no checkpoint is written
        return should_stop()

    made: Counts = function(**folders, config=config, should_stop=asks_to_stop)
    return made


if __name__ == "__main__":
    main()
