"""A Prefect server for the length of a process, where none is there already.

Prefect can start one by itself, but then it outlives a killed parent, lets anybody in, and is waited for until a time
limit when it has failed at once. A database that this one cannot use costs the run its timeline only.
"""

from __future__ import annotations

import atexit
import importlib.util
import logging
import os
import urllib.request
from collections.abc import Callable

from .credentials import prefect_keys
from .server import Server, last_line
from .workspace import workspace

LOG_FILE = "temporary-server.log"
SETTINGS = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
IN_MEMORY = {"PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:///:memory:"}

log = logging.getLogger(__name__)
_started: list[Server] = []


def start_temporary_server() -> Callable[[], None]:
    """Starts a Prefect server for the rest of this process, unless `PREFECT_API_URL` names one.

    Returns what waits until it answers: it starts while the caller imports what it needs. Call it before Prefect is
    imported, which reads the address from the environment, and at its exit sends it the last of its logs and events
    before this server is stopped. Raises ValueError where Prefect's client cannot start.
    """
    refuse_socks_proxies()
    if "PREFECT_API_URL" in os.environ:
        return lambda: None
    server = Server("prefect", workspace(), LOG_FILE)
    os.environ.update(prefect_keys(workspace()), PREFECT_API_URL=server.address + "/api")
    atexit.register(server.stop)
    _started.append(server)
    server.start(SETTINGS)
    return lambda: wait(server)


def wait(server: Server) -> None:
    """Waits until a temporary server answers; one whose database cannot be used keeps this run in memory only.

    Raises TimeoutError naming the log when it does not answer at all.
    """
    if not server.answers():
        log.warning(
            "Prefect's server cannot use %s (%s); this run goes on, but the Prefect UI will not show it: free disk "
            "space, make the folder writable, or move that file away",
            server.database,
            last_line(server.log),
        )
        server.start(SETTINGS | IN_MEMORY)
        if not server.answers():
            raise TimeoutError(f"Prefect's server does not start; see {server.log}, and run again")
    server.settle()


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
