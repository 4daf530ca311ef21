"""Trained models by the names that a person uses for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm.model.files import WEIGHTS_FILE
from llm.serve.answer import LoadedModel, load, use_few_threads
from llm.serve.classify import LoadedClassifier
from llm.serve.classify import load as load_classifier
from tasks.core.registry import CANDIDATE, CHAMPION, PREFIX, all_versions
from tasks.core.store import Artifact, Store
from tasks.core.tracking import Tracker
from tasks.core.workspace import workspace

if TYPE_CHECKING:
    from tasks.core.stage import ModelKind

N_DIGITS = 12


@dataclass(frozen=True)
class FoundModel:
    """A model directory."""

    name: str
    path: Path
    artifact: Artifact | None
    """None for a directory outside of the store."""


def store() -> Store:
    """Returns the store of the workspace."""
    return Store(workspace() / "store")


def find_model(name: str | None = None, kind: ModelKind = "chat") -> FoundModel:
    """Finds the model of a directory, or the one in the store that `name` names; without it, the newest chat model.

    A name is a stage (its newest model), a fingerprint or its beginning, or both: `finetune-649889fd`; or one of the
    registry: `champion`, `candidate` (of the models of that `kind`), `sourdough-demo-chat` (its champion),
    `sourdough-demo-chat@candidate`. Raises ValueError that lists the models there are when none or several have the
    name.
    """
    if name is None:
        name = newest_chat_model().fingerprint
    if (Path(name) / WEIGHTS_FILE).is_file():
        return model_of_directory(Path(name).resolve())
    models = stored_models()
    found = [model for model in models if is_named(model, name)] or registered_models(name, models, kind)
    if len(found) == 1 or (found and name == found[0].stage):
        return found_model(found[0])
    if name and not found and Path(name).is_dir():
        raise ValueError(
            f"{name} is not a model directory: it has no {WEIGHTS_FILE}; `python -m flows list` shows models"
        )
    problem = f"{name!r} could be any of {len(found)} models" if found else f"there is no model {name!r}"
    there = "".join(f"\n  {artifact_name(model)}  {built(model)}" for model in found or models)
    raise ValueError(f"{problem}; give a directory, a stage or a fingerprint. In the store:{there or ' none'}")


def newest_chat_model() -> Artifact:
    """Returns the chat model that was built last; raises ValueError when there is none."""
    models = [model for model in stored_models() if model.makes == "chat"]
    if not models:
        raise ValueError("there is no chat model in the store yet; `make run` builds one")
    return max(models, key=lambda model: model.age)


def registered_models(name: str, models: list[Artifact], kind: ModelKind) -> list[Artifact]:
    """Returns the models that the registry knows by an alias, a registered name, or both with `@` between.

    An alias alone, which every registered name has, means the model of that kind if only one recipe has one. No gate
    judges classifiers, so where one is meant, a registered name alone is its candidate.
    """
    registered, _, alias = name.rpartition("@")
    if not registered and alias not in (CANDIDATE, CHAMPION):
        registered, alias = name, CANDIDATE if kind == "classifier" else CHAMPION
        if not name.startswith(PREFIX):
            return []
    versions = [version for version in all_versions(Tracker()) or [] if alias in version.aliases]
    if registered:
        named = [version for version in versions if version.name == registered]
    else:
        named = [version for version in versions if version.makes == kind] or versions
    known = {(version.stage, version.fingerprint, version.digest) for version in named}
    return [model for model in models if (model.stage, model.fingerprint, model.digest) in known]


def model_of_directory(path: Path) -> FoundModel:
    """Returns the model in a directory, inside of the store or not."""
    artifact = Store(path.parent.parent).find(path.parent.name, path.name)
    return found_model(artifact) if artifact else FoundModel(path.name, path, None)


def stored_models() -> list[Artifact]:
    """Returns the models in the store, the newest of each stage first."""
    there = store()
    artifacts = [artifact for stage in there.stages() for artifact in there.artifacts(stage)]
    return [made for made in artifacts if made.makes and (made.path / WEIGHTS_FILE).is_file()]


def is_named(artifact: Artifact, name: str) -> bool:
    """Returns whether `name` is the artifact's stage, its fingerprint's beginning, or both, with `-` or `/` between."""
    stage, _, digits = name.replace("/", "-").rpartition("-")
    return name == artifact.stage or (
        bool(digits) and artifact.fingerprint.startswith(digits) and stage in ("", artifact.stage)
    )


def load_found(model: FoundModel, name: str | None = None) -> LoadedModel:
    """Loads a language model, under its own name or another; sets PyTorch's number of threads for it."""
    is_chat = model.artifact.makes == "chat" if model.artifact else None
    loaded = load(model.path, name or model.name, is_chat=is_chat)
    use_few_threads(loaded.model)
    return loaded


def load_found_classifier(model: FoundModel, name: str | None = None) -> LoadedClassifier:
    """Loads a classifier, as `load_found` does a language model."""
    loaded = load_classifier(model.path, name or model.name)
    use_few_threads(loaded.model)
    return loaded


def found_model(artifact: Artifact) -> FoundModel:
    """Returns an artifact as a model."""
    return FoundModel(artifact_name(artifact), artifact.path, artifact)


def artifact_name(artifact: Artifact) -> str:
    """Returns stage and the first digits of the fingerprint: a name that `find_model` finds again."""
    return f"{artifact.stage}-{artifact.fingerprint[:N_DIGITS]}"


def built(artifact: Artifact) -> str:
    """Returns when an artifact was built, to the minute."""
    return str(artifact.provenance.get("started", ""))[:16].replace("T", " ")
