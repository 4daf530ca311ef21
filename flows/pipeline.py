"""The pipeline: from web pages to an evaluated chat model."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import prefect
from prefect.runtime import flow_run

from tasks.classify import classify
from tasks.clean import clean
from tasks.core.fingerprint import code_closure
from tasks.core.session import Session, display, running
from tasks.core.stage import Stage
from tasks.core.store import Artifact, Store
from tasks.core.timeline import own_flow_run
from tasks.core.tracking import Tracker
from tasks.core.workspace import workspace
from tasks.crawl import crawl
from tasks.decontaminate import decontaminate
from tasks.dedup import dedup
from tasks.evaluate import evaluate
from tasks.finetune import finetune
from tasks.ingest import ingest
from tasks.instruct import instruct
from tasks.prefer import prefer
from tasks.pretrain import pretrain
from tasks.reference import reference
from tasks.reinforce import reinforce
from tasks.report import report
from tasks.shard import shard
from tasks.tokenizer import tokenizer

from .recipe import Recipe, asked_recipe, partial, recipe_name
from .registration import registered


def stages_by_section(imported: Mapping[str, Any]) -> dict[str, Stage]:
    """Returns the stages among some names in the order of their sections in a recipe.

    Raises TypeError for a stage whose section is missing or of another class.
    """
    stages = {name: value for name, value in imported.items() if isinstance(value, Stage)}
    hints = typing.get_type_hints(Recipe)
    for name, made in stages.items():
        if made.config_class not in (hints.get(name), *typing.get_args(hints.get(name))):
            raise TypeError(f"stage {name} needs a section {name}: {made.config_class.__name__} in Recipe")
    return {name: stages[name] for name in hints if name in stages}


PIPELINE = stages_by_section(globals())
"""The stages that this module imports, by name, in the order in which `build_model` calls them."""
if TYPE_CHECKING:
    StageName = str
    AnyOfRecipe = Recipe | Mapping[str, Any]
else:
    AnyOfRecipe = partial(Recipe)
    StageName = Literal[tuple(PIPELINE)]  # the choices in the forms of the Prefect UI


def build_model(recipe: Recipe) -> Artifact:
    """Runs the whole DAG. Inside a session, each call takes its artifact from the store or builds it."""
    pages = crawl(config=recipe.crawl) if recipe.crawl else ingest(config=recipe.ingest)
    cleaned = clean(pages, config=recipe.clean)
    distinct = dedup(cleaned, config=recipe.dedup)
    documents = decontaminate(distinct, config=recipe.decontaminate)
    vocabulary = tokenizer(documents, config=recipe.tokenizer)
    shards = shard(documents, vocabulary, config=recipe.shard)
    examples = instruct(pages, documents, config=recipe.instruct) if recipe.instruct else None
    base = pretrain(shards, vocabulary, config=recipe.pretrain)
    replayed = shards if recipe.finetune and recipe.finetune.replay else None
    tuned = finetune(base, examples, replayed, config=recipe.finetune) if examples else None
    pairs = reference(tuned, examples, config=recipe.reference) if recipe.reference else None
    preferred = prefer(tuned, pairs, config=recipe.prefer) if pairs else None
    chat = preferred or tuned
    rewarded = reinforce(chat, examples, config=recipe.reinforce) if recipe.reinforce else None
    chat = rewarded or chat
    classifier = classify(chat or base, config=recipe.classify) if recipe.classify else None
    scores = evaluate(documents, base, chat, examples, config=recipe.evaluate)
    corpus = (pages, cleaned, distinct, documents, vocabulary, shards)
    return report(*corpus, base, examples, tuned, pairs, preferred, rewarded, classifier, scores, config=recipe.report)


def run_name() -> str:
    """Returns the name of the flow run that asks, after its recipe."""
    given = flow_run.get_parameters()
    return recipe_name(given.get("base"), given["recipe"])


@prefect.flow(flow_run_name=run_name, validate_parameters=True)
def pipeline(
    recipe: AnyOfRecipe,
    from_stage: StageName | None = None,
    until_stage: StageName | None = None,
    force: tuple[StageName, ...] = (),
    base: str | None = None,
) -> dict[str, str]:
    """Builds a chat model from web pages; what is in the store already is not built again.

    Args:
        recipe: What to make, one section per stage; a field that is left out is as in base, one that is null is empty.
        from_stage: Stages before this one do not run: their artifacts are taken as they are.
        until_stage: Stages after this one do not run.
        force: Stages to build again even if they are in the store.
        base: Path of the recipe that has the fields that are left out.
    """
    asked = asked_recipe(recipe, base)
    check_files(asked)
    session = new_session(asked, from_stage=from_stage, until_stage=until_stage, force=force)
    with tracked(session, asked.name), registered(session, asked.name), running(session):
        build_model(asked)
    return {name: str(artifact.path) for name, artifact in session.built.items()}


def new_session(
    recipe: Recipe,
    *,
    from_stage: str | None = None,
    until_stage: str | None = None,
    force: tuple[str, ...] = (),
    execute: bool = True,
) -> Session:
    """Returns a session for a recipe here; raises ValueError for stages that do not exist or do not fit."""
    names = stages_of(recipe)
    for name in recipe.on_code_change:
        if name not in PIPELINE:
            raise ValueError(f"on_code_change names {name!r}, which is no stage; the stages are {', '.join(PIPELINE)}")
    for name in [*force, *filter(None, [from_stage, until_stage])]:
        if name not in names:
            raise ValueError(f"there is no stage {name!r}; the stages are {', '.join(names)}")
    first, last = names.index(from_stage or names[0]), names.index(until_stage or names[-1])
    left_out = [name for name in force if not first <= names.index(name) <= last]
    if first > last or left_out:
        what = f"--force {left_out[0]}" if left_out else f"--until {until_stage}"
        raise ValueError(f"{what} does not fit --from {from_stage or names[0]}, --until {until_stage or names[-1]}")
    root = workspace()
    return Session(
        Store(root / "store"),
        engine=recipe.engine,
        execute=execute,
        stages=names,
        from_stage=from_stage,
        until_stage=until_stage,
        force=force,
        on_code_change=recipe.on_code_change,
        tracker=Tracker() if execute else Tracker(""),
        downloads=root / "downloads",
        code={name: code_closure(PIPELINE[name].modules) for name in names},
    )


def stages_of(recipe: Recipe) -> tuple[str, ...]:
    """Returns the stages of a recipe in the order in which the pipeline calls them: those that it has a section for."""
    return tuple(name for name in PIPELINE if getattr(recipe, name) is not None)


def check_files(recipe: Recipe) -> None:
    """Reads what a recipe names outside of the store: it is needed hours later.

    Raises ValueError that names the file, and where it is known line and field.
    """
    for name in stages_of(recipe):
        PIPELINE[name].options.check(getattr(recipe, name))


@contextmanager
def tracked(session: Session, name: str) -> Iterator[None]:
    """Opens an MLflow run for the flow run that executes the block."""
    own_flow_run()
    session.tracker.start_flow(name, str(flow_run.get_id() or name))
    try:
        yield
    except BaseException:
        session.tracker.end_flow(failed=True)
        raise
    session.tracker.end_flow(failed=False)
    display.get().finish()
