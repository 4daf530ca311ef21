"""MLflow: runs, figures and data sets of a real store in a real database; its absence costs one warning."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest

from llm.counts import Counts
from llm.data.common.drops import Dropped, write_dropped
from llm.files import write_json
from tasks.core.fingerprint import Code, Key
from tasks.core.store import Artifact, Store
from tasks.core.tracking import Tracker, replay

pytestmark = pytest.mark.filterwarnings("ignore")  # of alembic and sqlalchemy, inside MLflow


def build(root: Path, text: str = "x", run_id: str | None = None) -> Artifact:
    store = Store(root)
    key = Key(
        "toy",
        1,
        {"model": {"width": 8}, "text": text},
        [{"stage": "a", "fingerprint": "f", "digest": "d"}],
        Code("", {}),
    )
    out_dir = store.new_out_dir("toy", key.fingerprint)
    (out_dir / "samples.md").write_text(text)
    (out_dir / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.0, "of": 2}\n')
    drops = [Dropped.of("", f"http://site/{i}", "a text", "too odd", f"number {i}") for i in range(2)]
    write_dropped(out_dir / "dropped-00000.parquet", drops)
    counts = Counts("things", 5, 3, {"too odd": 2}, {"val_bpb": 1.5})
    return store.commit(out_dir, key, counts, provenance={"started": "2026", "seconds": 2.0, "mlflow_run_id": run_id})


def test_a_stage_run_holds_everything_that_matters(tmp_path: Path, mlflow_uri: str) -> None:
    tracker = Tracker(mlflow_uri)
    parent = tracker.start_flow("demo", "flow-1")
    artifact = build(tmp_path)
    run_id = tracker.start_stage("toy", artifact.fingerprint, artifact.manifest["config"])
    assert run_id is not None
    tracker.log_metrics(run_id, [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0, "of": 2}])
    tracker.finish_stage(run_id, artifact)
    tracker.end_flow(failed=False)
    assert tracker.on

    run = tracker.client.get_run(run_id)
    assert run.data.params == {"model.width": "8", "text": "x"}
    assert run.data.metrics["dropped/too odd"] == 2
    assert run.data.metrics["val_bpb"] == 1.5
    assert run.data.metrics["seconds"] == 2.0
    assert [metric.value for metric in tracker.client.get_metric_history(run_id, "loss")] == [2.5, 2.0]
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.info.status == "FINISHED"
    datasets = {(item.dataset.name, item.dataset.digest, item.tags[0].value) for item in run.inputs.dataset_inputs}
    assert datasets == {("a", "d", "input"), ("toy", artifact.digest, "output")}
    files = {item.path for item in tracker.client.list_artifacts(run_id)}
    assert files == {"manifest.json", "metrics.jsonl", "samples.md", "dropped.json"}
    shown = json.loads(Path(tracker.client.download_artifacts(run_id, "dropped.json")).read_text())
    assert shown["columns"] == ["id", "url", "reason", "detail", "excerpt"]
    assert sorted(row[3] for row in shown["data"]) == ["number 0", "number 1"]
    assert tracker.client.get_run(parent).info.status == "FINISHED"


def test_an_example_is_there_before_training_ends(tmp_path: Path, mlflow_uri: str) -> None:
    tracker = Tracker(mlflow_uri)
    run_id = tracker.start_stage("toy", "f", {})
    assert run_id is not None
    for name in ("example.html", "model.safetensors"):
        (tmp_path / name).write_text("<p>a chat</p>")
    tracker.log_first_files(run_id, tmp_path)
    assert [item.path for item in tracker.client.list_artifacts(run_id)] == ["example.html"]
    assert tracker.client.get_run(run_id).info.status == "RUNNING"


def test_a_retried_flow_finds_its_run_again(mlflow_uri: str) -> None:
    assert Tracker(mlflow_uri).start_flow("demo", "flow-2") == Tracker(mlflow_uri).start_flow("demo", "flow-2")


def test_a_hit_points_to_the_run_that_built_it(tmp_path: Path, mlflow_uri: str) -> None:
    tracker = Tracker(mlflow_uri)
    parent = tracker.start_flow("demo", "flow-3")
    tracker.note_hit(build(tmp_path, run_id="the-run"))
    assert tracker.client.get_run(parent).data.tags["hit.toy"] == "the-run"


def test_a_dead_server_costs_one_warning_and_little_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker("http://127.0.0.1:9")
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, logger="tasks.core.tracking"):
        assert tracker.start_flow("demo", "flow") is None
        for _ in range(100):
            assert tracker.start_stage("toy", "f", {}) is None
            tracker.note_hit(build(tmp_path))
    assert time.monotonic() - started < 20
    assert len([record for record in caplog.records if record.name == "tasks.core.tracking"]) == 1


def test_replay_sends_what_is_missing_once(tmp_path: Path, mlflow_uri: str) -> None:
    build(tmp_path, "one")
    build(tmp_path, "two", run_id="known")
    store = Store(tmp_path)
    assert replay(store, Tracker(mlflow_uri)) == 1
    assert replay(store, Tracker(mlflow_uri)) == 0
    sent = next(item for item in store.artifacts("toy") if item.manifest["config"]["text"] == "one")
    assert Tracker(mlflow_uri).client.get_run(sent.provenance["mlflow_run_id"]).data.metrics["loss"] == 2.0
    assert sent.damage(full=False) == []


def test_replay_of_an_artifact_without_metrics(tmp_path: Path, mlflow_uri: str) -> None:
    artifact = build(tmp_path, "three")
    (artifact.path / "metrics.jsonl").unlink()
    write_json(artifact.path / "note.json", {})
    assert replay(Store(tmp_path), Tracker(mlflow_uri)) == 1
