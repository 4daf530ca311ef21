"""One run of the DAG: which stages may run, what is already there, and why a stage runs or not.

The pipeline is an ordinary function that calls stages. A session decides what such a call does: build, take from the
store, or (to explain and to plan) only say what would happen.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .build import Listener
from .engine import EngineConfig
from .fingerprint import Code, Key
from .store import FULL_CHECK_BYTES, Artifact, Store
from .tracking import Tracker

OnCodeChange = Literal["rebuild", "reuse", "refuse"]


@dataclass(frozen=True)
class Pending:
    """Stands for the artifact of a stage that would run: its digest is not known yet."""

    stage: str


@dataclass(frozen=True)
class Outcome:
    """What a session decided about one stage, and why."""

    stage: str
    action: Literal["hit", "run", "wait"]
    reasons: list[str]
    artifact: Artifact | None = None
    """The artifact that is there: the one taken (`hit`), or the one built last (`run`)."""


class StopAfter(Exception):
    """Ends the pipeline after the stage named by `until_stage`."""


class Display:
    """Shows a person how a run goes. This one shows nothing; the command line has its own."""

    def begin(self, stage: str, reasons: list[str]) -> None:
        """Shows that a stage is about to be built."""

    def listener(self, stage: str) -> Listener:
        """Returns what is called while the stage is built."""
        return lambda n_done, n_total, lines: None

    def end(self, outcome: Outcome, artifact: Artifact | None, seconds: float) -> None:
        """Shows that a stage is there, or (`artifact` is None) has failed."""

    def finish(self) -> None:
        """Notes that the run has done all that it was asked for."""


display: contextvars.ContextVar[Display] = contextvars.ContextVar("display", default=Display())  # noqa: B039 - has no state
_current: contextvars.ContextVar[Session] = contextvars.ContextVar("session")


@dataclass
class Session:
    """The state of one run."""

    store: Store
    engine: EngineConfig = field(default_factory=EngineConfig)
    execute: bool = True
    """False: decide and record, but build nothing."""
    stages: tuple[str, ...] = ()
    """All stages in the order in which the pipeline calls them."""
    from_stage: str | None = None
    until_stage: str | None = None
    force: Collection[str] = ()
    on_code_change: dict[str, OnCodeChange] = field(default_factory=dict)
    """Overrides of the stages' own policies."""
    tracker: Tracker = field(default_factory=lambda: Tracker(""))
    downloads: Path = Path("downloads")
    """Where a stage may keep what it had to fetch."""
    outcomes: list[Outcome] = field(default_factory=list)
    code: dict[str, Code] = field(default_factory=dict)
    """The code of each stage when the session began (or met the stage first)."""
    built: dict[str, Artifact] = field(default_factory=dict)
    """The artifact of each stage that was called, built or found."""

    def decide(self, key: Key, policy: OnCodeChange) -> Outcome:
        """Decides whether the artifact of `key` is taken or built, and why; raises ValueError when neither may be."""
        earlier = self.store.artifacts(key.stage)
        same_but_code = [item for item in earlier if without_code(item) == key.without_code]
        exact = self.store.find(key.stage, key.fingerprint)
        if self._before_start(key.stage):
            other_files = [item for item in earlier if without_code(item)[:-1] == key.without_code[:-1]]
            return self._as_it_is(key, exact, [*same_but_code, *other_files])
        if key.stage in self.force:
            return Outcome(key.stage, "run", ["asked for: --force"], exact)
        if exact:
            damage = exact.file_damage(full=exact.n_bytes < FULL_CHECK_BYTES)
            return Outcome(key.stage, "run", [f"damaged: {line}" for line in damage], exact) if damage else hit(exact)
        policy = self.on_code_change.get(key.stage, policy)
        if same_but_code and policy != "rebuild":
            reasons = differences(key, same_but_code[0])
            if policy == "refuse":
                raise ValueError(
                    f"{key.stage}: {'; '.join(reasons)}, and on_code_change is refuse; "
                    f"set on_code_change.{key.stage}=rebuild to build it again, or =reuse to take what is there"
                )
            usable = next(
                (item for item in same_but_code if not item.file_damage(full=item.n_bytes < FULL_CHECK_BYTES)), None
            )
            if usable:
                return hit(usable, [*differences(key, usable), "taken as it was built (on_code_change: reuse)"])
        reasons = min((differences(key, item) for item in earlier), key=len, default=["never built"])
        return Outcome(key.stage, "run", reasons, earlier[0] if earlier else None)

    def _before_start(self, stage: str) -> bool:
        if self.from_stage is None or stage not in self.stages:
            return False
        return self.stages.index(stage) < self.stages.index(self.from_stage)

    def external_files(self, stage: str, states: Callable[[], dict[str, str]]) -> dict[str, str]:
        """Returns the states of the files outside of the store that a stage reads, as `states` gives them.

        They are unknown, so empty, where a stage before the start has lost its files: its artifact is there.
        """
        try:
            return states()
        except (OSError, ValueError):
            if self._before_start(stage):
                return {}
            raise

    def _as_it_is(self, key: Key, exact: Artifact | None, usable: list[Artifact]) -> Outcome:
        """Returns the first sound artifact: the exact one, else the first usable one; else raises ValueError."""
        for artifact in [*([exact] if exact else []), *usable]:
            if not artifact.file_damage(full=False):
                return hit(
                    artifact, [] if artifact == exact else [*differences(key, artifact), "taken as it was built"]
                )
        raise ValueError(
            f"{key.stage}: there is no artifact for this recipe, and stages before {self.from_stage} do not run "
            f"with --from {self.from_stage}; run without --from first"
        )


def hit(artifact: Artifact, reasons: list[str] | None = None) -> Outcome:
    """Returns the decision to take an artifact from the store."""
    return Outcome(artifact.stage, "hit", reasons or [], artifact)


def without_code(artifact: Artifact) -> list[object]:
    """Returns what an artifact was asked to be, without the code that made it; comparable with `Key.without_code`."""
    manifest = artifact.manifest
    inputs = [[item["stage"], item["digest"]] for item in manifest["inputs"]]
    return [manifest["stage"], manifest["version"], manifest["config"], inputs, manifest["external_files"]]


def differences(key: Key, artifact: Artifact) -> list[str]:
    """Returns what differs between what is asked for and what an artifact was made from, one line each."""
    manifest = artifact.manifest
    lines = []
    if key.version != manifest["version"]:
        lines.append(f"version {manifest['version']} -> {key.version}")
    lines += config_differences(key.config, manifest["config"])
    before = {(item["stage"], item["digest"]) for item in manifest["inputs"]}
    changed = [item["stage"] for item in key.inputs if (item["stage"], item["digest"]) not in before]
    lines += [f"input {stage} has changed" for stage in dict.fromkeys(changed)]
    lines += file_differences(key.external_files, manifest["external_files"])
    return lines + key.code.differences(Code(**manifest["code"]))


def config_differences(new: dict[str, object], old: dict[str, object], prefix: str = "") -> list[str]:
    """Returns the fields that differ between two configs of plain values, one line each, nested fields with dots."""
    lines = []
    for name in sorted(set(new) | set(old)):
        now, before = new.get(name), old.get(name)
        if isinstance(now, dict) and isinstance(before, dict):
            lines += config_differences(now, before, f"{prefix}{name}.")
        elif now != before:
            lines.append(f"config {prefix}{name}: {before} -> {now}")
    return lines


def file_differences(new: dict[str, str], old: dict[str, str]) -> list[str]:
    """Returns the files outside of the store that have come, gone or changed, one line each."""
    words = {(True, False): "is new", (False, True): "is gone", (True, True): "has changed"}
    return [
        f"file {name} {words[name in new, name in old]}"
        for name in sorted(set(new) | set(old))
        if new.get(name) != old.get(name)
    ]


def current() -> Session:
    """Returns the session that a stage call belongs to; raises RuntimeError outside of one."""
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError("a stage is called outside of a session: run it through a flow") from None


@contextlib.contextmanager
def running(session: Session) -> Iterator[Session]:
    """Makes `session` the current one for the block; the block ends early after the session's last stage."""
    token = _current.set(session)
    try:
        with contextlib.suppress(StopAfter):
            yield session
    finally:
        _current.reset(token)
