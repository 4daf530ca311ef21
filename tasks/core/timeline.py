"""What a stage shows on the Prefect timeline: a live progress bar, a table of counts, a link to its MLflow run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable
from typing import Any, ParamSpec
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas import State
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Crashed

from llm.data.common.drops import sample_dropped

from .prefect_server import end_hanging_server
from .store import Artifact
from .views import close_orphans, keep_runs, own_run

P = ParamSpec("P")
log = logging.getLogger(__name__)

UPDATE_SECONDS = 2.0
"""At most one update in this time: each costs the server some 20 ms."""


_off: set[str | None] = set()
"""Flow runs whose Prefect server has failed: nothing is sent to it any more."""


def switch_off() -> None:
    """Stops sending to Prefect's server for the rest of this flow run."""
    _off.add(flow_run.get_id())
    keep_runs()


def is_off() -> bool:
    """Returns whether the server of any flow run of this process has failed."""
    return bool(_off)


def guarded(call: Callable[P, None]) -> Callable[P, None]:
    """Returns a function that only shows something: when Prefect's server fails it warns once, and the run goes on.

    A server that is gone costs a run nothing, a hanging one some ten seconds; then nothing is sent to it.
    """

    @functools.wraps(call)
    def guard(*args: P.args, **kwargs: P.kwargs) -> None:
        if flow_run.get_id() in _off:
            return
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                call(*args, **kwargs)
        except Exception as error:
            switch_off()
            if type(error).__name__.endswith("Timeout"):
                end_hanging_server()
            log.warning(
                "Prefect's timeline is switched off for this run (%s); what it computes is not touched, and "
                "`python -m flows list` shows it",
                str(error) or type(error).__name__,
            )

    return guard


@guarded
def own_flow_run() -> None:
    """Notes that this process runs the current flow run, and closes those whose process is gone."""
    close_orphans("prefect", crash)
    if run := flow_run.get_id():
        own_run("prefect", run)


def crash(run_id: str) -> None:
    """Marks a flow run, and its tasks, as crashed if it is not at its end."""
    crashed: State[Any] = Crashed(message="its process was killed; run again, and it goes on where it was")
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):
        found = client.read_flow_run(UUID(run_id))
        if found.state and not found.state.is_final():
            client.set_flow_run_state(found.id, crashed, force=True)
        for task in client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[found.id]))):
            if task.state and not task.state.is_final():
                client.set_task_run_state(task.id, crashed, force=True)


class ProgressBar:
    """A progress artifact of the running task; made at the first update, so that quick stages cost nothing."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._id: UUID | None = None
        self._updated = time.monotonic()

    @guarded
    def update(self, n_done: int, n_total: int | None) -> None:
        """Shows `n_done` of `n_total`; without a known total nothing is shown."""
        now = time.monotonic()
        if not n_total or now - self._updated < UPDATE_SECONDS:
            return
        self._updated = now
        percent = min(100.0, 100.0 * n_done / n_total)
        if self._id is None:
            made = create_progress_artifact(progress=percent, key=f"{self._stage}-progress", description=self._stage)
            self._id = made if isinstance(made, UUID) else None
        else:
            update_progress_artifact(self._id, progress=percent)

    @guarded
    def finish(self) -> None:
        """Fills the bar, if there is one."""
        if self._id is not None:
            update_progress_artifact(self._id, progress=100.0)


@guarded
def show_counts(artifact: Artifact) -> None:
    """Publishes a table of what came in, was dropped for which reason, went out, and of the stage's figures."""
    counts = artifact.counts
    rows: list[dict[str, Any]] = [{"what": f"{counts.unit} in", "number": counts.n_in}]
    rows += [{"what": f"dropped: {reason}", "number": n} for reason, n in counts.dropped.items()]
    rows.append({"what": f"{counts.unit} out", "number": counts.n_out})
    rows += [{"what": name.replace("_", " "), "number": value} for name, value in counts.figures.items()]
    create_table_artifact(rows, key=f"{artifact.stage}-counts", description=f"{artifact.stage}: {artifact.path}")


@guarded
def show_dropped(artifact: Artifact) -> None:
    """Publishes a table of samples of what the stage dropped, by reason; none for a stage that drops nothing."""
    rows = [dataclasses.asdict(item) for items in sample_dropped(artifact.path).values() for item in items]
    if rows:
        create_table_artifact(rows, key=f"{artifact.stage}-dropped", description=f"{artifact.stage}: samples of drops")


@guarded
def show_link(stage: str, url: str | None) -> None:
    """Publishes a link to the stage's MLflow run, if there is a server that shows it."""
    if url:
        create_link_artifact(url, link_text=f"{stage} in MLflow", key=f"{stage}-mlflow")
