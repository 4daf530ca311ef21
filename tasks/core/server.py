"""Prefect's and MLflow's server, each a process of its own: `python -m tasks.core.server NAME ROOT DESCRIPTOR PARENT`.

The parent binds the port and hands the socket over, so no other program can take it in between and be told the keys;
the server ends with its parent, whatever ends that. Nobody gets an answer from it without its key (its health alone is
public).
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from llm.files import exclusive_lock

from .build import stop
from .credentials import USER, key, prefect_keys
from .views import open_mlflow, set_damaged_aside
from .workspace import HOST, REPOSITORY, answers

START_SECONDS = 120  # a busy machine takes longer than Prefect's 20 s
STOP_SECONDS = 5
GRACE_SECONDS = 2
"""A connection that has not ended so long after a server was told to is cut."""
HEALTH = {"prefect": "/api/health", "mlflow": "/health"}
"""Paths at which a server says that it is ready."""


class Server:
    """A server of the workspace `root` on a free loopback port, with its log there; it may be started once or again.

    As a context manager it is started, and ended with the block.
    """

    def __init__(self, name: str, root: Path, log: str = "") -> None:
        self.name, self.root = name, root
        self.log = root / (log or f"{name}-server.log")
        self.database = root / name / f"{name}.db"
        self._socket = socket.create_server((HOST, 0), backlog=100)
        self.address = f"http://{HOST}:{self._socket.getsockname()[1]}"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, settings: Mapping[str, str] | None = None) -> None:
        """Starts the process, with `settings` in its environment.

        A damaged database is set aside first, the addresses in one that was moved or copied are mended.
        """
        with contextlib.suppress(OSError):  # a folder that cannot be read: the server says so
            if self.name == "mlflow":
                with exclusive_lock(self.database.with_name(f".{self.database.name}.lock")):
                    open_mlflow(self.database)
            else:
                set_damaged_aside(self.database)
        handed = self._socket.fileno()
        with open_log(self.log) as output:
            self._child = subprocess.Popen(
                [sys.executable, "-m", __name__, self.name, str(self.root), str(handed), str(os.getpid())],
                env={**os.environ, **(settings or {})},
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[handed],
                start_new_session=True,  # Ctrl-C is for the run, which reports its end to this server
            )

    def answers(self) -> bool:
        """Waits until it answers, and returns whether it does; one that has ended or takes too long is ended."""
        assert self._child, "start() comes first"
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.address + HEALTH[self.name]):
            if self._child.poll() is not None or time.monotonic() > deadline:
                self._end()
                return False
            time.sleep(0.05)
        return True

    def settle(self) -> None:
        """Lets go of the port: connections to a server that is gone are refused then, instead of never answered."""
        self._socket.close()

    def stop(self, *, by_force: bool = False) -> None:
        """Ends the server."""
        self.settle()
        self._end(by_force)

    def _end(self, by_force: bool = False) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if by_force:
            child.kill()
        stop(child, STOP_SECONDS)
        child.wait()

    def wait(self) -> None:
        """Waits until it answers; raises ValueError, with the end of its log, when it does not."""
        if not self.answers():
            raise ValueError(f"the {self.name} server does not start ({last_line(self.log)}); see {self.log}")
        self.settle()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


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


def prefect_app(root: Path, address: str) -> ASGIApp:
    """Returns Prefect's server with the services that schedule runs."""
    os.environ.update(
        prefect_keys(root),
        PREFECT_API_URL=address + "/api",
        PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="WARNING",  # a scheduler that fails says so nowhere else
    )
    from prefect.server.api.server import create_app

    return create_app(final=True)


MLFLOW_AUTH = """[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///{database}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 3600
"""


def mlflow_app(root: Path, _: str) -> ASGIApp:
    """Returns MLflow's server with its own authentication: one user, whose password is our key. It runs no jobs.

    All paths are relative to where its files are, since a URI gives characters of a path a meaning.
    """
    folder = root / "mlflow"
    os.chdir(folder)
    users = f"auth-{key(root, 'mlflow users')[:16]}.db"  # another secret, another password
    for old in folder.glob("auth-*.db"):
        if old.name != users:
            old.unlink()
    (folder / "auth.ini").write_text(MLFLOW_AUTH.format(database=users))
    os.environ.update(
        MLFLOW_AUTH_CONFIG_PATH=str(folder / "auth.ini"),
        MLFLOW_AUTH_ADMIN_USERNAME=USER,
        MLFLOW_AUTH_ADMIN_PASSWORD=key(root, "mlflow"),
        MLFLOW_FLASK_SERVER_SECRET_KEY=key(root, "mlflow forms"),
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",  # 1.3 GB of processes that nothing here asks for
        _MLFLOW_SGI_NAME="uvicorn",
    )
    from mlflow.server import constants

    database, files = "sqlite:///mlflow.db", "mlflow-artifacts:/"
    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = database
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = files
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = "./artifacts"
    from mlflow.server.auth import create_app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(database, database, files)
    return create_app()


APPS: dict[str, Callable[[Path, str], ASGIApp]] = {"prefect": prefect_app, "mlflow": mlflow_app}


def main(name: str, root: Path, descriptor: int, parent: int) -> None:
    """Serves on an inherited socket until a signal comes or the parent has died."""
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    import uvicorn

    with socket.socket(fileno=descriptor) as listener:
        app = APPS[name](root, f"http://{HOST}:{listener.getsockname()[1]}")
        config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=GRACE_SECONDS)
        uvicorn.Server(config).run(sockets=[listener])


def end_with(parent: int) -> None:
    """Ends this process once its parent is gone, by force when it does not end by itself; on every system."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
