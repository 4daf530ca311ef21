"""Where partitions run: this machine's processes, or a Dask cluster. The bytes do not depend on it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llm.config import Config, setting
from llm.counts import Counts
from llm.files import fsync_directory, fsync_file, read_json, remove, write_json
from llm.process import COUNTS_FILE, die_with_parent


@dataclass(frozen=True, kw_only=True)
class EngineConfig(Config):
    """Where the partitions of a stage run. Never part of a fingerprint."""

    kind: Literal["processes", "dask"] = setting("processes", execution=True)
    """`processes` of this machine, or the workers of a `dask` cluster that share this file system."""
    n_workers: int | None = setting(None, at_least=1, execution=True)
    """Processes on this machine; empty: one per core. A Dask cluster has its own number."""
    address: str | None = setting(None, execution=True)
    """Address of the Dask scheduler, `tcp://host:8786`; only for `dask`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "dask" and not self.address:
            raise ValueError(
                "engine.address is empty; with engine.kind=dask it must name the scheduler, tcp://host:port"
            )


@contextlib.contextmanager
def executor(config: EngineConfig, n_items: int | None = None) -> Iterator[Executor]:
    """Yields a `concurrent.futures` executor, with no more workers than partitions if `n_items` says how many.

    When the block raises, calls that have not begun are cancelled.
    """
    if config.kind == "dask":
        with dask_executor(str(config.address)) as cluster:
            yield cluster
        return
    n_workers = config.n_workers or os.cpu_count() or 1
    n_workers = n_workers if n_items is None else min(n_workers, n_items)
    pool: Executor
    if n_workers <= 1:
        pool = ThreadPoolExecutor(1)
    else:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of Prefect's threads
        pool = ProcessPoolExecutor(n_workers, mp_context=context, initializer=die_with_parent, initargs=(os.getpid(),))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """Yields the executor of a running Dask cluster; raises ConnectionError when its scheduler does not answer."""
    from distributed import Client

    try:
        client = Client(address, timeout="10s")
    except OSError as error:
        raise ConnectionError(
            f"no Dask scheduler answers at engine.address={address}; start one with `dask scheduler`"
        ) from error
    with client:
        yield client.get_executor(retries=2)


def run_partition(
    function: Callable[..., Counts], item: Any, inputs: tuple[Any, ...], config: Any, out_dir: Path
) -> Counts:
    """Runs one partition into `out_dir` atomically, or returns the counts of an earlier run that finished it."""
    done = out_dir / COUNTS_FILE
    if done.exists():
        return Counts.from_dict(read_json(done))
    temporary = out_dir.with_name(f".{out_dir.name}.{os.getpid()}")
    remove(temporary)
    temporary.mkdir(parents=True)
    counts = function(item, *inputs, out_dir=temporary, config=config)
    for path in temporary.iterdir():
        fsync_file(path)
    write_json(temporary / COUNTS_FILE, counts.to_dict())
    os.rename(temporary, out_dir)
    fsync_directory(out_dir.parent)
    return counts
