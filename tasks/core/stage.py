"""The stage decorator: a function that fills a directory becomes a cached, locked, retried, tracked Prefect task."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import platform
import subprocess
import sys
import time
import typing
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import prefect
from prefect.cache_policies import CachePolicy
from prefect.tasks import exponential_backoff

from llm.config import Config, identity
from llm.counts import Counts
from llm.files import exclusive_lock, fsync_directory, hash_json, remove

from . import session as sessions
from . import timeline
from .build import Build, WorkerLost
from .fingerprint import Key, Origin, code_closure, file_states
from .session import OnCodeChange, Outcome, Pending, Session
from .store import Artifact
from .workspace import REPOSITORY

STAGES: dict[str, Stage] = {}
"""All stages by name, in the order of their definition."""

TRANSIENT = (ConnectionError, TimeoutError, BrokenExecutor, WorkerLost)
"""Errors after which a new try can go well: the network, a killed worker."""
RECORDED_LIBRARIES = ("torch", "tokenizers", "pyarrow", "scrapy", "selectolax", "datasketch", "prefect", "mlflow")
ModelKind = Literal["base", "chat", "classifier"]


class StageError(Exception):
    """A stage failed: the message names the stage, the cause, and what to do."""


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """What `@stage(...)` says of a stage."""

    version: int
    """Raise it to rebuild everywhere."""
    process: str | None = None
    """The module that the stage runs as a process of its own; its code counts as the stage's."""
    undigested: tuple[str, ...] = ()
    """Files whose bytes carry times or speeds."""
    verify_inputs: bool = False
    """Hash all input files before building."""
    reads_all: bool = False
    """What comes in is all that the first input kept: `n_in` must equal its `n_out`."""
    reads_counts: bool = False
    """The result shows the counts of the inputs too."""
    on_code_change: OnCodeChange = "rebuild"
    """What to do when only code has changed."""
    external_files: Callable[[Any], Iterable[Path]] = lambda config: ()
    """Gives, for a config, the files outside of the store that the stage reads."""
    check: Callable[[Any], object] = lambda config: None
    """Reads what a config names before anything runs; raises ValueError that says what is wrong and where."""
    makes: ModelKind | None = None
    """What kind of model the artifact is; None: no model."""
    label: str = ""
    """What reports and model cards call the stage; empty: its name."""


class Stage:
    """A stage of the pipeline; calling it inside a flow gives the artifact, from the store or newly built."""

    def __init__(self, function: Callable[..., Counts], options: StageOptions) -> None:
        functools.update_wrapper(self, function)
        self.name = function.__name__
        self.options = options
        self.config_class: type[Config] = typing.get_type_hints(function)["config"]
        self.modules = [function.__module__]
        if options.process:
            self.modules += [options.process, f"{options.process}.__main__"]  # a package has the latter
        self._function = function
        self._task = prefect.task(
            name=self.name,
            description=inspect.getdoc(function),
            cache_policy=CachePolicy.from_cache_key_fn(lambda _, values: f"{self.name}-{values['key'].fingerprint}"),
            persist_result=True,
            result_serializer="json",
            retries=2,
            retry_delay_seconds=exponential_backoff(2),
            retry_condition_fn=is_transient,
        )(self._build)

    def __call__(self, *inputs: Artifact | Pending | None, config: Any) -> Artifact:
        """Returns the artifact for these inputs (None: the recipe has no such stage), from the store or built.

        Raises StageError when it can neither be taken from the store nor be built.
        """
        session = sessions.current()
        artifact = self._resolve(session, inputs, config)
        if isinstance(artifact, Artifact):
            session.built[self.name] = artifact
        if session.until_stage == self.name:
            raise sessions.StopAfter
        # A Pending only ever meets other stages of a session that builds nothing.
        return typing.cast(Artifact, artifact)

    def facts(self) -> dict[str, str | None]:
        """Returns what a manifest says of the stage besides its name."""
        return {"makes": self.options.makes, "label": self.options.label or self.name}

    def key(self, inputs: Iterable[Artifact], config: Any) -> Key:
        """Returns the identity of the artifact that this stage makes of these inputs and this config.

        The code is that of the session's start: it is what has been imported, whatever is edited since.
        """
        session = sessions.current()
        if self.name not in session.code:
            session.code[self.name] = code_closure(self.modules)
        references = [self._reference(item) for item in inputs]
        files = session.external_files(self.name, lambda: self._external_files(config))
        return Key(self.name, self.options.version, identity(config), references, session.code[self.name], files)

    def _external_files(self, config: Any) -> dict[str, str]:
        return file_states(dict.fromkeys(self.options.external_files(config)))

    def _reference(self, item: Artifact) -> dict[str, str]:
        digest = hash_json([item.digest, item.counts.to_dict()]) if self.options.reads_counts else item.digest
        return {"stage": item.stage, "fingerprint": item.fingerprint, "digest": digest}

    def _resolve(
        self, session: Session, inputs: tuple[Artifact | Pending | None, ...], config: Any
    ) -> Artifact | Pending:
        pending = [item.stage for item in inputs if isinstance(item, Pending)]
        if pending:
            reasons = [f"runs if the output of {name} changes" for name in dict.fromkeys(pending)]
            last = next(iter(session.store.artifacts(self.name)), None)
            session.outcomes.append(Outcome(self.name, "wait", reasons, last))
            return Pending(self.name)
        ready = [item for item in inputs if not isinstance(item, Pending)]
        key = self.key(filter(None, ready), config)
        outcome = session.decide(key, self.options.on_code_change)
        session.outcomes.append(outcome)
        if not session.execute:
            return outcome.artifact if outcome.action == "hit" and outcome.artifact else Pending(self.name)
        if outcome.action == "run":
            self._check_inputs([item for item in ready if item])
        return self._run_task(session, outcome, key, ready, config)

    def _run_task(
        self, session: Session, outcome: Outcome, key: Key, inputs: list[Artifact | None], config: Any
    ) -> Artifact:
        show = sessions.display.get()
        started = time.monotonic()
        if outcome.action == "run":
            show.begin(self.name, outcome.reasons)
        task = self._task.with_options(refresh_cache=True) if outcome.action == "run" else self._task
        try:
            artifact = task(
                key=key, inputs=inputs, config=config, found=outcome.artifact if outcome.action == "hit" else None
            )
        except Exception as error:
            show.end(outcome, None, time.monotonic() - started)
            if not isinstance(error, TRANSIENT):
                self._check_files(filter(None, inputs))  # damage says more than what a reader says of it
            raise StageError(f"{self.name}: {error}{remedy(error)}") from error
        if outcome.action == "hit" and outcome.artifact:
            artifact = outcome.artifact  # Prefect's record may name a place from before a move; the store does not
            session.tracker.note_hit(artifact)
        show.end(outcome, artifact, time.monotonic() - started)
        return artifact

    def _check_inputs(self, inputs: list[Artifact]) -> None:
        for artifact in inputs:
            strangers = ", ".join(map(str, artifact.strangers()))
            if strangers:
                raise StageError(
                    f"{self.name}: its input {artifact.stage} has files that it was not built with, which would be "
                    f"read; remove {strangers} and run again"
                )
        if self.options.verify_inputs:
            self._check_files(inputs)

    def _check_files(self, inputs: Iterable[Artifact]) -> None:
        """Raises StageError for the first damaged input, after taking it out of use."""
        for artifact in inputs:
            damage = artifact.file_damage(full=True)
            if damage:
                remove(artifact.path / "manifest.json")
                fsync_directory(artifact.path)
                raise StageError(
                    f"{self.name}: its input {artifact.stage} is damaged ({'; '.join(damage)}); it is now out of use, "
                    "run again (without --from) to rebuild it"
                )

    def _build(self, key: Key, inputs: list[Artifact | None], config: Any, found: Artifact | None) -> Artifact:
        if found:
            return found
        session = sessions.current()
        store = session.store
        with exclusive_lock(store.lock_path(self.name, key.fingerprint)):
            made = store.find(self.name, key.fingerprint)
            if made and self.name not in session.force and not made.file_damage(full=True):
                return made  # another process built it while this one waited for the lock
            return self._build_locked(session, key, inputs, config)

    def _build_locked(self, session: Session, key: Key, inputs: list[Artifact | None], config: Any) -> Artifact:
        store, tracker = session.store, session.tracker
        started, clock = datetime.now(UTC), time.monotonic()
        run_id = tracker.start_stage(self.name, key.fingerprint, key.config)
        timeline.show_link(self.name, tracker.link(run_id))
        bar, listen = timeline.ProgressBar(self.name), sessions.display.get().listener(self.name)
        out_dir = store.new_out_dir(self.name, key.fingerprint)

        def listener(n_done: int, n_total: int | None, lines: list[dict[str, Any]]) -> None:
            listen(n_done, n_total, lines)
            bar.update(n_done, n_total)
            if run_id and lines:
                tracker.log_metrics(run_id, lines)
            if run_id and lines and lines[0]["step"] == 0:
                tracker.log_first_files(run_id, out_dir)

        origin = Origin(tuple(self.modules), key.code, key.external_files)
        build = Build(out_dir, store.work_dir(self.name, key.fingerprint), session.engine, listener, origin)
        try:
            origin.require()
            with build.keeping_workers():
                counts = self._function(build, *inputs, config=config)
            if counts.n_out == 0:
                raise ValueError(empty_message(counts))
            if self.options.reads_all and inputs[0] and counts.n_in != inputs[0].counts.n_out:
                raise ValueError(
                    f"it read {counts.n_in} {counts.unit}, but {inputs[0].stage} kept {inputs[0].counts.n_out}: files "
                    "came or went while it ran; run again"
                )
            # A process of its own has loaded all its code at its start, and may have run for days since.
            if self.options.process is None:
                origin.require()
            if self._external_files(config) != key.external_files:
                raise ValueError("files that it reads were changed while it ran; run again")
            provenance = {
                "started": started.isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - clock, 3),
                **surroundings(),
            }
            artifact = store.commit(
                out_dir, key, counts, undigested=self.options.undigested, provenance=provenance, facts=self.facts()
            )
        except BaseException as error:
            remove(out_dir)
            if run_id:
                tracker.fail_stage(run_id, str(error))
            raise
        bar.finish()
        timeline.show_counts(artifact)
        timeline.show_dropped(artifact)
        if run_id:
            tracker.finish_stage(run_id, artifact)
        return artifact


def is_transient(task: Any, task_run: Any, state: Any) -> bool:
    """Returns whether a failed task run is worth another try."""
    try:
        state.result()
    except TRANSIENT:
        return True
    except BaseException:
        return False
    return False


def remedy(error: Exception) -> str:
    """Returns what to do about an error that does not say so itself."""
    if "No space left" in str(error) and "free disk space" not in str(error):
        return "; free disk space and run again: finished stages and partitions are kept"
    return ""


def empty_message(counts: Counts) -> str:
    """Returns the error for a stage that kept nothing."""
    reasons = ", ".join(f"{reason}: {n}" for reason, n in counts.dropped.items()) or "nothing came in"
    return f"nothing is left of {counts.n_in} {counts.unit} ({reasons}); give it more input or loosen what drops it"


@functools.cache
def surroundings() -> dict[str, Any]:
    """Returns what surrounds a build and does not change it: command, commit, machine, versions."""
    versions = {name: version_of(name) for name in RECORDED_LIBRARIES}
    return {
        "command": sys.argv,
        "commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
    }


def version_of(distribution: str) -> str | None:
    """Returns the version of an installed distribution, None of another."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Returns the commit that is checked out; None outside of a repository or without git."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return result.stdout.strip() or None


def stage(**options: Any) -> Callable[[Callable[..., Counts]], Stage]:
    """Returns the decorator that makes a stage of `function(build, *inputs, config) -> Counts`.

    The options are those of `StageOptions`. The stage stands in `STAGES`.
    """

    def decorate(function: Callable[..., Counts]) -> Stage:
        STAGES[function.__name__] = Stage(function, StageOptions(**options))
        return STAGES[function.__name__]

    return decorate


def training(*, makes: ModelKind | None, **options: Any) -> Callable[[Callable[..., Counts]], Stage]:
    """Returns the decorator of a stage that trains, in a process that goes on at its last checkpoint when tried again.

    It has to say what it `makes`: a model that says nothing would pass the gate by.
    """
    common = {"process": "llm.train", "undigested": ("metrics.jsonl",), "verify_inputs": True}
    return stage(**common, on_code_change="reuse", makes=makes, **options)
