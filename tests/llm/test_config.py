"""Configs as plain values and back, nested configs and tuples of them too."""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import TypeAdapter

from llm.config import Config, from_dict, identity, setting
from llm.tokenizer.training import TokenizerConfig
from llm.train.config import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Part(Config):
    name: str
    size: int = setting(1, at_least=1)
    n_threads: int = setting(1, execution=True)


@dataclass(frozen=True, kw_only=True)
class Whole(Config):
    parts: tuple[Part, ...] = ()
    main: Part = Part(name="main")
    spare: Part | None = None
    optional_parts: tuple[Part, ...] | None = None
    words: tuple[str, ...] = ()


WHOLE = Whole(
    parts=(Part(name="a", size=2), Part(name="b", n_threads=7)),
    spare=Part(name="spare"),
    optional_parts=(Part(name="c"),),
    words=("x", "y"),
)


def test_identity_converts_configs_inside_tuples():
    assert identity(WHOLE) == {
        "parts": [{"name": "a", "size": 2}, {"name": "b", "size": 1}],
        "main": {"name": "main", "size": 1},
        "spare": {"name": "spare", "size": 1},
        "optional_parts": [{"name": "c", "size": 1}],
        "words": ["x", "y"],
    }


@dataclass(frozen=True, kw_only=True)
class Later(Part):
    start: str | None = setting(None, optional=True)


def test_an_optional_setting_has_a_part_in_the_identity_only_when_it_is_set():
    assert identity(Later(name="a")) == identity(Part(name="a"))
    assert identity(Later(name="a", start="here")) == {**identity(Part(name="a")), "start": "here"}
    for config in (Later(name="a"), Later(name="a", start="here")):
        assert from_dict(Later, json.loads(json.dumps(identity(config)))) == config
    assert "start_from" not in identity(PretrainConfig())
    assert "start_from" not in identity(TokenizerConfig())


def test_a_setting_that_only_says_how_to_run_has_no_part_in_the_identity():
    other = dataclasses.replace(WHOLE, parts=(WHOLE.parts[0], dataclasses.replace(WHOLE.parts[1], n_threads=3)))
    assert identity(other) == identity(WHOLE)
    assert other != WHOLE


@pytest.mark.parametrize("config", [WHOLE, Whole()])
def test_json_and_back(config):
    assert from_dict(Whole, json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_bounds_of_a_config_inside_a_tuple_are_checked():
    with pytest.raises(ValueError, match="size is 0; allowed: 1 or more"):
        from_dict(Whole, {"parts": [{"name": "a", "size": 0}]})


@dataclass(frozen=True, kw_only=True)
class Choices(Config):
    kind: Literal["a", "b"] = "a"
    maybe: Literal["x"] | None = None
    several: tuple[Literal["u", "v"], ...] = ("u",)
    optional: tuple[str, ...] | None = ("one",)
    weights: dict[str, float] | None = None
    size: int | None = setting(3, at_least=1)
    note: str = ""
    title: str = "t"
    n: int = 1
    part: Part = Part(name="kept", size=4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "c"}, "kind is 'c'; allowed: 'a', 'b'"),
        ({"maybe": "y"}, "maybe is 'y'; allowed: 'x'"),
        ({"several": ("u", "w")}, "several is 'w'; allowed: 'u', 'v'"),
        ({"size": 0}, "size is 0; allowed: 1 or more"),
        ({"title": ""}, "title is empty; it must have a value"),
        ({"n": None}, "n is empty; it must have a value"),
        ({"part": None}, "part is empty; leave it out to keep what it has, or give some of its fields"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(values, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Choices(**values)
    with pytest.raises(ValueError, match=message.partition("; ")[0].partition(" is ")[0]):
        TypeAdapter(Choices).validate_python(values)


@pytest.mark.parametrize("empty", [None, [], (), ""])
@pytest.mark.parametrize("make", [lambda values: Choices(**values), TypeAdapter(Choices).validate_python])
def test_everything_empty_means_the_same(make, empty):
    fields = ("maybe", "several", "optional", "size", "note")
    made = make(dict.fromkeys(fields, empty))
    assert [getattr(made, name) for name in fields] == [None, (), None, None, ""]


@dataclass(frozen=True, kw_only=True)
class Kinds(Config):
    """A field of each kind of number."""

    count: int = setting(1, at_least=0)
    share: float | None = setting(0.5, at_least=0.0, at_most=1.0)
    rate: float = 1.0
    flag: bool = False
    places: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"count": "2"}, "count is '2'; allowed: a whole number, 0 or more"),
        ({"count": 2.5}, "count is 2.5; allowed: a whole number, 0 or more"),
        ({"count": True}, "count is True; allowed: a whole number"),
        ({"share": "x"}, "share is 'x'; allowed: a number, from 0 to 1"),
        ({"share": math.nan}, "share is nan; allowed: a number, from 0 to 1"),
        ({"rate": math.inf}, "rate is inf; allowed: a number$"),
        ({"rate": False}, "rate is False; allowed: a number$"),
        ({"flag": 1}, "flag is 1; allowed: true or false$"),
        ({"places": (1, "2")}, "places is '2'; allowed: a whole number$"),
    ],
)
def test_a_number_is_of_its_fields_kind(values: dict[str, Any], words: str) -> None:
    """Also where nothing else has checked it, as in the file of a model that somebody else wrote."""
    with pytest.raises(ValueError, match=words):
        from_dict(Kinds, values)


def test_numbers_of_numpy_are_numbers() -> None:
    made = Kinds(count=np.int64(3), share=np.float32(0.25), rate=np.int32(2), flag=True)
    assert (made.count, made.share, made.rate) == (3, 0.25, 2)
    assert Kinds(share=None).share is None
