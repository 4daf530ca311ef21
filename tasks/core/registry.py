"""MLflow's model registry: every trained model is a version, `candidate` the newest, `champion` the best so far.

The registry is a view of the store like all of MLflow: a version names an artifact by its tags, and holds the
model as an export for transformers. Each function does nothing and gives None once MLflow has failed.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llm.files import read_json, write_text

from .model_card import model_card, summary
from .store import Artifact, Store
from .tracking import Tracker, guarded, send

CANDIDATE, CHAMPION = "candidate", "champion"
PREFIX = "sourdough-"
"""What the names of our registered models begin with."""
OWN_FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "labels.json")
"""What a version of an architecture that only we know holds, beside its card: never pickled objects."""
TRANSFORMERS_TASKS = {"ForCausalLM": "text-generation", "LMHeadModel": "text-generation"}
"""By how its class is called, the task of a model in transformers; any other's is text-classification."""
TAGS = ("stage", "makes", "fingerprint", "digest", "built")
CARD_FILE, FOLDER = "MODEL_CARD.md", "model"


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: str
    stage: str
    makes: str
    """What kind of model it is: `base`, `chat`, `classifier`."""
    fingerprint: str
    digest: str
    built: str
    """When, as the store says it."""
    number_built: str = "0"
    """The number that the store has given it; 0 for those registered before there were numbers."""
    aliases: tuple[str, ...] = ()
    decision: str | None = None
    """What the gate said of it: promoted or refused; None before."""

    @property
    def age(self) -> tuple[int, str]:
        """By which the newest is found, as for artifacts."""
        return int(self.number_built), self.built

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"


def registered_name(recipe: str, model: Artifact) -> str:
    """Returns the name in the registry for models of a recipe and of this one's kind: `sourdough-demo-chat`."""
    return f"{PREFIX}{recipe}-{model.makes}"


@guarded
def register(tracker: Tracker, name: str, model: Artifact, store: Store, scores: Artifact | None) -> Version:
    """Makes `model` a version of `name` and its `candidate`, unless it is one; writes its card anew if it has changed.

    `scores` is an evaluation of the model, or None when there is none yet.
    """
    client, card = tracker.client, model_card(name, model, store, scores)
    there = next((item for item in versions_of(tracker, name) if item.digest == model.digest), None)
    if there is None:
        there = add_version(tracker, name, model, card)
    elif scores:
        found = client.get_model_version(name, there.number)
        if found.description != summary(card):
            client.update_model_version(name, there.number, summary(card))
            log_card(tracker, found.run_id, card)
    mark(model, {"name": name, "version": there.number})
    return there


def add_version(tracker: Tracker, name: str, model: Artifact, card: str) -> Version:
    """Registers a new version, with the alias `candidate` unless that of a model built later."""
    client, run_id = tracker.client, known_run(tracker, model)
    log_model(tracker, run_id, model)
    log_card(tracker, run_id, card)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    before = aliased(tracker, name, CANDIDATE)
    tags = {"stage": model.stage, "makes": str(model.makes)}
    tags |= {"fingerprint": model.fingerprint, "digest": model.digest}
    tags["number_built"], tags["built"] = map(str, model.age)
    source = f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}"
    made = client.create_model_version(name, source, run_id, tags=tags, description=summary(card))
    is_newest = before is None or before.age <= model.age
    if is_newest:
        client.set_registered_model_alias(name, CANDIDATE, made.version)
    return Version(name, str(made.version), **tags, aliases=(CANDIDATE,) if is_newest else ())


def log_model(tracker: Tracker, run_id: str, model: Artifact) -> None:
    """Puts the model into a run, as a folder that transformers loads and `mlflow.transformers.load_model` as well.

    Adapters are in its weights. MLflow's own way of writing such a folder needs transformers and the model in memory.
    """
    from llm.model.export import directory_to_hf, is_exportable  # loads torch, which most that import this never need

    if not is_exportable(model.path):
        for path in (model.path / file for file in OWN_FILES):
            if path.is_file():
                tracker.client.log_artifact(run_id, str(path), FOLDER)
        return
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / FOLDER
        directory_to_hf(model.path, folder)
        component = folder / "components" / "tokenizer"
        component.mkdir(parents=True)
        for path in folder.glob("tokenizer*.json"):
            shutil.copy(path, component)
        write_text(folder / "MLmodel", yaml.safe_dump(mlmodel(read_json(folder / "config.json")), sort_keys=False))
        tracker.client.log_artifacts(run_id, str(folder), FOLDER)


def mlmodel(config: dict[str, Any]) -> dict[str, Any]:
    """Returns MLflow's description of a model in its flavor for transformers, for the `config.json` beside it."""
    (architecture,) = config["architectures"]
    task = next((task for end, task in TRANSFORMERS_TASKS.items() if architecture.endswith(end)), None)
    flavor = {
        "task": task or "text-classification",
        "instance_type": "TextGenerationPipeline" if task else "TextClassificationPipeline",
        "pipeline_model_type": architecture,
        "model_binary": ".",
        "torch_dtype": "torch.float32",
        "components": ["tokenizer"],
        "tokenizer_type": "PreTrainedTokenizerFast",
    }
    return {"flavors": {"transformers": flavor}}


def log_card(tracker: Tracker, run_id: str, card: str) -> None:
    """Puts the card beside the model's files."""
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder) / CARD_FILE, card)
        tracker.client.log_artifact(run_id, str(Path(folder) / CARD_FILE), FOLDER)


def known_run(tracker: Tracker, model: Artifact) -> str:
    """Returns the run that shows a model's training; it is sent now if this MLflow does not know it."""
    run_id = model.provenance.get("mlflow_run_id")
    if run_id and tracker.client.search_runs([tracker.experiment], f"attributes.run_id = '{run_id}'"):
        return str(run_id)
    sent = send(tracker, model)
    if sent is None:
        raise ConnectionError("MLflow failed while the run of the model was sent")
    return sent


@guarded
def all_versions(tracker: Tracker) -> list[Version]:
    """Returns the versions of our registered models, the newest of each first; none before the first was registered."""
    if tracker.is_empty:
        return []
    names = [item.name for item in tracker.client.search_registered_models(f"name LIKE '{PREFIX}%'")]
    return [version for name in sorted(names) for version in versions_of(tracker, name)]


def versions_of(tracker: Tracker, name: str) -> list[Version]:
    """Returns the versions of a registered model, the newest first."""
    found = tracker.client.search_registered_models(f"name = '{name}'")
    aliases: dict[str, str] = found[0].aliases if found else {}
    listed = sorted(
        tracker.client.search_model_versions(f"name = '{name}'"), key=lambda item: int(item.version), reverse=True
    )
    return [as_version(item, aliases) for item in listed if item.tags.keys() >= set(TAGS)]


def as_version(item: Any, aliases: dict[str, str]) -> Version:
    """Returns a version as MLflow gives it; its aliases are kept with the registered model."""
    tags = {key: item.tags[key] for key in (*TAGS, "number_built") if key in item.tags}
    own = tuple(alias for alias, number in aliases.items() if str(number) == str(item.version))
    return Version(item.name, str(item.version), **tags, aliases=own, decision=item.tags.get("gate"))


@guarded
def aliased(tracker: Tracker, name: str, alias: str) -> Version | None:
    """Returns the version of a registered model that has an alias."""
    if tracker.is_empty:
        return None
    return next((version for version in versions_of(tracker, name) if alias in version.aliases), None)


def record_decision(tracker: Tracker, candidate: Version, *, promote: bool, reasons: list[str], against: str) -> bool:
    """Moves `champion` if the candidate is promoted, then writes the decision; returns whether it is champion now."""
    is_champion = promote and bool(make_champion(tracker, candidate))
    if is_champion == promote:
        write_decision(tracker, candidate, "promoted" if promote else "refused", reasons, against)
    return is_champion


@guarded
def make_champion(tracker: Tracker, version: Version) -> bool:
    """Gives a version the alias `champion`."""
    tracker.client.set_registered_model_alias(version.name, CHAMPION, version.number)
    return True


@guarded
def write_decision(tracker: Tracker, candidate: Version, verdict: str, reasons: list[str], against: str) -> None:
    """Writes what the gate has decided to the candidate's version and run."""
    client = tracker.client
    tags = {"gate": verdict, "gate.reason": reasons[0][:5000], "gate.against": against}
    for key, value in tags.items():
        client.set_model_version_tag(candidate.name, candidate.number, key, value)
    run_id = client.get_model_version(candidate.name, candidate.number).run_id
    client.log_dict(run_id, {**tags, "candidate": str(candidate), "reasons": reasons}, "gate.json")


def replay_registrations(store: Store, tracker: Tracker) -> int:
    """Registers every model that a flow has marked and the registry lacks; returns how many were registered."""
    n_made = 0
    for model in (item for stage in store.stages() for item in reversed(store.artifacts(stage))):
        registered = model.provenance.get("registered", {})
        if "name" in registered and "version" not in registered:
            made = register(tracker, registered["name"], model, store, evaluation_of(model, store))
            n_made += made is not None
    return n_made


def evaluation_of(model: Artifact, store: Store) -> Artifact | None:
    """Returns the newest evaluation in the store that measured a model."""
    return next((made for made in store.artifacts("evaluate") if model.digest in made.input_digests), None)


def mark(model: Artifact, registered: dict[str, str]) -> None:
    """Notes in a model's provenance under which name it is registered, and as which version once it is."""
    if model.provenance.get("registered") != registered:
        model.note(registered=registered)
