"""The evaluation as `make ui` runs it: real servers, a real schedule, a real event."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from flows.deploy import PAGES
from llm.evaluate.history import read
from llm.files import read_json, read_table, write_table
from tasks.core.credentials import key, mlflow_keys
from tasks.core.registry import CANDIDATE, aliased
from tasks.core.tracking import Tracker
from tests.flows.runs import PORT, TINY, Run, post_to_prefect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
NAME = "sourdough-tiny-chat"
DEADLINE_SECONDS = 240
PREFECT_PORT, MLFLOW_PORT = PORT + 20, PORT + 40


@dataclass(frozen=True)
class Ui:
    """A workspace with the servers and the deployments of `make ui`."""

    workspace: Path
    recipe: Path
    environment: dict[str, str]

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What Prefect's server answers."""
        return post_to_prefect(self.workspace, path, body)

    def evaluations(self, started_by: str) -> list[dict[str, Any]]:
        """The ended runs of the evaluation that a schedule or an automation has started."""
        runs = self.post("/flow_runs/filter", {"sort": "START_TIME_ASC"})
        ended = [run for run in runs if run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED")]
        return [run for run in ended if run["created_by"] and run["created_by"]["type"] == started_by]

    def wait(self, found: Callable[[], list[dict[str, Any]]]) -> dict[str, Any]:
        """The last of what `found` gives, as soon as it gives something."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (runs := found()):
            assert time.monotonic() < deadline, (self.workspace / "output.txt").read_text()
            time.sleep(1)
        return runs[-1]


@pytest.fixture(scope="module")
def ui(tiny: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """The interface over a copy of the tiny run; the evaluation is scheduled for every minute."""
    workspace = tmp_path_factory.mktemp("ui")
    shutil.copytree(tiny.workspace / "store", workspace / "store")
    recipe = workspace / "tiny.yaml"
    recipe.write_text(f"extends: {TINY}\nname: tiny\ngate: {{min_items: 2}}\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL",)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    environment["SOURDOUGH_WORKSPACE"] = str(workspace)
    command = [sys.executable, "-m", "flows", "ui", str(recipe), "--cron", "* * * * *"]
    command += ["--prefect-port", str(PREFECT_PORT), "--mlflow-port", str(MLFLOW_PORT)]
    with open(workspace / "output.txt", "wb") as output:
        child = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        made = Ui(workspace, recipe, environment)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (workspace / "servers.json").exists() or not made.post("/deployments/filter"):
            assert time.monotonic() < deadline, (workspace / "output.txt").read_text()
            assert child.poll() is None, (workspace / "output.txt").read_text()
            time.sleep(0.5)
        yield made
    finally:
        child.terminate()
        child.wait(60)


def test_a_new_candidate_starts_the_evaluation_by_its_event(ui: Ui, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "flows", "run", str(ui.recipe), "finetune.n_steps=7"]
    ran = subprocess.run(command, env=ui.environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert ran.returncode == 0, ran.stderr
    run = ui.wait(lambda: ui.evaluations("AUTOMATION"))
    assert (run["state"]["type"], run["parameters"]["again"]) == ("COMPLETED", False)
    events = ui.post("/events/filter", {"filter": {"event": {"name": ["sourdough.model.candidate"]}}})["events"]
    assert [event["resource"]["prefect.resource.id"] for event in events] == [f"sourdough.model.{NAME}"]
    for name, value in mlflow_keys(ui.workspace).items():
        monkeypatch.setenv(name, value)
    candidate = aliased(Tracker(read_json(ui.workspace / "servers.json")["mlflow"]), NAME, CANDIDATE)
    assert candidate is not None
    assert candidate.decision in ("promoted", "refused")  # by this run, or by one of the schedule before it
    assert read(ui.workspace / "evaluations" / NAME / "history.jsonl")


def test_the_schedule_fires_and_a_fallen_score_fails_the_run(ui: Ui) -> None:
    run = ui.wait(lambda: ui.evaluations("SCHEDULE"))
    assert run["state"]["type"] == "COMPLETED", run["state"]
    for path in (ui.workspace / "evaluations" / NAME).glob("*.parquet"):
        first = read_table(path)
        better = [{**row, "value": row["value"] * weight(row)} for row in first.to_pylist()]
        write_table(path, pa.Table.from_pylist(better, schema=first.schema))
    fallen = ui.wait(lambda: [run for run in ui.evaluations("SCHEDULE") if run["state"]["type"] != "COMPLETED"])
    assert fallen["state"]["type"] == "FAILED"
    message = rf"{NAME} version \d has fallen: held-out examples: answer loss is worse: before [\d.]+, now [\d.]+ "
    assert re.search(message, fallen["state"]["message"])
    artifacts = {item["key"] for item in ui.post("/artifacts/filter", {"sort": "CREATED_DESC", "limit": 200})}
    assert {"gate", "watch", "history", "history-mlflow"} <= artifacts
    shown = httpx.get(history_link(ui), headers={"Authorization": f"Bearer {key(ui.workspace, PAGES)}"})
    assert shown.content.startswith(b"\x89PNG")


def history_link(ui: Ui) -> str:
    """Where the newest plot is to be seen, as the flow run's page says it."""
    images = ui.post("/artifacts/filter", {"sort": "CREATED_DESC", "artifacts": {"key": {"any_": ["history"]}}})
    return str(images[0]["data"])


def weight(row: dict[str, Any]) -> float:
    """By what the reference is changed, so that the same model looks worse than it was."""
    return 0.9 if row["metric"] == "answer loss" else 1.0
