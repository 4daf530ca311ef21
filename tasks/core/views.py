"""What Prefect's and MLflow's databases need as views of the store: damage set aside, runs of the dead closed.

Each process that runs flows holds a lock on a file in `runs/` with the ids of its runs. The kernel gives the lock back
when the process ends, however it does, so a file without a holder names runs that nobody will end any more.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal
from uuid import uuid4

from llm.files import remove

from .workspace import workspace

Kind = Literal["prefect", "mlflow"]
log = logging.getLogger(__name__)


@functools.cache
def _own_file(folder: Path) -> IO[str]:
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / uuid4().hex
    file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - held until the process ends
    fcntl.flock(file, fcntl.LOCK_EX)
    atexit.register(_forget, path)
    return file


_kept = False


def _forget(path: Path) -> None:
    if not _kept:
        remove(path)


def keep_runs() -> None:
    """Leaves the runs of this process to be closed by a later one: their server cannot be told that they end."""
    global _kept
    _kept = True


def own_run(kind: Kind, run_id: str) -> None:
    """Notes that a run is this process's: when it dies, `close_orphans` of a later one closes the run."""
    with contextlib.suppress(OSError):  # a full disk: the run itself says so
        file = _own_file(workspace() / "runs")
        file.write(f"{kind} {run_id}\n")
        file.flush()


def close_orphans(kind: Kind, close: Callable[[str], object]) -> None:
    """Calls `close` with the id of each run whose process is gone; what it raises leaves the rest for a later time."""
    for path in (workspace() / "runs").glob("[0-9a-f]*"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), open(path, "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lines = file.read().splitlines()
            for line in [line for line in lines if line.startswith(f"{kind} ")]:
                close(line.partition(" ")[2])
                lines.remove(line)
            file.seek(0)
            file.truncate()
            file.write("".join(f"{line}\n" for line in lines))
            if not lines:
                path.unlink()


def set_damaged_aside(database: Path) -> Path | None:
    """Renames a SQLite file that is damaged, with a warning; returns its new name, None for a sound or absent one.

    What it held is a view of the store: a new one is made, and old runs are no longer shown.
    """
    if not database.is_file() or is_sound(database):
        return None
    n = 1
    while (aside := database.with_name(f"{database.name}.damaged-{n}")).exists():
        n += 1
    for suffix in ("-wal", "-shm"):  # they belong to the damaged file: a new one would take them for its own
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{database}{suffix}", f"{aside}{suffix}")
    os.rename(database, aside)
    log.warning("%s is damaged: it is now %s, and a new one is made; earlier runs are not shown", database, aside.name)
    return aside


PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
"""Where MLflow keeps absolute addresses of files, by table and column."""
SERVED = "mlflow-artifacts:"
"""What the addresses begin with that a server gives out for the files in its folder."""


def open_mlflow(database: Path) -> None:
    """Makes ready a database that may be damaged, or in a workspace that was moved or copied; hold its lock.

    MLflow keeps the addresses of its files as they were: training in a copy would write into the original. And those
    that its server has given out could not be written to without it.
    """
    set_damaged_aside(database)
    if not database.is_file():
        return
    here = database.with_name("artifacts").as_uri()
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        for before in former_places(connection, here):
            for table, column in PLACES:
                moved = f"{column} = ? || substr({column}, ?)"
                below = f"({column} = ? OR substr({column}, 1, ?) = ?)"
                values = (here, len(before) + 1, before, len(before) + 1, f"{before}/")
                with contextlib.suppress(sqlite3.OperationalError):  # a table that this version of MLflow has not
                    connection.execute(f"UPDATE {table} SET {moved} WHERE {below}", values)


def former_places(connection: sqlite3.Connection, here: str) -> list[str]:
    """Returns where files are said to lie, if that is elsewhere than `here`."""
    ours = "SELECT DISTINCT artifact_location FROM experiments WHERE artifact_location LIKE 'file://%/mlflow/artifacts'"
    try:
        return [SERVED, *(place for (place,) in connection.execute(ours) if place != here)]
    except sqlite3.OperationalError:  # it has no tables yet
        return []


def is_sound(database: Path) -> bool:
    """Returns whether SQLite can read a file from end to end; one that it cannot open for now counts as sound."""
    connection = sqlite3.connect(database, timeout=1)
    try:
        return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError as error:
        return error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    finally:
        connection.close()
