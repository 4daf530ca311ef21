"""Configs as plain values and back, nested configs and tuples of them too."""

import dataclasses
import json
from dataclasses import dataclass

import pytest

from llm.config import Config, from_dict, identity, setting


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
