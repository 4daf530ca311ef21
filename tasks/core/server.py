"""Prefect's and MLflow's server, each a process of its own: `python -m tasks.core.server NAME ROOT DESCRIPTOR PARENT`.

The parent binds the port and hands the socket over, so no other program can take it in between and be told the keys;
the server ends with its parent. Nobody gets an answer from it without its key (its health alone is public).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from llm.process import die_with_parent

from .credentials import USER, key, prefect_keys
from .workspace import HOST, REPOSITORY, answers

START_SECONDS = 120
STOP_SECONDS = 3
"""A connection that has not ended so long after a server was told to is cut."""
HEALTH = {"prefect": "/api/health", "mlflow": "/health"}
"""Paths at which a server says that it is ready."""


@dataclass(frozen=True)
class Server:
    """A server that was launched."""

    name: str
    address: str
    log: Path
    child: subprocess.Popen[bytes]

    def wait_until_ready(self) -> None:
        """Waits until it answers; raises RuntimeError when it has ended, TimeoutError when it takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.address + HEALTH[self.name]):
            if self.child.poll() is not None:
                raise RuntimeError(f"the {self.name} server ended (status {self.child.returncode}); see {self.log}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the {self.name} server does not answer after {START_SECONDS} s; see {self.log}")
            time.sleep(0.1)


@contextlib.contextmanager
def launched(name: str, root: Path, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Runs the server `name` of the workspace `root` for the length of the block; it may not answer yet.

    `settings` are variables for its environment. Its output goes to `NAME-server.log`. Call it in a thread that lives
    as long: the kernel takes the end of that thread for the parent's.
    """
    log = root / f"{name}-server.log"
    with socket.create_server((HOST, 0)) as listener, open(log, "ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, name, str(root), str(listener.fileno()), str(os.getpid())],
            env={**os.environ, **(settings or {})},
            cwd=REPOSITORY,
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
        )
        address = f"http://{HOST}:{listener.getsockname()[1]}"
    try:
        yield Server(name, address, log, child)
    finally:
        end(child)


def end(child: subprocess.Popen[bytes]) -> None:
    """Ends a server: SIGTERM, ten seconds, SIGKILL."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
    child.wait()


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
    database = f"auth-{key(root, 'mlflow users')[:16]}.db"  # another secret, another password
    for old in folder.glob("auth-*.db"):
        if old.name != database:
            old.unlink()
    (folder / "auth.ini").write_text(MLFLOW_AUTH.format(database=database))
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
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends us when it is done
    import uvicorn

    with socket.socket(fileno=descriptor) as listener:
        app = APPS[name](root, f"http://{HOST}:{listener.getsockname()[1]}")
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=STOP_SECONDS)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
