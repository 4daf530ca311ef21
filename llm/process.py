"""The child's side of a stage that runs in a process of its own: `python -m MODULE job.json`.

The job file holds plain values. The child appends progress and metrics to `metrics.jsonl` in its work directory, one
JSON object a line, `step` first (and `of`, the last step, where it is known); the parent follows that file. At the end
the child leaves its counts in `counts.json`, or, if it failed, the failure in `error.json`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .counts import Counts
from .files import changed_files, exclusive_lock, read_json, write_json, write_text

REPOSITORY = Path(__file__).resolve().parents[1]
COUNTS_FILE = "counts.json"
ERROR_FILE = "error.json"
METRICS_FILE = "metrics.jsonl"
EXIT_FAILED, EXIT_STOPPED = 1, 3


class Stopped(Exception):
    """Raised by a job that was asked to stop (SIGTERM) and has saved what it needs to go on later."""


class ProcessLost(Exception):
    """What is left as the error of a job of several processes when one of them was killed from outside."""


def run_job(job: Callable[[dict[str, Any]], Counts]) -> None:
    """Runs `job` with the values of the job file named on the command line, then exits the process.

    Exit status: 0 done, 1 failed (type and message in `error.json`), 3 stopped on request. The work directory
    (`job["work_dir"]`) is locked, so an orphan of a killed run and its successor never share it. Of several processes
    that torchrun has started for one job the first holds the lock and leaves the counts; the error is that of the
    process that failed first.
    """
    values = read_json(Path(sys.argv[1]))
    is_one_of_several = "RANK" in os.environ  # then its parent is the process that watches them
    die_with_parent(None if is_one_of_several else values.get("parent_pid"))
    is_first = os.environ.get("RANK", "0") == "0"
    level = logging.INFO if is_first else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    work_dir = Path(values["work_dir"])
    with exclusive_lock(work_dir / "lock") if is_first else contextlib.nullcontext():
        if is_first:
            for name in (ERROR_FILE, COUNTS_FILE):
                (work_dir / name).unlink(missing_ok=True)
        try:
            require_files(values)
            counts = job(values)
            if is_first:
                write_json(work_dir / COUNTS_FILE, counts.to_dict())
        except Stopped:
            sys.exit(EXIT_STOPPED)
        except Exception as error:
            traceback.print_exc()
            with contextlib.suppress(FileExistsError):
                write_error(work_dir, error)
            sys.exit(EXIT_FAILED)


def require_files(values: dict[str, Any]) -> None:
    """Raises ValueError that names the files in a job's `made_of` which are not in the state given there.

    These are the code, named from the repository's root, and the outside files that the job is asked to work with. A
    job calls it when it has loaded them, before it leaves anything that a later try goes on from.
    """
    changed = changed_files(values.get("made_of", {}), REPOSITORY)
    if changed:
        raise ValueError(
            f"files that it is made of are others than when it was started, on {platform.node()} in {REPOSITORY}: "
            f"{', '.join(changed)}; nobody can say what would be made of them; run again"
        )


def write_error(work_dir: Path, error: Exception) -> None:
    """Leaves the type and message of an error as `error.json`; raises FileExistsError when there is one already."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    with open(work_dir / ERROR_FILE, "x", encoding="utf-8") as file:
        json.dump({"kinds": kinds, "message": str(error)}, file)


def die_with_parent(parent: int | None = None) -> None:
    """Arranges a SIGTERM for this process when its parent dies, so that no orphan works on.

    `parent` is the process id of that parent, which may have died before this is called; None: it lives.
    """
    parent = parent or os.getppid()
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() == parent:
            return
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


class MetricsLog:
    """Appends metric lines to `metrics.jsonl`; each line reaches the disk's cache before `write` returns."""

    def __init__(self, work_dir: Path, *, keep: Callable[[dict[str, Any]], bool] = lambda line: True) -> None:
        """Opens the log for appending, after taking away a half-written line and the lines that are not to `keep`."""
        self.path = work_dir / METRICS_FILE
        self._open(keep)

    def _open(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        kept = [line for line in read_metrics(self.path) if keep(line)]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - lives as long as the run

    def cut(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Takes away the lines that are not to `keep`."""
        self.close()
        self._open(keep)

    def write(self, step: int, **values: float | str) -> None:
        """Appends one line."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file; further writes raise ValueError."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics file; damaged ones, and a last line cut short by a kill, are left out."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [line for line in map(_metrics_of, lines) if line is not None]


def _metrics_of(line: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        values = json.loads(line)
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            return values
    return None
