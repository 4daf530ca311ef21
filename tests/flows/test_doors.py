"""Another user of the machine, a page of another site and a simple POST, against every server of ours: none gets in."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from llm.files import read_json
from tasks.core.credentials import key, mlflow_keys, secret
from tasks.core.prefect_server import LOG_FILE, SETTINGS
from tasks.core.server import Server
from tasks.core.tracking import Tracker
from tests.flows.runs import TINY
from tests.llm.serve.serving import served, tiny_model

EVIL = "http://evil.example"
SECONDS = 180
PREFECT_ATTACKS = [
    ("POST", "/api/deployments/filter", {}),
    ("PATCH", "/api/deployments/{deployment}", {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {}}]}),
    ("POST", "/api/deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}}),
    ("POST", "/api/flows/", {"name": "planted"}),
]
MLFLOW_ATTACKS = [
    ("POST", "/api/2.0/mlflow/experiments/create", {"name": "planted"}),
    ("POST", "/api/2.0/mlflow/registered-models/alias", {"name": "sourdough", "alias": "champion", "version": "1"}),
    ("PUT", "/api/2.0/mlflow-artifacts/artifacts/planted.txt", {}),
    ("POST", "/ajax-api/2.0/mlflow/runs/search", {"experiment_ids": ["0"]}),
]
SERVE_ATTACKS = [
    ("GET", "/v1/models", None),
    ("POST", "/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}),
    ("POST", "/v1/completions", {"model": "tiny", "prompt": "hi"}),
    ("GET", "/", None),
]
WAYS: dict[str, dict[str, str]] = {
    "another user": {"Content-Type": "application/json"},
    "a foreign page": {"Content-Type": "application/json", "Host": "evil.example", "Origin": EVIL},
    "a simple post": {"Content-Type": "text/plain", "Origin": EVIL, "Sec-Fetch-Site": "cross-site"},
}


@dataclass(frozen=True)
class Ports:
    """Where each server of a workspace listens."""

    workspace: Path
    deployment: str
    by_name: dict[str, int]


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def asked(port: int, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
    """Status, content and headers of an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read(), {name.lower(): value for name, value in response.headers.items()}
    finally:
        connection.close()


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """Both servers and the front of `flows ui`, the temporary server of a run, and `flows serve`."""
    workspace = tmp_path_factory.mktemp("doors")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_API", "MLFLOW"))}
    environment["SOURDOUGH_WORKSPACE"] = str(workspace)
    command = [sys.executable, "-m", "flows", "ui", TINY, "--prefect-port", "0", "--mlflow-port", "0"]
    with open(workspace / "output.txt", "wb") as output:
        child = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        deadline, found = time.monotonic() + SECONDS, []
        while not found:
            assert time.monotonic() < deadline, (workspace / "output.txt").read_text()
            assert child.poll() is None, (workspace / "output.txt").read_text()
            time.sleep(0.5)
            if (workspace / "servers.json").exists():
                addresses = {name: port_of(url) for name, url in read_json(workspace / "servers.json").items()}
                login = {
                    "Content-Type": "application/json",
                    "Authorization": basic(f"sourdough:{key(workspace, 'prefect')}"),
                }
                _, content, _ = asked(addresses["prefect"], "POST", "/api/deployments/filter", {}, login)
                found = json.loads(content)
        with contextlib.closing(Temporary(workspace)) as temporary, served(tiny_model()) as (_, serve):
            by_name = addresses | {"temporary": port_of(temporary.address), "serve": serve}
            yield Ports(workspace, found[0]["id"], by_name)
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


class Temporary(Server):
    """The server of a plain `flows run`."""

    def __init__(self, workspace: Path) -> None:
        super().__init__("prefect", workspace, LOG_FILE)
        self.start(SETTINGS)
        self.wait()

    def close(self) -> None:
        self.stop()


def basic(login: str) -> str:
    return f"Basic {base64.b64encode(login.encode()).decode()}"


ATTACKS = {
    "prefect_ui": PREFECT_ATTACKS,
    "prefect": PREFECT_ATTACKS,
    "temporary": PREFECT_ATTACKS,
    "mlflow_ui": MLFLOW_ATTACKS,
    "mlflow": MLFLOW_ATTACKS,
    "serve": SERVE_ATTACKS,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("server", ATTACKS)
def test_nobody_gets_in(ports: Ports, server: str, way: str) -> None:
    for method, path, body in ATTACKS[server]:
        where = path.format(deployment=ports.deployment)
        status, content, headers = asked(ports.by_name[server], method, where, body, WAYS[way])
        assert status in (401, 403), (method, where, status, content)
        assert "access-control-allow-origin" not in headers
        preflight = {"Origin": EVIL, "Access-Control-Request-Method": method}
        _, _, headers = asked(ports.by_name[server], "OPTIONS", where, None, preflight)
        assert headers.get("access-control-allow-origin") not in ("*", EVIL)


def greeted(url: str, protocols: Any) -> Any:
    """What a websocket says after a guessed token."""
    with connect(url, subprotocols=protocols) as socket:
        socket.send(json.dumps({"type": "auth", "token": "guessed"}))
        return socket.recv(timeout=10)


@pytest.mark.parametrize("server", ["prefect", "temporary", "prefect_ui"])
@pytest.mark.parametrize("path", ["/api/events/in", "/api/events/out", "/api/logs/out"])
def test_no_websocket_opens_without_the_key(ports: Ports, server: str, path: str) -> None:
    url = f"ws://127.0.0.1:{ports.by_name[server]}{path}"
    for protocols in (None, ["prefect"]):
        with pytest.raises((ConnectionClosed, InvalidStatus)):
            greeted(url, protocols)


@pytest.mark.parametrize("name", ["prefect", "mlflow"])
def test_a_link_opens_the_pages_to_the_browser_that_follows_it(ports: Ports, name: str) -> None:
    port = ports.by_name[f"{name}_ui"]
    host = f"127.0.0.1:{port}"
    path, body = (PREFECT_ATTACKS if name == "prefect" else MLFLOW_ATTACKS)[0][1:]
    ask = {"Host": host, "Content-Type": "application/json"}
    for token in ("", "guessed", key(ports.workspace, "serve")):
        assert asked(port, "GET", f"/?token={token}", None, {})[0] == 401
    status, _, headers = asked(port, "GET", f"//evil.example/x?a=b&token={key(ports.workspace, 'pages')}", None, {})
    assert (status, headers["location"]) == (303, "/evil.example/x?a=b")
    assert {"httponly", "samesite=strict"} <= set(headers["set-cookie"].lower().split("; "))
    ask["Cookie"] = headers["set-cookie"].partition(";")[0]
    assert asked(port, "POST", path, body, ask)[0] == 403  # a browser says which page asks
    assert asked(port, "POST", path, body, {**ask, "Origin": EVIL})[0] == 403
    assert asked(port, "POST", path, body, {**ask, "Origin": f"http://127.0.0.1:{port + 1}"})[0] == 403
    assert asked(port, "POST", path, body, {**ask, "Host": "evil.example"})[0] == 403
    assert asked(port, "POST", path, body, {**ask, "Origin": f"http://{host}"})[0] == 200


def test_our_own_clients_carry_the_key(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has used this MLflow before: the first run makes the experiment there."""
    for name, value in mlflow_keys(ports.workspace).items():
        monkeypatch.setenv(name, value)
    tracker = Tracker(f"http://127.0.0.1:{ports.by_name['mlflow']}")
    assert tracker.start_flow("a run", "an id"), "MLflow was switched off"
    assert tracker.on


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_another_user_cannot_read_the_secret(ports: Ports) -> None:
    read = [sys.executable, "-c", f"print(open({str(ports.workspace / 'secret')!r}).read())"]
    read[0] = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    done = subprocess.run(read, user="nobody", capture_output=True, text=True, cwd="/")
    assert done.returncode == 1
    assert "PermissionError" in done.stderr


def test_the_workspace_is_closed_to_others(ports: Ports) -> None:
    assert stat.S_IMODE(ports.workspace.stat().st_mode) == 0o700
    for path in ports.workspace.rglob("*"):
        made_before = path.name in ("output.txt",)  # by this test, for the server
        assert made_before or not stat.S_IMODE(path.lstat().st_mode) & 0o077 or path.is_symlink(), path


def test_keys_are_told_to_nobody(ports: Ports) -> None:
    keys = [key(ports.workspace, purpose) for purpose in ("prefect", "mlflow", "serve")]
    keys.append(secret(ports.workspace).decode())
    for path in ports.workspace.rglob("*"):
        if path.is_file() and path.name != "secret":
            content = path.read_bytes()
            assert not [name for name in keys if name.encode() in content], path
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            content = command.read_bytes()
        except OSError:  # it has ended
            continue
        assert not [name for name in keys if name.encode() in content]
