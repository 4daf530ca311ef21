"""Runs of dead processes are closed, those of living ones are not; several make MLflow's database at once."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

import pytest
from mlflow import MlflowClient
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import Running

from llm.files import sha256_file
from llm.serve.answer import LoadedModel
from tasks.core.registry import register, versions_of
from tasks.core.store import Store
from tasks.core.timeline import own_flow_run
from tasks.core.tracking import Tracker
from tasks.core.views import close_orphans
from tests.flows.chat_models import add_model

pytestmark = pytest.mark.filterwarnings("ignore")  # of alembic and sqlalchemy, inside MLflow

OWNER = """
import sys, time
from tasks.core.views import own_run
for kind in sys.argv[1:]:
    own_run(*kind.split("="))
print(flush=True)
time.sleep(600)
"""
TRACK = """
import sys
from tasks.core.tracking import Tracker
tracker = Tracker(sys.argv[1])
tracker.start_flow("a run", sys.argv[2])
sys.exit(0 if tracker.on else 1)
"""


def owner(*runs: str) -> subprocess.Popen[str]:
    """A process that says which runs are its own and lives on."""
    made = subprocess.Popen([sys.executable, "-c", OWNER, *runs], stdout=subprocess.PIPE, text=True)
    assert made.stdout
    made.stdout.readline()
    return made


def end(process: subprocess.Popen[str], sent: signal.Signals) -> None:
    process.send_signal(sent)
    process.wait()
    assert process.stdout
    process.stdout.close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOURDOUGH_WORKSPACE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_the_runs_of_the_dead_are_closed_once(home: Path, sent: signal.Signals) -> None:
    dead, alive, closed = owner("prefect=a", "mlflow=b", "prefect=c"), owner("prefect=d"), []
    end(dead, sent)
    close_orphans("prefect", closed.append)
    assert closed == ["a", "c"]
    close_orphans("prefect", closed.append)
    close_orphans("mlflow", closed.append)
    assert closed == ["a", "c", "b"]
    assert len(list((home / "runs").iterdir())) == 1
    end(alive, signal.SIGKILL)
    with pytest.raises(ConnectionError):
        close_orphans("prefect", fail)
    close_orphans("prefect", closed.append)  # it was kept for a later time
    assert closed[3:] == ["d"]
    assert list((home / "runs").iterdir()) == []


def fail(run_id: str) -> None:
    raise ConnectionError(run_id)


def test_mlflow_shows_a_dead_run_as_killed(mlflow_uri: str) -> None:
    tracker = Tracker(mlflow_uri)
    runs = [tracker.client.create_run(tracker.experiment).info.run_id for _ in range(3)]
    tracker.client.set_terminated(runs[2], "FAILED")
    dead, alive = owner(f"mlflow={runs[0]}", f"mlflow={runs[2]}", "mlflow=unknown"), owner(f"mlflow={runs[1]}")
    end(dead, signal.SIGKILL)
    Tracker(mlflow_uri).close_killed()
    states = [tracker.client.get_run(run).info.status for run in runs]
    assert states == ["KILLED", "RUNNING", "FAILED"]
    end(alive, signal.SIGTERM)


@pytest.mark.usefixtures("prefect_server")
def test_prefect_shows_a_dead_run_as_crashed() -> None:
    @flow
    def nothing() -> str:
        return str(flow_run.get_id())

    ids = [nothing() for _ in range(2)]
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(ids[0], Running(), force=True)  # type: ignore[arg-type]
        end(owner(*(f"prefect={each}" for each in ids)), signal.SIGKILL)
        own_flow_run()
        states = [client.read_flow_run(each).state for each in ids]  # type: ignore[arg-type]
    assert [state.name for state in states if state] == ["Crashed", "Completed"]


@pytest.mark.slow
def test_three_runs_at_once_make_one_database(home: Path) -> None:
    uri = f"sqlite:///{home / 'mlflow.db'}"
    started = [subprocess.Popen([sys.executable, "-c", TRACK, uri, str(n)]) for n in range(3)]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    tracker = Tracker(uri)
    assert len(tracker.client.search_runs([tracker.experiment])) == 3


def test_a_damaged_database_of_mlflow_is_set_aside(home: Path) -> None:
    path = home / "mlflow.db"
    path.write_bytes(b"not a database" * 1000)
    tracker = Tracker(f"sqlite:///{path}")
    assert tracker.start_flow("a run", "1")
    assert (home / "mlflow.db.damaged-1").read_bytes().startswith(b"not a database")


def test_what_a_server_has_begun_goes_on_without_it(home: Path, mlflow_uri: str) -> None:
    """Its addresses (`mlflow-artifacts:/1/...`) are of use only while it runs."""
    Tracker(mlflow_uri).client.search_experiments()  # so that the file has its tables
    shutil.copy(mlflow_uri.removeprefix("sqlite:///"), home / "mlflow.db")
    forget_experiments(home / "mlflow.db")
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    made = client.create_experiment("sourdough", artifact_location="mlflow-artifacts:/7")
    old = client.create_run(made).info
    assert old.artifact_uri == f"mlflow-artifacts:/7/{old.run_id}/artifacts"
    tracker = Tracker(f"sqlite:///{home / 'mlflow.db'}")
    assert tracker.start_flow("a run", "1")
    tracker.log_to_flow(home / "mlflow.db")
    assert tracker.on
    moved = tracker.client.get_run(old.run_id).info.artifact_uri
    assert moved == (home / "artifacts" / "7" / old.run_id / "artifacts").as_uri()


NAMES = ["copy", "a copy #1 of 100%41, né"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_in_a_copy_stays_in_it(tmp_path: Path, mlflow_uri: str, tiny: LoadedModel, name: str) -> None:
    original, copy = tmp_path / "original", tmp_path / name
    (original / "mlflow").mkdir(parents=True)
    Tracker(mlflow_uri).client.search_experiments()  # so that the file has its tables
    shutil.copy(mlflow_uri.removeprefix("sqlite:///"), original / "mlflow" / "mlflow.db")
    forget_experiments(original / "mlflow" / "mlflow.db")
    train(original, tiny, 1)
    before = tree(original)
    shutil.copytree(original, copy)
    assert train(copy, tiny, 2) == "2"
    assert tree(original) == before
    uri = f"sqlite:///{copy / 'mlflow' / 'mlflow.db'}"
    first, second = reversed(versions_of(Tracker(uri), "sourdough-moved-base"))
    shutil.rmtree(original)  # it was moved, then
    for version in (first, second):
        source = Tracker(uri).client.get_model_version(version.name, version.number).source
        assert source.startswith((copy / "mlflow" / "artifacts").as_uri())
        folder = Tracker(uri).client.get_model_version_download_uri(version.name, version.number)
        assert folder == source
        assert (Path(urllib.request.url2pathname(urlparse(source).path)) / "model.safetensors").is_file()


def forget_experiments(database: Path) -> None:
    """Takes our experiment out of a copied database: each test has its own."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        for table in ("model_version_tags", "registered_model_aliases", "model_versions", "registered_models"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute(
            "UPDATE experiments SET name = 'another ' || experiment_id, artifact_location = 'file:///elsewhere'"
        )


def train(workspace: Path, model: LoadedModel, day: int) -> str:
    """Registers a model as a run in this workspace would; returns the number of its version."""
    store, tracker = Store(workspace / "store"), Tracker(f"sqlite:///{workspace / 'mlflow' / 'mlflow.db'}")
    made = register(tracker, "sourdough-moved-base", add_model(store, "pretrain", model, {"day": day}), store, None)
    assert made
    return made.number


def tree(folder: Path) -> dict[str, str]:
    """The hash of every file under a folder, by its path."""
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.rglob("*") if path.is_file()}
