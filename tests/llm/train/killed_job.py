"""Runs a training job in this process, and kills it at a chosen moment."""

import os
import signal
from pathlib import Path
from typing import Any

from llm.train.__main__ import train

WATCHED_CALLS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")


def run_until_call(job: dict[str, Any], n_calls: int) -> None:
    """Trains in this process and kills it just before its `n_calls`-th change to the file system."""
    count = 0

    def watched(call):
        def counted(*args, **kwargs):
            nonlocal count
            count += 1
            if count == n_calls:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counted

    for name in WATCHED_CALLS:
        setattr(os, name, watched(getattr(os, name)))
    train(job)
    (Path(job["work_dir"]) / "n_calls").write_text(str(count))
