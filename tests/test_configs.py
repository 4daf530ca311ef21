"""Every field of every config class is checked: a choice refuses what is not among its options, a number its bounds."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import math
import re
import types
import typing
from typing import Any, Literal

import pytest

from benchmarks import house
from llm.config import Config

REQUIRED: dict[str, dict[str, Any]] = {
    "CrawlConfig": {"seeds": ("http://127.0.0.1:1/",), "allow_private": ("127.0.0.1:1",)},
    "GPTConfig": {"vocab_size": 64, "context_length": 16, "n_layers": 1, "n_heads": 1, "d_model": 8},
    "IngestConfig": {"sources": ()},
    "Recipe": {"name": "r"},
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


FIELDS = [
    pytest.param(made, field, options_of(typing.get_type_hints(made)[field.name]), id=f"{made.__name__}.{field.name}")
    for made in config_classes()
    for field in dataclasses.fields(made)  # type: ignore[arg-type]
]
CHOICES = [param for param in FIELDS if any(typing.get_origin(option) is Literal for option in param.values[2])]
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
    wrong = f"{allowed[0]}s"
    with pytest.raises(ValueError, match=re.escape(field.name)) as caught:
        config_class(**{**REQUIRED.get(config_class.__name__, {}), field.name: wrong})
    assert repr(wrong) in str(caught.value)
    assert [value for value in allowed if repr(value) not in str(caught.value)] == []


@pytest.mark.parametrize(("config_class", "field", "options", "bound", "direction"), BOUNDED)
def test_a_number_refuses_what_is_just_beyond_its_bound(
    config_class: type[Config], field: dataclasses.Field[Any], options: list[Any], bound: float, direction: int
) -> None:
    assert {int, float} & set(options), "bounds are for numbers"
    beyond = bound + direction if float not in options else math.nextafter(bound, direction * math.inf)
    with pytest.raises(
        ValueError, match=rf"^{field.name} is {re.escape(str(beyond))}; allowed: .*{re.escape(format(bound, 'g'))}"
    ):
        config_class(**{**REQUIRED.get(config_class.__name__, {}), field.name: beyond})
