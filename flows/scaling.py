"""Scaling laws: a sweep of small pretraining runs over a recipe's corpus, and the fits over their held-out losses."""

from __future__ import annotations

import prefect

from llm.files import read_json
from llm.scaling.config import ScalingConfig
from llm.scaling.sweep import Corpus, Run, planned_runs
from tasks.core.fingerprint import code_closure
from tasks.core.session import Session, running
from tasks.core.store import Artifact
from tasks.pretrain import pretrain
from tasks.scaling import scaling as scaling_stage

from .pipeline import build_model, new_session, tracked
from .recipe import Recipe


@prefect.flow(name="scaling", flow_run_name="{recipe.name} scaling", validate_parameters=True)
def scaling(recipe: Recipe) -> dict[str, str]:
    """Trains the runs of a recipe's `scaling` section and fits how loss falls with size, tokens and compute.

    Args:
        recipe: What to train on (its stages up to the shards are built or taken from the store), and the sweep.
    """
    sweep = sweep_of(recipe)
    session = new_session(recipe, until_stage="shard")
    session.code[scaling_stage.name] = code_closure(scaling_stage.modules)
    with tracked(session, f"{recipe.name} scaling"):
        shards, vocabulary = data_of(recipe, session)
        runs, left_out = planned_runs(sweep, recipe.pretrain, corpus_of(shards))
        say(runs, left_out)
        with running(session):
            artifacts = [pretrain(shards, vocabulary, config=run.config) for run in runs]
            made = scaling_stage(*artifacts, config=sweep)
    return {"scaling": str(made.path)}


def sweep_of(recipe: Recipe) -> ScalingConfig:
    """The recipe's sweep; raises ValueError when it has none."""
    if recipe.scaling is None:
        raise ValueError(f"the recipe {recipe.name} has no scaling section; conf/scaling-cpu.yaml has one")
    return recipe.scaling


def data_of(recipe: Recipe, session: Session) -> tuple[Artifact, Artifact]:
    """Shards and vocabulary of a recipe, built or found; after it, the session has no last stage."""
    with running(session):
        build_model(recipe)
    session.until_stage = None
    return session.built["shard"], session.built["tokenizer"]


def corpus_of(shards: Artifact) -> Corpus:
    """What the runs' settings depend on: the shards' vocabulary, context length and number of training tokens."""
    form = read_json(shards.path / "shards.json")
    return Corpus(int(form["vocab_size"]), int(form["context_length"]), int(form["n_train_tokens"]))


def say(runs: list[Run], left_out: list[str]) -> None:
    """Logs what the sweep will train, and what it will not."""
    log = prefect.get_run_logger()
    for line in left_out:
        log.info("left out: %s", line)
    for run in runs:
        log.info(
            "%.3g FLOPs: %d layers of %d, %s parameters, %s tokens, %d steps of %d, learning rate %g",
            run.budget,
            run.shape.n_layers,
            run.shape.d_model,
            f"{run.n_params:,}",
            f"{run.n_tokens:,}",
            run.config.n_steps,
            run.config.batch_tokens,
            run.config.optimizer.learning_rate,
        )
