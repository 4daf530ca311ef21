"""Stage configurations: frozen dataclasses whose fields carry their bounds and whether they affect the result."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, ClassVar, TypeVar

EXECUTION = "execution"
"""Metadata key of a field that says how a stage runs, not what it makes; such a field never enters a fingerprint."""


def setting(
    default: Any = dataclasses.MISSING,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    execution: bool = False,
) -> Any:
    """A dataclass field with inclusive bounds, checked when the config is made.

    `execution=True` marks a field that cannot change the result (device, workers, log cadence).
    """
    metadata = {"at_least": at_least, "at_most": at_most, EXECUTION: execution}
    return dataclasses.field(default=default, metadata=metadata)


class Config:
    """Base of every stage config.

    Subclasses are `@dataclass(frozen=True, kw_only=True)`. The string under a field is its documentation: it becomes
    the help text of the field in the Prefect UI. Unknown keys are refused.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"use_attribute_docstrings": True, "extra": "forbid"}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        """The JSON schema with our bounds in it, so that the form in the Prefect UI refuses what is out of range."""
        schema: dict[str, Any] = handler(core_schema)
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            options = schema["properties"][field.name]
            for option in options.get("anyOf", [options]):
                if option.get("type") in ("integer", "number"):
                    for ours, theirs in (("at_least", "minimum"), ("at_most", "maximum")):
                        if field.metadata.get(ours) is not None:
                            option[theirs] = field.metadata[ours]
        return schema

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            low, high = field.metadata.get("at_least"), field.metadata.get("at_most")
            if value is None or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if (low is not None and not value >= low) or (high is not None and not value <= high):
                raise ValueError(f"{field.name} is {value}; allowed: {allowed_range(low, high)}")


def allowed_range(low: float | None, high: float | None) -> str:
    """The words for an inclusive range, `from 0 to 1`, `0 or more`, `1 or less`."""
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    return f"{low:g} or more" if low is not None else f"{high:g} or less"


C = TypeVar("C")


def identity(config: Config) -> dict[str, Any]:
    """A config as plain JSON values, nested configs too, without the fields that only say how a stage runs."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        if not field.metadata.get(EXECUTION):
            values[field.name] = _plain(getattr(config, field.name))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return identity(value) if isinstance(value, Config) else value


def from_dict(config_class: type[C], values: dict[str, Any]) -> C:
    """A config (with nested configs) out of plain values, as `dataclasses.asdict` gives them.

    For trusted values that have been through JSON; a user's values are validated where recipes are loaded.
    """
    hints = typing.get_type_hints(config_class)
    made = {}
    for name, value in values.items():
        nested = [option for option in _options(hints[name]) if dataclasses.is_dataclass(option)]
        made[name] = _configured(value, nested)
    return config_class(**made)


def _configured(value: Any, nested: list[Any]) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_configured(item, nested) for item in value)
    return from_dict(nested[0], value) if isinstance(value, dict) and nested else value


def _options(hint: Any) -> list[Any]:
    """The types that a hint names: those of a union, and of the items of a tuple."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is tuple:
        return [option for argument in typing.get_args(hint) for option in _options(argument)]
    return [hint]
