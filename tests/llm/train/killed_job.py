"""Runs a training job in this process, and kills it at a chosen moment."""

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

from llm.process import Stopped
from llm.train.__main__ import train
from llm.train.checkpoint import Checkpoints
from llm.train.loop import Trainer

WATCHED_CALLS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")


def kill_this_process() -> None:
    """As `kill -9` from outside: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def run_until_call(job: dict[str, Any], n_calls: int) -> None:
    """Trains in this process and kills it just before its `n_calls`-th change to the file system."""
    count = 0

    def watched(call):
        def counted(*args, **kwargs):
            nonlocal count
            count += 1
            if count == n_calls:
                kill_this_process()
            return call(*args, **kwargs)

        return counted

    for name in WATCHED_CALLS:
        setattr(os, name, watched(getattr(os, name)))
    train(job)
    (Path(job["work_dir"]) / "n_calls").write_text(str(count))


def run_until_step(job: dict[str, Any], n_steps: int, seed: int) -> None:
    """Trains in this process and kills it at a random moment of its `n_steps`-th step, if it comes to that."""
    draw, count, step = random.Random(seed), 0, Trainer.step

    def watched(self: Trainer) -> None:
        nonlocal count
        count += 1
        if count == n_steps:
            threading.Timer(draw.uniform(0, 0.02), kill_this_process).start()
        step(self)

    Trainer.step = watched  # type: ignore[method-assign]
    try:
        train(job)
    except Stopped:
        os._exit(3)


def run_until_save(job: dict[str, Any], n_saves: int, seed: int) -> None:
    """Trains in this process and kills it at a random moment while it writes its `n_saves`-th checkpoint.

    The moment is drawn from the time that the checkpoint before took.
    """
    draw, count, seconds, write = random.Random(seed), 0, 0.01, Checkpoints._write

    def watched(self: Checkpoints, *arguments: Any) -> None:
        nonlocal count, seconds
        count += 1
        if count == n_saves:
            threading.Timer(draw.uniform(0, seconds), kill_this_process).start()
        started = time.perf_counter()
        write(self, *arguments)
        seconds = time.perf_counter() - started
        if count == n_saves:
            kill_this_process()  # the timer was late: right after

    Checkpoints._write = watched  # type: ignore[method-assign]
    train(job)
