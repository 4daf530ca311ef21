"""The server of a run: it ends with its parent, and a database that cannot be used costs the timeline only."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tasks.core.credentials import USER, key
from tasks.core.views import is_sound, set_damaged_aside

DATABASE = "prefect.db"
PARENT = """
import sys, time
from tasks.core import prefect_server
ready = prefect_server.start_temporary_server()
if sys.argv[1] == "ready":
    ready()
server = prefect_server._started[0]
print(server._child.pid, server.address, flush=True)
time.sleep(600)
"""


def is_running(pid: int) -> bool:
    """Whether a process is there and is no zombie (in a container nobody may collect an orphan)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def parent(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process with a server, waited for or not; its database is a directory: nobody can open it, not even root."""
    home = tmp_path / "prefect"
    (home / DATABASE).mkdir(parents=True)
    environment = {**os.environ, "PREFECT_HOME": str(home), "SOURDOUGH_WORKSPACE": str(tmp_path)}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-c", PARENT, request.param]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        yield process
        process.kill()


def wait_for_end(pid: int) -> None:
    """Waits until a process is gone, at most 15 s."""
    deadline = time.monotonic() + 15
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="reads /proc to see whether a process is there"
)


@needs_proc
@pytest.mark.parametrize("parent", ["ready"], indirect=True)
def test_without_a_database_the_server_runs_in_memory_and_ends_with_its_parent(
    parent: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert parent.stdout
    assert parent.stderr
    pid, url = parent.stdout.readline().split()
    login = (USER, key(tmp_path, "prefect"))
    assert httpx.post(f"{url}/api/flows/", json={"name": "a"}, auth=login).status_code == 201
    assert httpx.post(f"{url}/api/flows/", json={"name": "b"}).status_code == 401
    parent.kill()
    wait_for_end(int(pid))
    said = parent.stderr.read()
    assert said.count("cannot use") == 1, said
    assert f"cannot use {tmp_path / 'prefect' / DATABASE}" in said
    assert "this run goes on" in said
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/api/health", timeout=1)


@needs_proc
@pytest.mark.parametrize("parent", ["starting"], indirect=True)
def test_a_server_that_only_starts_ends_with_its_parent(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout
    pid = int(parent.stdout.readline().split()[0])
    assert is_running(pid)
    parent.terminate()
    wait_for_end(pid)


def damaged_database(path: Path) -> bytes:
    """A SQLite file with a page of zeros in its middle; its header and first pages are sound."""
    connection = sqlite3.connect(path)
    connection.execute("create table run (name text)")
    connection.executemany("insert into run values (?)", [("a name " * 100,)] * 100)
    connection.commit()
    connection.close()
    content = bytearray(path.read_bytes())
    content[8192:12288] = bytes(4096)
    path.write_bytes(content)
    return bytes(content)


def test_a_damaged_database_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = damaged_database(tmp_path / DATABASE)
    (tmp_path / f"{DATABASE}.damaged-1").touch()
    with caplog.at_level(logging.WARNING):
        assert set_damaged_aside(tmp_path / DATABASE) == tmp_path / f"{DATABASE}.damaged-2"
    assert (tmp_path / f"{DATABASE}.damaged-2").read_bytes() == content
    assert not (tmp_path / DATABASE).exists()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / DATABASE} is damaged: it is now {DATABASE}.damaged-2, and a new one is made; "
        "earlier runs are not shown"
    ]
    assert set_damaged_aside(tmp_path / DATABASE) is None


def test_a_database_that_is_only_locked_is_sound(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.execute("create table run (name text)")
    connection.execute("begin exclusive")
    try:
        assert is_sound(tmp_path / DATABASE)
    finally:
        connection.close()
