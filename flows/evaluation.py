"""The scheduled evaluation: the models of a recipe, measured again."""

from __future__ import annotations

import prefect

from tasks.session import running

from .pipeline import build_model, new_session, tracked
from .recipe import load_recipe


@prefect.flow(flow_run_name="evaluation {recipe}")
def evaluation(recipe: str = "conf/demo.yaml") -> dict[str, float]:
    """Evaluates the newest base and chat model of a recipe again, and writes the report anew.

    Args:
        recipe: Path of the recipe whose models are evaluated; nothing before the evaluation runs.
    """
    asked = load_recipe(recipe)
    session = new_session(asked, from_stage="evaluate", force=("evaluate",))
    with tracked(session, f"{asked.name} evaluation"), running(session):
        build_model(asked)
    return dict(session.built["evaluate"].counts.figures)
