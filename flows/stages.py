"""One flow per stage, so that a single stage can be run again from the UI."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import prefect

from llm.config import Config
from tasks.core.session import running

from .pipeline import PIPELINE, build_model, new_session, stages_of, tracked
from .recipe import Recipe, load_recipe, partial, plain
from .registration import registered


def stage_flow(name: str) -> prefect.Flow[..., dict[str, str]]:
    """Returns a flow that runs one stage on the artifacts that the stages before it left for the recipe."""

    def run(
        config: Config | Mapping[str, Any],
        recipe: str = "conf/demo.yaml",
        overrides: tuple[str, ...] = (),
        force: bool = True,
    ) -> dict[str, str]:
        asked = load_recipe(recipe, overrides, {name: plain(config)})
        session = new_session(asked, from_stage=name, until_stage=name, force=(name,) if force else ())
        with tracked(session, f"{asked.name} {name}"), registered(session, asked.name), running(session):
            build_model(asked)
        return {name: str(session.built[name].path)}

    run.__name__ = run.__qualname__ = name
    run.__annotations__["config"] = partial(PIPELINE[name].config_class)
    run.__doc__ = f"""{inspect.getdoc(PIPELINE[name])}

    Args:
        config: The stage's section of the recipe; a field that is left out is as there, one that is null is empty.
        recipe: The recipe that gives the stages before this one; they do not run, their artifacts are taken.
        overrides: Fields of other sections, each as key=value.
        force: Build the stage even if its artifact is in the store.
    """
    return prefect.flow(name=name, flow_run_name=f"{name} {{recipe}}", validate_parameters=True)(run)


globals().update({name: stage_flow(name) for name in PIPELINE})  # Prefect finds a deployment's flow by its name


def stage_flows(recipe: Recipe) -> dict[str, Any]:
    """Returns the flows for the stages of a recipe, by name, in the pipeline's order."""
    return {name: globals()[name] for name in stages_of(recipe)}
