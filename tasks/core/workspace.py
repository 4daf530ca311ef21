"""Where everything lives, and the environment that Prefect, MLflow and torch read before they are imported."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

from .credentials import mlflow_keys, prefect_keys

REPOSITORY = Path(__file__).resolve().parents[2]
WORKSPACE_VARIABLE = "SOURDOUGH_WORKSPACE"
MLFLOW_UI_VARIABLE = "SOURDOUGH_MLFLOW_UI"
"""Names the variable with the address at which a browser finds MLflow's pages."""
SERVERS_FILE = "servers.json"
HOST = "127.0.0.1"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def workspace() -> Path:
    """Returns the workspace directory: the store, Prefect's home, MLflow's database, downloads."""
    return Path(os.environ.get(WORKSPACE_VARIABLE, REPOSITORY / "workspace")).resolve()


def configure() -> None:
    """Points Prefect and MLflow at the workspace, without telemetry; call it before they or torch are imported.

    When the servers of `flows ui` are up, runs go through them and show there; else Prefect starts its own temporary
    server and MLflow writes to its SQLite file.
    """
    exempt_loopback()
    root = workspace()
    if "?" in str(root):
        raise ValueError(
            f"the workspace {root} has a question mark in its path, where addresses of databases end: those of Prefect "
            f"and MLflow would lie outside of it; rename the folder or set {WORKSPACE_VARIABLE} to another"
        )
    for directory in ("store", "prefect", "mlflow"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    if root.stat().st_mode & 0o077:  # so nobody else reaches what is in it, whatever the modes there
        root.chmod(0o700)
    os.environ.update(
        {
            WORKSPACE_VARIABLE: str(root),
            "DO_NOT_TRACK": "1",
            "PREFECT_HOME": str(root / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
            "PREFECT_TASKS_DEFAULT_PERSIST_RESULT": "true",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}",  # a page of another site may not use a server
            # A server that is gone or hangs is a view that is gone: by default each call waits a minute or five for it.
            "PREFECT_CLIENT_MAX_RETRIES": "2",
            "PREFECT_API_REQUEST_TIMEOUT": "10",
            "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",  # else each heartbeat says again that it is gone
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # a busy machine takes longer than its 20 s
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        }
    )
    # Threads of torch that wait for each other spin; by default so long that on a busy machine a step of training takes
    # thirty times as long. This costs a quiet one nothing (benchmarks/RESULTS.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # Errors reach a person as one message of ours; Prefect's own log, with tracebacks, is kept by its server.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    if "PREFECT_API_URL" not in os.environ:  # a server of a person's own choice is never told our keys
        os.environ.update(prefect_keys(root))
    servers = running_servers()
    if servers:
        use_servers(servers)
    os.environ.setdefault("MLFLOW_TRACKING_URI", mlflow_file(root))


def mlflow_file(root: Path) -> str:
    """Returns the address of MLflow's tables for programs that write them without a server."""
    return f"sqlite:///{root / 'mlflow' / 'mlflow.db'}"


def use_servers(servers: dict[str, str]) -> None:
    """Sends the runs of this process to servers of the workspace, unless a person's environment names others."""
    root = workspace()
    if "PREFECT_API_URL" not in os.environ:
        os.environ |= {"PREFECT_API_URL": servers["prefect"] + "/api", "PREFECT_UI_URL": servers["prefect_ui"]}
    if os.environ.get("MLFLOW_TRACKING_URI", "") in ("", mlflow_file(root)):
        os.environ |= {"MLFLOW_TRACKING_URI": servers["mlflow"], MLFLOW_UI_VARIABLE: servers["mlflow_ui"]}
        os.environ |= mlflow_keys(root)


def exempt_loopback() -> None:
    """Adds this machine's own names to those that no proxy is asked for: servers and clients here talk directly.

    httpx, urllib, requests and websockets all read these variables; what a user has set is kept for all else.
    """
    named = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""  # the order in which they are read
    names = [name.strip() for name in named.split(",") if name.strip()]
    if named.strip() != "*":  # that means all only where it stands alone
        names += [name for name in LOOPBACK if name not in names]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)


def running_servers() -> dict[str, Any] | None:
    """Returns the addresses that `flows ui` left in the workspace, if both servers answer there."""
    path = workspace() / SERVERS_FILE
    if not path.exists():
        return None
    servers = json.loads(path.read_text())
    alive = answers(servers["prefect"] + "/api/health") and answers(servers["mlflow"] + "/health")
    return servers if alive else None


def answers(url: str) -> bool:
    """Returns whether a server of this machine answers at `url` with a success within a second."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False
