"""Every field of every config class: a choice refuses other values, a number its bounds; all empty values are one."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import math
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Literal

import pydantic
import pytest

from benchmarks import house
from llm.config import NAME, Config, name_problem
from llm.train.config import ResolvedOptimizer

REQUIRED: dict[str, dict[str, Any]] = {
    "CrawlConfig": {"seeds": ("http://127.0.0.1:1/",), "allow_private": ("127.0.0.1:1",)},
    "CredentialConfig": {"env": "CORPUS_TOKEN"},
    "GPTConfig": {"vocab_size": 64, "context_length": 16, "n_layers": 1, "n_heads": 1, "d_model": 8},
    "IngestConfig": {"sources": ()},
    "Recipe": {"name": "r"},
    "ResolvedOptimizer": {"learning_rate": 0.001, "warmup_steps": 20, "weight_decay": 0.1},
    "ResolvedPretrain": {
        "n_steps": 1,
        "batch_tokens": 16,
        "optimizer": ResolvedOptimizer(learning_rate=0.001, warmup_steps=20, weight_decay=0.1),
    },
    "ScalingConfig": {"budgets": (1e9,), "shapes": ()},
    "SourceConfig": {"name": "notes", "kind": "text", "paths": ("notes.txt",)},
    "SweepShape": {"d_model": 8, "n_layers": 1},
}
"""Values for the fields that have no default."""


def config_classes() -> list[type[Config]]:
    """All config classes of the three packages, sorted by name; only the modules that define one are imported."""
    modules = house.read_modules(house.ROOT)
    bases = house.base_classes(modules)
    made = [
        getattr(importlib.import_module(module.name), node.name)
        for module in modules.values()
        for node in module.tree.body
        if isinstance(node, ast.ClassDef) and "Config" in house.reachable(bases, [node.name])
    ]
    return sorted(made, key=lambda config_class: config_class.__name__)


def options_of(hint: Any) -> list[Any]:
    """The types that a hint admits, one by one."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return [option for argument in typing.get_args(hint) for option in options_of(argument)]
    return [hint]


def made_with(config_class: type[Config], field: dataclasses.Field[Any], value: Any) -> Config:
    """A config with this value in one field, and the others at their defaults."""
    return config_class(**{**REQUIRED.get(config_class.__name__, {}), field.name: value})


FIELDS = [
    pytest.param(made, field, options_of(typing.get_type_hints(made)[field.name]), id=f"{made.__name__}.{field.name}")
    for made in config_classes()
    for field in dataclasses.fields(made)  # type: ignore[arg-type]
]
CHOICES = [param for param in FIELDS if any(typing.get_origin(option) is Literal for option in param.values[2])]
MADE_BY_CODE = ("GPTConfig", "ResolvedOptimizer", "ResolvedPretrain")
"""No sections of a recipe: no person writes them."""
IN_RECIPES = [param for param in FIELDS if param.values[0].__name__ not in MADE_BY_CODE]
BOUNDED = [
    pytest.param(*param.values, bound, direction, id=f"{param.id}-{key}")
    for param in FIELDS
    for key, direction in (("at_least", -1), ("at_most", 1))
    if (bound := param.values[1].metadata.get(key)) is not None
]


def test_classes_with_fields_are_found() -> None:
    assert {made.__name__ for made in config_classes()} >= {"OptimizerConfig", "EngineConfig", "Recipe", *REQUIRED}
    assert len(CHOICES) > 15
    assert len(BOUNDED) > 100


@pytest.mark.parametrize(("config_class", "field", "options"), CHOICES)
def test_a_choice_refuses_what_is_not_among_its_options(
    config_class: type[Config], field: dataclasses.Field[Any], options: list[Any]
) -> None:
    allowed = [value for option in options if typing.get_origin(option) is Literal for value in typing.get_args(option)]
    for wrong in (f"{allowed[0]}s", 7, True):
        with pytest.raises(ValueError, match=f"^{field.name} is {wrong!r}; allowed: ") as caught:
            made_with(config_class, field, wrong)
        assert [value for value in allowed if repr(value) not in str(caught.value)] == []


@pytest.mark.parametrize(("config_class", "field", "options", "bound", "direction"), BOUNDED)
def test_a_number_refuses_what_is_just_beyond_its_bound(
    config_class: type[Config], field: dataclasses.Field[Any], options: list[Any], bound: float, direction: int
) -> None:
    assert {int, float} & set(options), "bounds are for numbers"
    beyond = bound + direction if float not in options else math.nextafter(bound, direction * math.inf)
    allowed = re.escape(f"{bound:g}" if isinstance(bound, float) else str(bound))
    with pytest.raises(ValueError, match=rf"^{field.name} is {re.escape(str(beyond))}; allowed: .*{allowed}"):
        made_with(config_class, field, beyond)


@pytest.mark.parametrize(("config_class", "field", "options"), IN_RECIPES)
def test_all_empty_values_mean_the_same(
    config_class: type[Config], field: dataclasses.Field[Any], options: list[Any]
) -> None:
    given = REQUIRED.get(config_class.__name__, {})
    outcomes = [
        value_or_error(make, {**given, field.name: empty}, field)
        for make in (config_class, lambda **values: adapter(config_class).validate_python(values))
        for empty in (None, "", (), [])
    ]
    assert outcomes == outcomes[:1] * len(outcomes)


CANARY = "c4n4ryS3cr3t"
CREDENTIALS = [f"https://me:{CANARY}@h.example/", f"https://h.example/?X-Amz-Signature={CANARY}", "hf_" + CANARY * 2]
TEXTS = [
    pytest.param(*param.values, id=param.id)
    for param in IN_RECIPES
    if str in param.values[2] or tuple[str, ...] in param.values[2]
]
NAMED = [param for param in TEXTS if param.values[1].metadata.get(NAME)]
NO_NAMES = [
    "../../../x",
    "<b>a</b>",
    "a\nb",
    "a\n",
    "x" * 5_000,
    "a'b",
    'a"b',
    "a b",
    "/a",
    ".",
    "-a",
    ".a",
    "é",
    "a\0",
]


@pytest.mark.parametrize(("config_class", "field", "options"), TEXTS)
def test_no_text_holds_a_credential_and_no_message_repeats_it(
    config_class: type[Config], field: dataclasses.Field[Any], options: list[Any]
) -> None:
    for credential in CREDENTIALS:
        values = {**REQUIRED.get(config_class.__name__, {}), field.name: ("ok", credential)}
        if str in options:
            values[field.name] = credential
        with pytest.raises(ValueError, match=f"^{field.name} (holds|is no name)") as caught:
            config_class(**values)
        with pytest.raises(pydantic.ValidationError) as found:
            adapter(config_class).validate_python(values)
        assert CANARY not in str(caught.value) + str([item["msg"] for item in found.value.errors()])


@pytest.mark.parametrize(("config_class", "field", "options"), NAMED)
def test_a_name_is_letters_digits_and_its_marks(
    config_class: type[Config], field: dataclasses.Field[Any], options: list[Any]
) -> None:
    marks = field.metadata[NAME]
    assert name_problem(f"A9{marks}" + "x" * (62 - len(marks)), marks) is None
    assert "_" in marks or name_problem("a_b", marks)
    schema = adapter(config_class).json_schema()
    shown = schema.get("properties", schema.get("$defs", {}).get(config_class.__name__, {}).get("properties"))
    for wrong in NO_NAMES:
        with pytest.raises(ValueError, match=f"{field.name} is .*; allowed: letters, digits, ") as caught:
            made_with(config_class, field, wrong)
        assert len(str(caught.value)) < 500
        text = shown[field.name]
        assert not re.search(text["pattern"].removesuffix("$") + r"\Z", wrong) or len(wrong) > text["maxLength"]


def test_what_names_files_runs_and_metrics_is_a_name() -> None:
    assert {param.id for param in NAMED} >= {
        "Recipe.name", "SourceConfig.name", "IngestConfig.snapshot", "CrawlConfig.snapshot"
    }  # fmt: skip


adapter = functools.cache(pydantic.TypeAdapter)


def value_or_error(make: Callable[..., Config], values: dict[str, Any], field: dataclasses.Field[Any]) -> Any:
    """The field of the config that is made, or the message of the error."""
    try:
        return getattr(make(**values), field.name)
    except pydantic.ValidationError as error:
        return error.errors()[0]["msg"].removeprefix("Value error, ")
    except ValueError as error:
        return str(error)
