"""A Prefect server for the length of a process, where none is there already.

Prefect can start one by itself, but then it outlives a killed parent, lets any web page in, and is waited for until a
time limit when it has failed at once. This one ends with its parent, whatever ends that; it takes a port that was bound
before it started, so nobody can be quicker; and a database that it cannot use costs the run its timeline only.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .views import set_damaged_aside
from .workspace import answers, workspace

HOST = "127.0.0.1"
LOG_FILE = "temporary-server.log"
DATABASE = "prefect.db"
IN_MEMORY = "sqlite+aiosqlite:///:memory:"
START_SECONDS = 120  # a busy machine takes longer than Prefect's 20 s
STOP_SECONDS = 5
CREATE_APP = "prefect.server.api.server:create_app"

log = logging.getLogger(__name__)
_started: list[TemporaryServer] = []


def start_temporary_server() -> Callable[[], None]:
    """Starts a Prefect server for the rest of this process, unless `PREFECT_API_URL` names one.

    Returns what waits until it answers: it starts while the caller imports what it needs. Call it before Prefect is
    imported, which reads the address from the environment, and at its exit sends it the last of its logs and events
    before this server is stopped. Raises ValueError where Prefect's client cannot start.
    """
    refuse_socks_proxies()
    if "PREFECT_API_URL" in os.environ:
        return lambda: None
    server = TemporaryServer(workspace() / "prefect")
    os.environ["PREFECT_API_URL"] = server.url + "/api"
    atexit.register(server.stop)
    _started.append(server)
    server.start()
    return server.wait


def end_hanging_server() -> None:
    """Ends the server of this process, if it has one, by force: calls to it then fail at once instead of waiting."""
    for server in _started:
        server.stop(by_force=True)


def refuse_socks_proxies() -> None:
    """Raises ValueError for a SOCKS proxy that httpx cannot use: it fails even for addresses that need no proxy."""
    for scheme, url in urllib.request.getproxies().items():
        if scheme in ("all", "http", "https") and url.startswith("socks") and not importlib.util.find_spec("socksio"):
            raise ValueError(
                f"{scheme}_proxy is a SOCKS proxy, which Prefect's client cannot use here: unset {scheme}_proxy and "
                f"{scheme.upper()}_PROXY or name an HTTP proxy; or run `pip install socksio`"
            )


def server_environment(url: str) -> dict[str, str]:
    """Returns the environment of a Prefect server of ours at an address; anything it must know stands here."""
    return {
        **os.environ,
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url,  # no web page may drive our flows
    }


class TemporaryServer:
    """A server of this process on a free loopback port, with its database and log in `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._socket = socket.create_server((HOST, 0), backlog=100)
        self.url = f"http://{HOST}:{self._socket.getsockname()[1]}"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process; a damaged database is set aside first."""
        set_damaged_aside(self.home / DATABASE)
        self._start()

    def _start(self, **settings: str) -> None:
        command = [sys.executable, "-m", __name__, str(self._socket.fileno()), str(os.getpid())]
        with open_log(self.home / LOG_FILE) as output:
            self._child = subprocess.Popen(
                command,
                env=server_environment(self.url) | settings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[self._socket.fileno()],
                start_new_session=True,  # Ctrl-C is for the run, which reports its end to this server
            )

    def wait(self) -> None:
        """Waits until the server answers; one whose database cannot be used keeps this run in memory only.

        Raises TimeoutError naming the log when it does not answer at all.
        """
        if not self._answers():
            log.warning(
                "Prefect's server cannot use %s (%s); this run goes on, but the Prefect UI will not show it: free disk "
                "space, make the folder writable, or move that file away",
                self.home / DATABASE,
                last_line(self.home / LOG_FILE),
            )
            self._start(PREFECT_API_DATABASE_CONNECTION_URL=IN_MEMORY)
            if not self._answers():
                raise TimeoutError(f"Prefect's server does not start; see {self.home / LOG_FILE}, and run again")
        self._socket.close()  # connections to a server that is gone are refused, instead of never answered

    def _answers(self) -> bool:
        assert self._child, "start() comes first"
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{self.url}/api/health"):
            if self._child.poll() is not None or time.monotonic() > deadline:
                self._end()
                return False
            time.sleep(0.05)
        return True

    def stop(self, *, by_force: bool = False) -> None:
        """Ends the server."""
        self._socket.close()
        self._end(by_force)

    def _end(self, by_force: bool = False) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if by_force:
            child.kill()
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def open_log(path: Path) -> contextlib.AbstractContextManager[Any]:
    """Opens a log that only its owner reads, emptied; nothing is kept where it cannot be written."""
    try:
        return open(path, "wb", opener=functools.partial(os.open, mode=0o600))
    except OSError:
        return contextlib.nullcontext(subprocess.DEVNULL)


def last_line(path: Path) -> str:
    """Returns the last line of a log with something in it."""
    with contextlib.suppress(OSError):
        lines = path.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")
    return "its log cannot be read"


def main() -> None:
    """Serves Prefect on the socket that was inherited, as long as the parent lives."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    import uvicorn

    config = uvicorn.Config(CREATE_APP, factory=True, log_level="error", lifespan="on", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


def end_with(parent: int) -> None:
    """Ends this process once its parent is gone, by force when it does not end by itself; on every system."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
