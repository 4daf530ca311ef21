"""Registering what a flow has trained, and telling that there is a new candidate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prefect.events import emit_event

from tasks.core.registry import CANDIDATE, Version, evaluation_of, mark, register, registered_name
from tasks.core.session import Session
from tasks.core.store import Artifact
from tasks.core.timeline import guarded

CANDIDATE_EVENT = "sourdough.model.candidate"
"""Emitted when an evaluated model waits for the gate."""


@contextmanager
def registered(session: Session, recipe: str) -> Iterator[None]:
    """Registers the models that the block has made, also when a later stage, such as their evaluation, failed."""
    try:
        yield
    finally:
        versions = register_models(session, recipe)
        if "evaluate" in session.built:
            announce(versions.get(gated(session.built).stage))


def register_models(session: Session, recipe: str) -> dict[str, Version]:
    """Registers the models of a session that are not registered yet; returns those of all, by stage.

    A model is marked first, so that `python -m flows track` registers it when MLflow cannot be reached now.
    """
    versions = {}
    for stage, model in session.built.items():
        if model.makes is None:
            continue
        name = registered_name(recipe, model)
        if "registered" not in model.provenance:
            mark(model, {"name": name})
        version = register(session.tracker, name, model, session.store, evaluation_of(model, session.store))
        if version:
            versions[stage] = version
    return versions


def gated(built: Mapping[str, Artifact]) -> Artifact:
    """The model that goes through the gate: the last chat model, or the base model where there is none."""
    return next(model for model in reversed(list(built.values())) if model.makes in ("chat", "base"))


@guarded
def announce(version: Version | None) -> None:
    """Emits the event of a new candidate that the gate has not judged yet."""
    if version is None or version.decision or CANDIDATE not in version.aliases:
        return
    resource = {"prefect.resource.id": resource_id(version.name), "prefect.resource.name": str(version)}
    emit_event(CANDIDATE_EVENT, resource, payload={"version": version.number, "fingerprint": version.fingerprint})


def resource_id(name: str) -> str:
    """What a registered model is called in events."""
    return f"sourdough.model.{name}"
