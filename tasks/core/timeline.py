"""What a stage shows on the Prefect timeline: a live progress bar, a table of counts, a link to its MLflow run."""

from __future__ import annotations

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

from llm.data.common.drops import sample_dropped

from .store import Artifact

P = ParamSpec("P")
log = logging.getLogger(__name__)

UPDATE_SECONDS = 2.0
"""At most one update in this time: each costs the server some 20 ms."""


def guarded(call: Callable[P, None]) -> Callable[P, None]:
    """A function that only shows something: when the Prefect server is gone it warns, and the stage goes on."""

    @functools.wraps(call)
    def guard(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            call(*args, **kwargs)
        except Exception as error:
            log.warning("the Prefect timeline cannot be updated: %s", error)

    return guard


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
    """A table of what came in, was dropped for which reason, went out, and of the stage's figures."""
    counts = artifact.counts
    rows: list[dict[str, Any]] = [{"what": f"{counts.unit} in", "number": counts.n_in}]
    rows += [{"what": f"dropped: {reason}", "number": n} for reason, n in counts.dropped.items()]
    rows.append({"what": f"{counts.unit} out", "number": counts.n_out})
    rows += [{"what": name.replace("_", " "), "number": value} for name, value in counts.figures.items()]
    create_table_artifact(rows, key=f"{artifact.stage}-counts", description=f"{artifact.stage}: {artifact.path}")


@guarded
def show_dropped(artifact: Artifact) -> None:
    """A table of samples of what the stage dropped, by reason; none for a stage that drops nothing."""
    rows = [dataclasses.asdict(item) for items in sample_dropped(artifact.path).values() for item in items]
    if rows:
        create_table_artifact(rows, key=f"{artifact.stage}-dropped", description=f"{artifact.stage}: samples of drops")


@guarded
def show_link(stage: str, url: str | None) -> None:
    """A link to the stage's MLflow run, if there is a server that shows it."""
    if url:
        create_link_artifact(url, link_text=f"{stage} in MLflow", key=f"{stage}-mlflow")
