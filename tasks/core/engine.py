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
from uuid import uuid4

from llm.config import Config, setting
from llm.counts import Counts
from llm.files import (
    file_damage,
    file_entry,
    fsync_directory,
    lock_at_once,
    put_new,
    read_sealed,
    remove,
    sealed,
)
from llm.process import die_with_parent

from .fingerprint import Origin

MODIFIED = "modified_ns"


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


@dataclass(frozen=True)
class Partition:
    """The attempt at a partition that counts, as its winner's file says: `00003.json` of the fourth one.

    Attempts write into folders of their own, `00003.<unique>`. The first to be finished is the winner: it puts the
    file in place, which no other can do then.
    """

    folder: Path
    files: list[dict[str, Any]]
    """Path, size, hash, number of records, and the time when it was hashed of each."""
    counts: Counts
    origin: str
    """`Origin.hash` of what made it."""

    def sealed(self) -> bytes:
        """Returns the content of the winner's file."""
        values = {"folder": self.folder.name, "files": self.files, "origin": self.origin}
        return sealed(values | {"counts": self.counts.to_dict()})

    @staticmethod
    def read(winner: Path) -> Partition:
        """Returns what a winner's file says; raises FileNotFoundError without one, ValueError for a damaged one."""
        values = read_sealed(winner)
        folder = winner.with_name(values["folder"])
        return Partition(folder, values["files"], Counts.from_dict(values["counts"]), values["origin"])

    def damage(self) -> list[str]:
        """Returns what is wrong with the files, one line each, after reading all of them."""
        return file_damage(self.folder, self.files)


def run_partition(
    function: Callable[..., Counts], item: Any, inputs: tuple[Any, ...], config: Any, winner: Path, origin: Origin
) -> str | None:
    """Makes a partition, unless there is a winner that was made of the same code and files and is whole.

    Returns why an earlier winner was not taken, None if there was none. Raises ValueError where this process has
    other code or other outside files than it is to work with.
    """
    origin.require()
    fault = why_not(winner, origin)
    if fault is None:
        return None
    with attempt(winner) as folder:
        counts = function(item, *inputs, out_dir=folder, config=config)
        files = [timed_entry(path, folder) for path in sorted(folder.rglob("*")) if path.is_file()]
        fsync_directory(folder)
        origin.require()
        content = Partition(folder, files, counts, origin.hash).sealed()
        while not put_new(winner, content):
            if why_not(winner, origin) is None:
                remove(folder)  # another attempt was first, and made the same
                break
            winner.unlink(missing_ok=True)
    return fault or None


def timed_entry(path: Path, folder: Path) -> dict[str, Any]:
    """Returns a file's entry with the time of its last change before it was read."""
    modified = path.stat().st_mtime_ns
    return {**file_entry(path, folder), MODIFIED: modified}


def why_not(winner: Path, origin: Origin) -> str | None:
    """Returns why a partition has to be made: "" when nobody has, else what is wrong; None when it is there."""
    try:
        made = Partition.read(winner)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{winner} cannot be read ({error})"
    if made.origin != origin.hash:
        return f"{made.folder} was made with other code or other files"
    return "; ".join(f"in {made.folder} {line}" for line in made.damage()) or None


@contextlib.contextmanager
def attempt(winner: Path) -> Iterator[Path]:
    """Yields a new folder for one attempt at a partition, removed when the block raises.

    A lock beside it says that its writer lives: the kernel releases it when the process dies.
    """
    folder = winner.with_name(f"{winner.stem}.{uuid4().hex}")
    with lock_at_once(lock_of(folder)):
        try:
            folder.mkdir()
            yield folder
        except BaseException:
            remove(folder)
            raise
        finally:
            lock_of(folder).unlink(missing_ok=True)


def lock_of(folder: Path) -> Path:
    """Returns the lock file of an attempt's folder."""
    return folder.with_name(f".{folder.name}.lock")


def remove_abandoned(root: Path) -> None:
    """Removes the folders of attempts that have not won and whose writer is dead.

    A writer that is only stopped or slow keeps its folder; it goes with all others when the artifact is there.
    """
    for folder in [path for path in root.iterdir() if path.is_dir()]:
        with lock_at_once(lock_of(folder)) as is_abandoned:
            if is_abandoned and not has_won(folder):
                remove(folder)
        if is_abandoned:
            lock_of(folder).unlink(missing_ok=True)


def has_won(folder: Path) -> bool:
    """Returns whether an attempt is the winner of its partition."""
    try:
        return Partition.read(folder.with_name(f"{folder.name.partition('.')[0]}.json")).folder == folder
    except (OSError, ValueError, KeyError, TypeError):
        return False


def known_entries(work_dir: Path) -> dict[tuple[int, ...], dict[str, Any]]:
    """Returns the entries of all files of finished partitions by `file_id`, as their workers have hashed them."""
    found: dict[tuple[int, ...], dict[str, Any]] = {}
    for winner in work_dir.glob("*/*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            made = Partition.read(winner)
            for entry in made.files:
                device, number, *_ = file_id(made.folder / entry["path"])
                known = {name: value for name, value in entry.items() if name != MODIFIED}
                found[device, number, entry["bytes"], entry[MODIFIED]] = known
    return found


def file_id(path: Path) -> tuple[int, ...]:
    """Returns what all names of a file have in common, and its size and time, which change when it is written."""
    state = path.stat()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
