"""Fields that a form or an API gives lie over the recipe's; what is left out is the recipe's."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.pipeline import PIPELINE, pipeline
from flows.recipe import asked_recipe, load_recipe
from flows.scaling import scaling
from flows.stages import stage_flow, stage_flows
from tests.flows.runs import TINY, TINY_STAGES, Run

FULL = "conf/scaling-cpu.yaml"


def one_field(config: Any) -> dict[str, Any]:
    """The first field of a config that differs from the class's default or, where all are defaults, the first one."""
    plain = dataclasses.asdict(config)
    different = [field.name for field in dataclasses.fields(config) if getattr(config, field.name) != field.default]
    name = (different or [*plain])[0]
    return {name: plain[name]}


@pytest.mark.parametrize("name", TINY_STAGES)
def test_a_stage_with_one_field_given_is_the_recipes_own(tiny: Run, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURDOUGH_WORKSPACE", str(tiny.workspace))
        patch.setenv("MLFLOW_TRACKING_URI", "")
        recipe = load_recipe(TINY)
        given = one_field(getattr(recipe, name))
        made = stage_flows(recipe)[name](given, TINY, force=False)
    assert made == {name: str(tiny.artifacts[name].path)}


@pytest.mark.parametrize("name", PIPELINE)
def test_the_form_of_a_stage_is_of_its_config_and_requires_nothing_in_it(name: str) -> None:
    schema = parameter_schema(stage_flow(name)).model_dump(exclude_unset=True)
    config_class = PIPELINE[name].config_class
    form = schema["definitions"][config_class.__name__]
    assert list(form["properties"]) == [field.name for field in dataclasses.fields(config_class)]
    assert all(field.get("description") or "$ref" in str(field) for field in form["properties"].values())
    assert "required" not in form
    validate({"config": {}}, schema, raise_on_error=True)  # as the server does
    with pytest.raises(ValidationError, match="'config' is a required property"):
        validate({}, schema, raise_on_error=True)


def test_nested_sections_are_merged_and_all_else_is_replaced() -> None:
    base = load_recipe(TINY, ["pretrain.loop.n_threads=2", "evaluate.max_items=3"])
    given = {"pretrain": {"n_steps": 2, "optimizer": {"warmup_steps": 1}}, "crawl": {"seeds": ["http://127.0.0.1:9/"]}}
    made = load_recipe(TINY, ["pretrain.loop.n_threads=2", "evaluate.max_items=3"], given)
    assert made.pretrain == dataclasses.replace(
        base.pretrain, n_steps=2, optimizer=dataclasses.replace(base.pretrain.optimizer, warmup_steps=1)
    )
    assert made.crawl == dataclasses.replace(base.crawl, seeds=("http://127.0.0.1:9/",))  # type: ignore[type-var]
    assert dataclasses.replace(made, pretrain=base.pretrain, crawl=base.crawl) == base


def test_all_fields_of_a_form_are_the_recipe_again_and_null_empties() -> None:
    recipe = load_recipe(FULL)
    assert load_recipe(FULL, given=dataclasses.asdict(recipe)) == recipe
    assert load_recipe(FULL, given={"scaling": None}).scaling is None
    with pytest.raises(ValueError, match="context_length is empty; it must have a value"):
        load_recipe(FULL, given={"shard": {"context_length": None}})


@pytest.mark.parametrize("flow", [pipeline, scaling])
def test_a_partial_recipe_lies_over_that_of_the_deployment(flow: Any) -> None:
    given = {"recipe": {"pretrain": {"n_steps": 2}}, "base": FULL}
    validate(given, parameter_schema(flow).model_dump(exclude_unset=True), raise_on_error=True)
    values = flow.validate_parameters(given)
    base = load_recipe(FULL)
    asked = asked_recipe(values["recipe"], values["base"])
    assert asked == dataclasses.replace(base, pretrain=dataclasses.replace(base.pretrain, n_steps=2))


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_step": 2}, "pretrain.n_step: unknown key; did you mean pretrain.n_steps?"),
        ({"n_steps": "many"}, "pretrain.n_steps is 'many': input should be a valid integer"),
        ({"optimizer": 3}, "pretrain.optimizer is one value; allowed: its fields, pretrain.optimizer.kind"),
    ],
)
def test_a_wrong_field_is_named(given: dict[str, Any], message: str) -> None:
    for flow, parameters in ((stage_flow("pretrain"), (given, TINY)), (pipeline, ({"pretrain": given},))):
        base = {"base": TINY} if flow is pipeline else {}
        with pytest.raises(ValueError, match=message.replace("?", r"\?")):
            flow(*parameters, **base)
