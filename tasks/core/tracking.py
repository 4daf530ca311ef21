"""MLflow: a parent run per flow run, a child run per built stage. Only this file and server.py import mlflow.

The store is the truth and MLflow a view of it: every figure is in the artifact before it is sent. The first failure
of MLflow switches tracking off for the rest of the run, with one warning; `replay` sends what is missing later.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from llm.data.common.drops import Dropped, sample_dropped
from llm.files import exclusive_lock, read_table
from llm.process import METRICS_FILE, read_metrics

from .store import Artifact, Store
from .views import close_orphans, keep_runs, open_mlflow, own_run
from .workspace import MLFLOW_UI_VARIABLE

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "sourdough"
SHOWN_FILES = (
    "manifest.json",
    "report.html",
    "report.json",
    "samples.md",
    "example.html",
    "answers.jsonl",
    "scores.parquet",
    "metrics.jsonl",
    "config.json",
    "fit.json",
    "scaling.png",
)
FIRST_FILES = ("example.html",)
"""Those that are there before training begins, and are sent with the first metrics: in time to stop it."""
MAX_SHOWN_BYTES = 20_000_000

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


def guarded(call: Callable[P, R]) -> Callable[P, R | None]:
    """Returns a method of `Tracker` that gives None once MLflow has failed, and never raises."""

    @functools.wraps(call)
    def guard(*args: P.args, **kwargs: P.kwargs) -> R | None:
        tracker: Any = args[0]
        if not tracker.on:
            return None
        try:
            return call(*args, **kwargs)
        except Exception as error:
            tracker.on = False
            keep_runs()
            log.warning("MLflow is switched off for this run (%s); `python -m flows track` sends the rest later", error)
            return None

    return guard


class Tracker:
    """Sends one flow run and its stages to MLflow. Ids are passed explicitly, never through an active run."""

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        self.on = bool(self.uri)
        self._parent: str | None = None

    @property
    def pages(self) -> str | None:
        """Address of MLflow's pages for a browser: of the front, or of the server itself; None without a server."""
        return os.environ.get(MLFLOW_UI_VARIABLE) or (self.uri if self.uri.startswith("http") else None)

    @property
    def database(self) -> Path | None:
        """The SQLite file that MLflow writes to; None where it is a server that does."""
        path = self.uri.removeprefix("sqlite:///")
        return Path(path) if path != self.uri else None

    @property
    def is_empty(self) -> bool:
        """Whether MLflow would write to a SQLite file that is not there yet; making one takes seconds."""
        return self.database is not None and not self.database.exists()

    @functools.cached_property
    def client(self) -> MlflowClient:
        """The client; made at the first use, since importing MLflow takes two seconds."""
        import mlflow

        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        # Else models go where any code of this process has last sent its own.
        registry = os.environ.get("MLFLOW_REGISTRY_URI") or self.uri
        if self.database is None:
            return mlflow.MlflowClient(self.uri, registry)
        with exclusive_lock(self.database.with_name(f".{self.database.name}.lock")):  # one makes or migrates it
            open_mlflow(self.database)
            return mlflow.MlflowClient(self.uri, registry)

    @functools.cached_property
    def experiment(self) -> str:
        """Id of our experiment, created at the first use."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found:
            return str(found.experiment_id)
        try:
            # A server has a place of its own.
            location = self.database.with_name("artifacts").as_uri() if self.database else None
            return str(self.client.create_experiment(EXPERIMENT, artifact_location=location))
        except MlflowException:  # another process was quicker
            return str(self.client.get_experiment_by_name(EXPERIMENT).experiment_id)

    @guarded
    def start_flow(self, name: str, flow_run_id: str) -> str:
        """Opens the parent run of a flow run and returns its id; a retried flow run finds its own again."""
        tag = f"tags.`prefect.flow_run_id` = '{flow_run_id}'"
        found = self.client.search_runs([self.experiment], f"{tag} and tags.kind = 'flow'", max_results=1)
        if found:
            self._parent = found[0].info.run_id
        else:
            tags = {"prefect.flow_run_id": flow_run_id, "kind": "flow"}
            self._parent = self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id
        own_run("mlflow", str(self._parent))
        self.close_killed()
        return str(self._parent)

    @guarded
    def close_killed(self) -> None:
        """Closes the runs of processes that were killed."""
        close_orphans("mlflow", self._kill)

    def _kill(self, run_id: str) -> None:
        """Marks a run whose process is gone as killed, if it is not at its end."""
        found = self.client.search_runs([self.experiment], f"attributes.run_id = '{run_id}'", max_results=1)
        if found and found[0].info.status == "RUNNING":
            self.client.set_terminated(run_id, "KILLED")

    @guarded
    def end_flow(self, *, failed: bool) -> None:
        """Closes the parent run."""
        if self._parent:
            self.client.set_terminated(self._parent, "FAILED" if failed else "FINISHED")

    @guarded
    def start_stage(self, stage: str, fingerprint: str, config: Mapping[str, Any]) -> str:
        """Opens a child run for a stage that is about to be built; returns its id."""
        from mlflow.entities import Param

        tags = {"kind": "stage", "stage": stage, "fingerprint": fingerprint}
        if self._parent:
            tags["mlflow.parentRunId"] = self._parent
        run_id = str(self.client.create_run(self.experiment, run_name=stage, tags=tags).info.run_id)
        params = [Param(name, str(value)[:6000]) for name, value in flatten(config).items()]
        own_run("mlflow", run_id)
        self.client.log_batch(run_id, params=params)
        return run_id

    @guarded
    def log_metrics(self, run_id: str, lines: list[dict[str, Any]]) -> None:
        """Sends metric lines (`step` and numbers) in batches of at most 1,000 values."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        metrics = [
            Metric(name, float(value), now, line["step"])
            for line in lines
            for name, value in line.items()
            if name not in {"step", "of"} and isinstance(value, int | float)
        ]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(run_id, metrics=metrics[start : start + 1000])

    @guarded
    def log_first_files(self, run_id: str, out_dir: Path) -> None:
        """Sends what a stage that still runs has left to look at."""
        self._log_files(run_id, out_dir, FIRST_FILES)

    @guarded
    def finish_stage(self, run_id: str, artifact: Artifact) -> None:
        """Sends an artifact's counts, figures, data sets and the files worth looking at; closes the child run."""
        self._log_counts(run_id, artifact)
        self._log_datasets(run_id, artifact)
        self._log_dropped(run_id, artifact)
        self._log_scores(run_id, artifact)
        self._log_files(run_id, artifact.path, SHOWN_FILES)
        for name, value in {"digest": artifact.digest, "artifact": str(artifact.path)}.items():
            self.client.set_tag(run_id, name, value)
        self.client.set_terminated(run_id, "FINISHED")
        artifact.note(mlflow_run_id=run_id)

    @guarded
    def fail_stage(self, run_id: str, reason: str) -> None:
        """Closes the child run of a stage that was not built."""
        self.client.set_tag(run_id, "error", reason[:5000])
        self.client.set_terminated(run_id, "FAILED")

    @guarded
    def note_hit(self, artifact: Artifact) -> None:
        """Tags the parent run with the run that built a stage that was found in the store."""
        if self._parent:
            built_by = artifact.provenance.get("mlflow_run_id") or artifact.fingerprint
            self.client.set_tag(self._parent, f"hit.{artifact.stage}", built_by)

    @guarded
    def log_to_flow(self, path: Path) -> None:
        """Sends a file to the parent run."""
        if self._parent:
            self.client.log_artifact(self._parent, str(path))

    def file_link(self, name: str) -> str | None:
        """Returns the address of a file of the parent run, as it is; None without a server."""
        if not (self._parent and self.on and self.pages):
            return None
        return f"{self.pages}/get-artifact?path={name}&run_uuid={self._parent}"

    def link(self, run_id: str | None) -> str | None:
        """Returns the address of a run in the MLflow UI; None without a server."""
        if not (run_id and self.on and self.pages):
            return None
        return f"{self.pages}/#/experiments/{self.experiment}/runs/{run_id}"

    def _log_files(self, run_id: str, folder: Path, names: Sequence[str]) -> None:
        for path in (folder / name for name in names):
            if path.is_file() and path.stat().st_size < MAX_SHOWN_BYTES:
                self.client.log_artifact(run_id, str(path))

    def _log_counts(self, run_id: str, artifact: Artifact) -> None:
        from mlflow.entities import Metric

        counts = artifact.counts
        values: dict[str, float] = {"n_in": counts.n_in, "n_out": counts.n_out, **counts.figures}
        values |= {f"dropped/{reason}": n for reason, n in counts.dropped.items()}
        values["seconds"] = artifact.provenance.get("seconds", 0.0)
        now = time.time_ns() // 1_000_000
        self.client.log_batch(
            run_id, metrics=[Metric(metric_name(name), float(v), now, 0) for name, v in values.items()]
        )

    def _log_dropped(self, run_id: str, artifact: Artifact) -> None:
        """Sends a table of samples of what the stage dropped, by reason."""
        dropped = [item for items in sample_dropped(artifact.path).values() for item in items]
        if dropped:
            names = [field.name for field in dataclasses.fields(Dropped)]
            columns = {name: [getattr(item, name) for item in dropped] for name in names}
            self.client.log_table(run_id, columns, "dropped.json")

    def _log_scores(self, run_id: str, artifact: Artifact) -> None:
        """Sends an evaluation's scores as a table."""
        path = artifact.path / "scores.parquet"
        if path.is_file():
            self.client.log_table(run_id, read_table(path).to_pydict(), "scores.json")

    def _log_datasets(self, run_id: str, artifact: Artifact) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = artifact.manifest["inputs"]
        named = [(item["stage"], item["digest"], "input") for item in inputs]
        named.append((artifact.stage, artifact.digest, "output"))
        datasets = [
            DatasetInput(
                Dataset(stage, digest, "store", f'{{"stage": "{stage}"}}'), [InputTag("mlflow.data.context", role)]
            )
            for stage, digest, role in named
        ]
        self.client.log_inputs(run_id, datasets=datasets)


def metric_name(name: str) -> str:
    """Returns the name with what MLflow accepts: letters, digits, `_-./ ` only."""
    return "".join(letter if letter.isalnum() or letter in "_-./ " else "_" for letter in name)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values as flat ones with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def replay(store: Store, tracker: Tracker) -> int:
    """Sends every artifact that no MLflow run knows; returns how many were sent."""
    n_sent = 0
    for stage in store.stages():
        for artifact in reversed(store.artifacts(stage)):
            provenance = artifact.provenance
            if provenance.get("mlflow_run_id") or not tracker.on:
                continue
            send(tracker, artifact)
            n_sent += tracker.on
    return n_sent


def send(tracker: Tracker, artifact: Artifact) -> str | None:
    """Makes the run of an artifact that was built before; returns its id, None when MLflow failed."""
    run_id = tracker.start_stage(artifact.stage, artifact.fingerprint, artifact.manifest["config"])
    if run_id:
        tracker.log_metrics(run_id, read_metrics(artifact.path / METRICS_FILE))
        tracker.finish_stage(run_id, artifact)
    return run_id if tracker.on else None
