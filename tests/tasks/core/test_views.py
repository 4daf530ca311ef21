"""Runs of dead processes are closed, those of living ones are not; several make MLflow's database at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import Running

from tasks.core.timeline import own_flow_run
from tasks.core.tracking import Tracker
from tasks.core.views import close_orphans

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
