"""Stage configurations: frozen dataclasses whose fields carry their bounds and whether they affect the result."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import re
import types
import typing
from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeVar

from .redact import credential_in

EXECUTION = "execution"
"""Metadata key of a field that says how a stage runs, not what it makes; such a field never enters a fingerprint."""
OPTIONAL = "optional"
"""Metadata key of a field that enters a fingerprint only when it is set: what was built before it was added stays."""
NAME = "name"
"""Metadata key of a field whose text is a name: of files, runs and metrics, and in pages."""
MAX_NAME_CHARS = 64


def setting(
    default: Any = dataclasses.MISSING,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    execution: bool = False,
    optional: bool = False,
    name: str | None = None,
) -> Any:
    """Returns a dataclass field with inclusive bounds, checked when the config is made.

    `execution=True` marks a field that cannot change the result (device, workers, log cadence), `optional=True` one
    that changes nothing while it has its default, and so is left out of `identity` then. `name` is what a text may hold
    besides letters and digits, where it is a name: "-" or "-_." (see `name_problem`).
    """
    metadata = {"at_least": at_least, "at_most": at_most, EXECUTION: execution, OPTIONAL: optional, NAME: name}
    return dataclasses.field(default=default, metadata=metadata)


class Config:
    """Base of every stage config.

    Subclasses are `@dataclass(frozen=True, kw_only=True)`. The string under a field is its documentation: it becomes
    the help text of the field in the Prefect UI. Unknown keys are refused.

    `null`, an empty list, an empty text and an override `key=` all mean the same, "empty": None where the field may be
    None, else no items; it is an error where there must be a value. No text may hold a credential: configs are kept
    with every artifact, and shown.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"use_attribute_docstrings": True, "extra": "forbid"}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> dict[str, Any]:
        """Returns pydantic's schema with a look at empty values before it checks their types."""
        schema: dict[str, Any] = handler(source)
        arguments = handler.resolve_ref_schema(schema)
        function = {"type": "no-info", "function": functools.partial(_with_empty_values, cls)}
        arguments["schema"] = {"type": "function-before", "function": function, "schema": arguments["schema"]}
        return schema

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        """Returns the JSON schema with our bounds in it, so that the form in the Prefect UI refuses what is out of
        range."""
        schema: dict[str, Any] = handler(core_schema)
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            options = schema["properties"][field.name]
            for option in options.get("anyOf", [options]):
                if option.get("type") in ("integer", "number"):
                    for ours, theirs in (("at_least", "minimum"), ("at_most", "maximum")):
                        if field.metadata.get(ours) is not None:
                            option[theirs] = field.metadata[ours]
                if option.get("type") == "string" and field.metadata.get(NAME):
                    option |= {"pattern": f"^{_name_pattern(field.metadata[NAME])}$", "maxLength": MAX_NAME_CHARS}
        return schema

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if _is_empty(value) and value != field.default:
                value = _empty_value(field, hints[field.name])
                object.__setattr__(self, field.name, value)
            low, high = field.metadata.get("at_least"), field.metadata.get("at_most")
            for item in _items(value):
                if isinstance(item, str):
                    _check_text(field, item)
                allowed = _instead_of(item, hints[field.name], low, high)
                if allowed:
                    raise ValueError(f"{field.name} is {item!r}; allowed: {allowed}")


def _items(value: Any) -> list[Any]:
    """Returns what a field holds: the items of a tuple, keys and values of a dict, or the one value."""
    if isinstance(value, dict):
        return [item for pair in value.items() for item in pair]
    return list(value) if isinstance(value, tuple) else [value]


def _check_text(field: Any, text: str) -> None:
    """Raises ValueError, without showing it, for a text with a credential, and for one that is not the name it is to
    be."""
    if found := credential_in(text):
        raise ValueError(
            f"{field.name} holds {found}, which would stand in logs, artifacts and reports; allowed: the address "
            "without it, and the credential as credential.env, the name of an environment variable (for signed "
            "addresses with credential.kind signed), where the section has that field"
        )
    marks = field.metadata.get(NAME)
    if marks and (problem := name_problem(text, marks)):
        raise ValueError(f"{field.name} is {problem}")


def name_problem(text: str, marks: str = "-_.") -> str | None:
    """Returns why a text is no name, with what is allowed: letters, digits and `marks`, and no dot or dash first.

    None for a name. Names become those of files, of runs and of metrics, and stand in pages and logs.
    """
    if len(text) <= MAX_NAME_CHARS and re.fullmatch(_name_pattern(marks), text):
        return None
    shown = repr(text[:MAX_NAME_CHARS]) + (f"... ({len(text):,} characters)" if len(text) > MAX_NAME_CHARS else "")
    words = {"-": "dashes", "_": "underscores", ".": "dots"}
    allowed = ", ".join(["letters", "digits", *(words.get(mark, f"`{mark}`") for mark in marks)])
    return f"{shown}; allowed: {allowed} (no accents), up to {MAX_NAME_CHARS}, a letter or digit first"


def _name_pattern(marks: str) -> str:
    return rf"[A-Za-z0-9][A-Za-z0-9{re.escape(marks)}]*"


def _instead_of(value: Any, hint: Any, low: float | None, high: float | None) -> str | None:
    """Returns what a field allows instead of a value, in words; None when it allows the value."""
    options = _options(hint)
    if wanted := _other_kind(value, set(options) - {type(None), ...}):
        return wanted if low is None and high is None else f"{wanted}, {allowed_range(low, high)}"
    if isinstance(value, int | float) and not isinstance(value, bool) and {int, float}.intersection(options):
        is_allowed = (low is None or value >= low) and (high is None or value <= high)
        return None if is_allowed else allowed_range(low, high)
    literals = [option for option in options if typing.get_origin(option) is Literal]
    choices = [choice for literal in literals for choice in typing.get_args(literal)]
    return None if value is None or not choices or value in choices else ", ".join(map(repr, choices))


def _other_kind(value: Any, kinds: set[Any]) -> str | None:
    """Returns the kind of number that a field takes and a value is not, in words; None when the value is of it."""
    is_flag = isinstance(value, bool)
    if value is None or not kinds or not kinds <= {int, float, bool} or (is_flag and bool in kinds):
        return None
    if kinds == {bool}:
        return "true or false"
    if float in kinds:
        return None if isinstance(value, numbers.Real) and not is_flag and math.isfinite(value) else "a number"
    return None if isinstance(value, numbers.Integral) and not is_flag else "a whole number"


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | tuple) and not value)


def _empty_value(field: Any, hint: Any) -> Any:
    """Returns what a field holds when it is given as empty."""
    if type(None) in _union(hint):
        return None
    if typing.get_origin(hint) is tuple:
        return ()
    if typing.get_origin(hint) is dict:
        return {}
    if dataclasses.is_dataclass(hint):
        raise ValueError(f"{field.name} is empty; leave it out to keep what it has, or give some of its fields")
    if hint is str and field.default == "":
        return ""
    raise ValueError(f"{field.name} is empty; it must have a value")


def _with_empty_values(config_class: type[Config], values: Any) -> Any:
    """Returns a user's values for a config with the empty ones as the config holds them."""
    if not isinstance(values, dict):
        return values
    hints = _hints(config_class)
    fields = {field.name: field for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    return {
        name: _empty_value(fields[name], hints[name]) if name in fields and _is_empty(value) else value
        for name, value in values.items()
    }


_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


def allowed_range(low: float | None, high: float | None) -> str:
    """Returns the words for an inclusive range, `from 0 to 1`, `0 or more`, `1 or less`."""
    least, most = (f"{bound:g}" if isinstance(bound, float) else str(bound) for bound in (low, high))
    if low is not None and high is not None:
        return f"from {least} to {most}"
    return f"{least} or more" if low is not None else f"{most} or less"


C = TypeVar("C")


def identity(config: Config) -> dict[str, Any]:
    """Returns a config as plain JSON values, nested configs too, without the fields that only say how a stage runs."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        is_unset = bool(field.metadata.get(OPTIONAL)) and value == field.default
        if not field.metadata.get(EXECUTION) and not is_unset:
            values[field.name] = _plain(value)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return identity(value) if isinstance(value, Config) else value


def from_dict(config_class: type[C], values: dict[str, Any]) -> C:
    """Returns a config (with nested configs) out of plain values, as `dataclasses.asdict` gives them.

    For trusted values that have been through JSON; a user's values are validated where recipes are loaded.
    """
    hints = _hints(config_class)
    made = {}
    for name, value in values.items():
        nested = [option for option in _options(hints[name]) if dataclasses.is_dataclass(option)]
        made[name] = _configured(value, nested)
    return config_class(**made)


def _configured(value: Any, nested: list[Any]) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_configured(item, nested) for item in value)
    return from_dict(nested[0], value) if isinstance(value, dict) and nested else value


def _union(hint: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the hint alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _options(hint: Any) -> list[Any]:
    """Returns the types that a hint names: those of a union, and of the items of a tuple."""
    if typing.get_origin(hint) is tuple:
        return [option for argument in typing.get_args(hint) for option in _options(argument)]
    members = _union(hint)
    return [hint] if members == (hint,) else [option for member in members for option in _options(member)]
