"""Scaling laws: a sweep of small pretraining runs over a recipe's corpus, and the fits over their held-out losses."""

from __future__ import annotations

import prefect

from llm.scaling.config import ScalingConfig
from llm.scaling.sweep import Run, planned_runs, read_corpus
from tasks.core.fingerprint import code_closure
from tasks.core.session import running
from tasks.pretrain import pretrain
from tasks.scaling import scaling as scaling_stage

from .pipeline import AnyOfRecipe, build_model, new_session, tracked
from .pipeline import run_name as pipeline_run_name
from .recipe import Recipe, asked_recipe


def run_name() -> str:
    """Returns the name of the flow run that asks, after its recipe."""
    return f"{pipeline_run_name()} scaling"


@prefect.flow(name="scaling", flow_run_name=run_name, validate_parameters=True)
def scaling(recipe: AnyOfRecipe, base: str | None = None) -> dict[str, str]:
    """Trains the runs of a recipe's `scaling` section and fits how loss falls with size, tokens and compute.

    Args:
        recipe: What to train on (its stages up to the shards are built or taken from the store), and the sweep.
            A field that is left out is as in base, one that is null is empty.
        base: Path of the recipe that has the fields that are left out.
    """
    asked = asked_recipe(recipe, base)
    sweep = sweep_of(asked)
    session = new_session(asked, until_stage="shard")
    session.code[scaling_stage.name] = code_closure(scaling_stage.modules)
    with tracked(session, f"{asked.name} scaling"):
        with running(session):
            build_model(asked)
        session.until_stage = None  # the runs come after it
        shards, vocabulary = session.built["shard"], session.built["tokenizer"]
        runs, left_out = planned_runs(sweep, asked.pretrain, read_corpus(shards.path))
        log_plan(runs, left_out)
        with running(session):
            artifacts = [pretrain(shards, vocabulary, config=run.config) for run in runs]
            made = scaling_stage(*artifacts, config=sweep)
    return {"scaling": str(made.path)}


def sweep_of(recipe: Recipe) -> ScalingConfig:
    """Returns the recipe's sweep; raises ValueError when it has none."""
    if recipe.scaling is None:
        raise ValueError(f"the recipe {recipe.name} has no scaling section; conf/scaling-cpu.yaml has one")
    return recipe.scaling


def log_plan(runs: list[Run], left_out: list[str]) -> None:
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
