"""The secret of a workspace: who can read it may use the servers that belong to the workspace, and nobody else.

Loopback is no authentication: every user of a machine, and every web page that a browser has open, can reach its ports.
Each server is given a key of its own, made from the secret for one purpose, so that a link that others saw opens one
door only. Removing the file `secret` changes all keys.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

SECRET_FILE = "secret"
USER = "sourdough"
"""The user name beside a key where a server asks for one."""


def key(root: Path, purpose: str) -> str:
    """Returns the key for one purpose in the workspace `root`: 64 hexadecimal digits."""
    return hmac.new(secret(root), purpose.encode(), hashlib.sha256).hexdigest()


def prefect_keys(root: Path) -> dict[str, str]:
    """Returns the key of Prefect's server and its clients, as they read it from their environment."""
    string = f"{USER}:{key(root, 'prefect')}"
    return {"PREFECT_API_AUTH_STRING": string, "PREFECT_SERVER_API_AUTH_STRING": string}


def mlflow_keys(root: Path) -> dict[str, str]:
    """Returns the key of MLflow's server, as its clients read it from their environment."""
    return {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": key(root, "mlflow")}


def secret(root: Path) -> bytes:
    """Returns the secret of a workspace, made at the first call.

    Raises ValueError when others could read it, since then it is none.
    """
    path = root / SECRET_FILE
    if not path.exists():
        make_secret(path)
    found = path.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ValueError(
            f"{path} must be yours and readable by nobody else, but has owner {found.st_uid} and mode "
            f"{stat.S_IMODE(found.st_mode):04o}: remove it, and a new one is made; where the file system keeps no "
            "modes, set SOURDOUGH_WORKSPACE to a folder on one that does"
        )
    value = path.read_bytes().strip()
    if len(value) < 32:
        raise ValueError(f"{path} is cut short: remove it, and a new one is made")
    return value


def make_secret(path: Path) -> None:
    """Writes a new secret; when several processes do so at once, the first one's stays."""
    from llm.files import put_new  # loads pyarrow, which the command line does without where it can

    before = os.umask(0o077)
    try:
        put_new(path, secrets.token_urlsafe(32).encode() + b"\n")
    finally:
        os.umask(before)
