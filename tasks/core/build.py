"""What a stage is given while it builds: an empty directory, workers, a process of its own, and a progress line."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from llm.counts import Counts
from llm.files import link_or_copy, read_json, write_json
from llm.process import COUNTS_FILE, ERROR_FILE, EXIT_STOPPED, METRICS_FILE, ProcessLost, read_metrics

from .engine import EngineConfig, Partition, executor, remove_abandoned, run_partition
from .fingerprint import Origin
from .workspace import REPOSITORY, workspace

POLL_SECONDS = 0.5
STOP_SECONDS = 30
LOG_TAIL_LINES = 20

log = logging.getLogger(__name__)

Listener = Callable[[int, int | None, list[dict[str, Any]]], None]
"""Called with steps done, steps in all (None: unknown), and new lines of metrics."""


class WorkerLost(Exception):
    """A process of the stage was killed from outside; the stage can be tried again and goes on where it was."""


class Build:
    """One build of one stage: where to write, where to keep what lets it resume, where to run."""

    def __init__(
        self, out_dir: Path, work_dir: Path, engine: EngineConfig, listener: Listener, origin: Origin | None = None
    ) -> None:
        """Builds into `out_dir`; `origin` is what workers and processes must work with (None: no matter what)."""
        self.out_dir = out_dir
        self.work_dir = work_dir
        self.engine = engine
        self.origin = origin or Origin()
        self._listener = listener
        self._kept: contextlib.ExitStack | None = None
        self._pool: Executor | None = None
        work_dir.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def keeping_workers(self) -> Iterator[None]:
        """Keeps workers for the length of the block, for the next call: each start costs them a second of imports."""
        with contextlib.ExitStack() as self._kept:
            yield
        self._kept = self._pool = None

    def _workers(self, n_items: int) -> AbstractContextManager[Executor]:
        if self._kept is None or n_items <= 1:
            return executor(self.engine, n_items)
        if self._pool is None:
            self._pool = self._kept.enter_context(executor(self.engine))
        return contextlib.nullcontext(self._pool)

    def progress(self, n_done: int, n_total: int | None = None) -> None:
        """Reports progress; cheap enough to be called for every item."""
        self._listener(n_done, n_total, [])

    def map(self, function: Callable[..., Counts], items: Sequence[Any], *inputs: Any, config: Any) -> Counts:
        """Runs `function(item, *inputs, out_dir=..., config=...)` for every partition; its files go into the artifact.

        `documents.parquet` of the fourth partition becomes `documents-00003.parquet`. Returns the summed counts.
        """
        folders, counts = self.each(function, items, *inputs, config=config)
        for index, folder in enumerate(folders):
            for path in sorted(folder.iterdir()):
                link_or_copy(path, self.out_dir / f"{path.stem}-{index:05d}{path.suffix}")
        return counts

    def each(
        self, function: Callable[..., Counts], items: Sequence[Any], *inputs: Any, config: Any
    ) -> tuple[list[Path], Counts]:
        """Runs `function` for every partition; returns the folders with their files, in order, and the summed counts.

        A later try of this build takes finished partitions as they are, if they are whole and of the same code. The
        folders go when the artifact is committed.
        """
        root = self.work_dir / function.__name__
        root.mkdir(exist_ok=True)
        remove_abandoned(root)
        winners = [root / f"{index:05d}.json" for index in range(len(items))]
        with self._workers(len(items)) as pool:
            futures = [
                pool.submit(run_partition, function, item, inputs, config, winner, self.origin)
                for item, winner in zip(items, winners, strict=True)
            ]
            for n_done, future in enumerate(as_completed(futures), 1):
                fault = future.result()
                if fault:
                    log.warning("a partition was made again: %s", fault)
                self.progress(n_done, len(items))
        made = [Partition.read(winner) for winner in winners]
        return [partition.folder for partition in made], Counts.total(partition.counts for partition in made)

    def train(self, method: str, config: Any, **folders: Path | None) -> Counts:
        """Runs the training method of a module, the function of the same name in it, as a process of its own.

        The function is called with `folders` (None: left out), the config, and what `process` gives.
        """
        given = {name: str(path) for name, path in folders.items() if path}
        return self.process("llm.train", method=method, config=dataclasses.asdict(config), **given)

    def process(self, module: str, **job: Any) -> Counts:
        """Runs `python -m module job.json` and follows its metrics; returns the counts that it leaves.

        The child gets `work_dir`, `out_dir` and `cache_dir` (one for all runs) with the job, and `made_of`: see
        `require_files`. It is asked to stop (SIGTERM) when this process is. Raises what the child raised if it was a
        ValueError or an OSError, WorkerLost if it was killed, else RuntimeError with the end of its log.
        """
        job_path, log_path = self.work_dir / "job.json", self.work_dir / "log.txt"
        folders = {"work_dir": self.work_dir, "out_dir": self.out_dir, "cache_dir": workspace() / "compiled"}
        given = {name: str(path) for name, path in folders.items()}
        write_json(job_path, job | given | {"parent_pid": os.getpid(), "made_of": self.origin.files()})
        with open(log_path, "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", module, str(job_path)], cwd=REPOSITORY, stdout=log, stderr=log
            )
        try:
            self._follow(child)
        finally:
            stop(child)
        if child.returncode == 0:
            return Counts.from_dict(read_json(self.work_dir / COUNTS_FILE))
        raise self._failure(module, child.returncode, log_path)

    def _follow(self, child: subprocess.Popen[bytes]) -> None:
        path = self.work_dir / METRICS_FILE
        n_seen = 0
        finished = False
        while not finished:
            finished = child.poll() is not None
            lines = read_metrics(path)
            n_seen = min(n_seen, len(lines))  # a resumed run cuts the lines after its checkpoint
            if lines[n_seen:]:
                self._listener(lines[-1]["step"], lines[-1].get("of"), lines[n_seen:])
                n_seen = len(lines)
            if not finished:
                time.sleep(POLL_SECONDS)

    def _failure(self, module: str, status: int, log_path: Path) -> Exception:
        if status < 0 or status == EXIT_STOPPED:
            cause = signal.Signals(-status).name if status < 0 else "a request to stop"
            return WorkerLost(f"`python -m {module}` was ended by {cause}; a new try goes on where it was")
        error_path = self.work_dir / ERROR_FILE
        if error_path.exists():
            error = read_json(error_path)
            if ProcessLost.__name__ in error["kinds"]:
                return WorkerLost(f"`python -m {module}`: {error['message']}; a new try goes on where it was")
            for kind in (ConnectionError, OSError, ValueError):
                if kind.__name__ in error["kinds"]:
                    return kind(error["message"])
        tail = log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return RuntimeError(
            f"`python -m {module}` failed with status {status}; the end of its log:\n" + "\n".join(tail)
        )


def stop(child: subprocess.Popen[bytes], seconds: float = STOP_SECONDS) -> None:
    """Ends a child if it still runs: SIGTERM, `seconds` to save its work, then SIGKILL."""
    if child.poll() is None:
        log.info("asking process %d to stop", child.pid)
        child.terminate()
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
