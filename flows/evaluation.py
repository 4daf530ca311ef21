"""The scheduled evaluation: the gate between candidate and champion, and a watch over the champion's scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import prefect
from prefect.artifacts import create_image_artifact, create_link_artifact, create_markdown_artifact

from llm.evaluate import history
from llm.evaluate.comparison import held_out_documents, held_out_examples, keep_items
from llm.evaluate.gate import decide
from llm.evaluate.metrics import DEFINITIONS, DOCUMENTS, EXAMPLES
from llm.evaluate.scores import Items, read_items, read_scores
from llm.files import exclusive_lock
from tasks.core.registry import (
    CANDIDATE,
    CHAMPION,
    Version,
    aliased,
    record_decision,
    register,
    registered_name,
)
from tasks.core.session import Session, running
from tasks.core.store import Artifact
from tasks.core.timeline import guarded
from tasks.core.tracking import Tracker
from tasks.core.workspace import workspace
from tasks.evaluate import evaluate

from .pipeline import build_model, new_session, tracked
from .recipe import Recipe, load_recipe
from .registration import gated, register_models

HELD_OUT_BY = {
    "decontaminate": (held_out_documents, (DOCUMENTS,)),
    "instruct": (held_out_examples, (EXAMPLES, DEFINITIONS)),
}
"""What reads the ids that a stage held out of training, and which benchmarks are made of these."""


class ScoreFell(ValueError):
    """A score of the champion is worse than it was, beyond noise."""


@prefect.flow(flow_run_name="evaluation {recipe}")
def evaluation(recipe: str = "conf/demo.yaml", again: bool = True, accept: bool = False) -> dict[str, float]:
    """Judges a new candidate, measures the champion on all benchmarks, and fails when one of its scores has fallen.

    Args:
        recipe: Path of the recipe whose models are evaluated; nothing before the evaluation runs.
        again: Measure models again whose evaluation is in the store.
        accept: Take the scores of now as what later ones are compared with, after a change that you know of.
    """
    asked = load_recipe(recipe)
    session = new_session(asked, from_stage="evaluate", force=("evaluate",) if again else ())
    with tracked(session, f"{asked.name} evaluation"), running(session):
        build_model(asked)
        measured = Evaluations(session, asked)
        register_models(session, asked.name)
        name = registered_name(asked.name, measured.newest)
        folder = history_folder(asked, session.built)
        with exclusive_lock(folder / ".lock"):
            champion, said = judge(measured, name)
            return watch(measured, champion, folder, said=said, accept=accept)


def history_folder(recipe: Recipe, built: Mapping[str, Artifact]) -> Path:
    """Returns where the history of a recipe's newest model is kept, one of the artifacts of a run by stage."""
    return workspace() / "evaluations" / registered_name(recipe.name, gated(built))


@dataclass
class Evaluations:
    """Evaluations of models over the held-out material of a recipe, each made once in a run."""

    session: Session
    recipe: Recipe
    made: dict[str, Artifact] = field(default_factory=dict)
    """By the model's digest."""

    def __post_init__(self) -> None:
        built = self.session.built
        self.newest, self.documents, self.examples = gated(built), built["decontaminate"], built.get("instruct")
        self.made[self.newest.digest] = built["evaluate"]

    def of(self, model: Artifact) -> Artifact:
        """Returns the evaluation of a model: the stage's, with this model in place of the recipe's newest.

        So both models are asked the same items by the same code, whatever their own runs were measured with.
        """
        if model.digest not in self.made:
            made_of = self.session.store.ancestors(model)
            own = next((item for item in made_of if item.makes == "base"), None)  # None: it was built anew since
            base, chat = own or self.session.built["pretrain"], None if model.makes == "base" else model
            self.made[model.digest] = evaluate(self.documents, base, chat, self.examples, config=self.recipe.evaluate)
        return self.made[model.digest]

    def items(self, model: Artifact) -> Items:
        """Returns what each item adds to the scores of a model."""
        return read_items(self.of(model).path, str(model.makes))

    def scores(self, model: Artifact) -> list[dict[str, Any]]:
        """Returns the rows of scores.parquet about a model, without comparisons with its base model."""
        return read_scores(self.of(model).path, str(model.makes))


def judge(measured: Evaluations, name: str) -> tuple[Version | None, str]:
    """Compares the candidate with the champion on the same items; moves the alias if the gate lets it through.

    Returns the champion after that, None when there is no registry; and what was decided, empty when nothing was. The
    first candidate becomes champion unopposed.
    """
    tracker, log = measured.session.tracker, prefect.get_run_logger()
    candidate, champion = aliased(tracker, name, CANDIDATE), aliased(tracker, name, CHAMPION)
    if not tracker.on:
        log.warning("the registry (MLflow) cannot be reached: the newest model is measured, nothing is judged")
        return None, ""
    if candidate is None or (champion and champion.number == candidate.number):
        return champion, ""
    promote, reasons = against_champion(measured, candidate, champion)
    against = str(champion) if champion else "nobody"
    is_champion = record_decision(tracker, candidate, promote=promote, reasons=reasons, against=against)
    if promote and not is_champion:
        reasons = ["MLflow failed before it could become champion: the next evaluation judges it again", *reasons]
    verdict = f"{candidate} is {'the new champion' if is_champion else 'refused'} (against {against})"
    log.info("%s: %s", verdict, reasons[0])
    show_markdown("gate", verdict, reasons)
    return candidate if is_champion else champion, f"{verdict}: {reasons[0]}"


def against_champion(measured: Evaluations, candidate: Version, champion: Version | None) -> tuple[bool, list[str]]:
    """Returns whether a candidate is to take the champion's place, and why; it does so unopposed when there is none."""
    session, model = measured.session, artifact_of(measured.session, candidate)
    if champion is None:
        return True, ["there is no champion yet: the first candidate becomes it"]
    opponent = find_artifact(session, champion)
    if opponent is None:
        return True, [f"{champion} is no longer in the store: the candidate takes its place without a comparison"]
    register(session.tracker, candidate.name, model, session.store, measured.of(model))  # its card gets the scores
    try:
        (first, second), left_out = fair_items(measured, (model, opponent))
    except ValueError as error:
        return False, [str(error)]
    decision = decide(first, second, measured.recipe.gate)
    return decision.promote, [*decision.reasons, *left_out]


def fair_items(measured: Evaluations, models: Sequence[Artifact]) -> tuple[list[Items], list[str]]:
    """Returns the items of each model that all of them held out of training, and in words which were left out.

    Models of one name may have been trained with another split, or on other documents, than the recipe gives now.
    Raises ValueError, naming the model, when no item of a metric is left.
    """
    tables, left_out = [measured.items(model) for model in models], []
    for split in filter(None, (measured.documents, measured.examples)):
        read_ids, benchmarks = HELD_OUT_BY[split.stage]
        for model in models:
            own = [item for item in measured.session.store.ancestors(model) if item.stage == split.stage]
            if {item.digest for item in own} == {split.digest}:
                continue
            held_out = set.intersection(*(read_ids(item.path) for item in own)) if own else set()
            why = f"{model.stage} {model.fingerprint[:12]} was trained with another split or on other documents"
            try:
                tables, dropped = keep_items(tables, benchmarks, held_out)
            except ValueError as error:
                remedy = "build both models with the same recipe to compare them"
                raise ValueError(f"{error}: {why}; {remedy}") from error
            left_out += [f"{said}: {why}" for said in dropped]
    return tables, left_out


def find_artifact(session: Session, version: Version) -> Artifact | None:
    """Returns the artifact that a registered version names; None when it is no longer in the store."""
    found = session.store.find(version.stage, version.fingerprint)
    return found if found and found.digest == version.digest else None


def artifact_of(session: Session, version: Version) -> Artifact:
    """Returns the artifact that a registered version names; raises ValueError when it is no longer in the store."""
    found = find_artifact(session, version)
    if found is None:
        raise ValueError(
            f"{version} is the model {version.stage} {version.fingerprint}, which is no longer in the store: "
            f"make it again with its recipe, or give its alias to another version in MLflow"
        )
    return found


def watch(
    measured: Evaluations, champion: Version | None, folder: Path, *, said: str, accept: bool
) -> dict[str, float]:
    """Measures the champion (without a registry, the newest model), adds it to the history; returns headline scores.

    Raises ScoreFell when a score is worse than when this model was first measured.
    """
    session = measured.session
    model = artifact_of(session, champion) if champion else measured.newest
    scores, path = measured.scores(model), folder / f"{model.fingerprint}.parquet"
    compared = history.against_reference(path, measured.items(model), accept=accept)
    for each in compared:
        if each.gain is None:
            prefect.get_run_logger().warning("%s", each.in_words())
    alarms = history.alarms(compared)
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": str(champion or f"{model.stage} {model.fingerprint[:12]}"),
        "fingerprint": model.fingerprint,
        "evaluation": measured.of(model).fingerprint,
        "gate": said,
        "fell": [each.name for each in alarms],
        "scores": scores,
    }
    try:
        history.append(folder / "history.jsonl", line)
        show_history(session.tracker, folder)
        show_markdown("watch", f"Scores of {line['model']}", [each.in_words() for each in compared])
    finally:  # a fall is named also when the disk is full
        if alarms:
            found = "; ".join(each.in_words() for each in alarms)
            raise ScoreFell(
                f"{line['model']} has fallen: {found}. To go on from here, run with accept after a look at why"
            )
    if champion:
        register(session.tracker, champion.name, model, session.store, measured.of(model))
    return dict(measured.of(model).counts.figures)


def show_history(tracker: Tracker, folder: Path) -> None:
    """Draws the history and sends it to where it is looked at; a plot that cannot be drawn costs a warning only."""
    try:
        history.draw(folder / "history.png", history.read(folder / "history.jsonl"))
    except Exception as error:
        prefect.get_run_logger().warning("the history cannot be drawn: %s", error)
    else:
        tracker.log_to_flow(folder / "history.png")
        show_plot(tracker)
    tracker.log_to_flow(folder / "history.jsonl")


@guarded
def show_markdown(key: str, title: str, lines: list[str]) -> None:
    """Shows a list on the flow run's page."""
    create_markdown_artifact("\n".join([f"**{title}**", "", *(f"- {line}" for line in lines)]), key=key)


@guarded
def show_plot(tracker: Tracker) -> None:
    """Shows the plot of the history on the flow run's page, from where MLflow serves it."""
    url = tracker.file_link("history.png")
    if url:
        create_image_artifact(url, key="history", description="Scores of the champion")
        create_link_artifact(url, link_text="history.png in MLflow", key="history-mlflow")
