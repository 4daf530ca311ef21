"""Two small stages for the tests of the machinery: real files, real partitions, real Prefect tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.config import Config, setting
from llm.counts import Counts
from tasks.core.build import Build
from tasks.core.stage import Stage, stage
from tasks.core.store import Artifact


@dataclass(frozen=True, kw_only=True)
class NumbersConfig(Config):
    n: int = setting(10, at_least=0)
    """How many numbers."""
    shift: int = 0
    """Added to each number."""
    n_workers: int = setting(1, execution=True)
    """Has no effect on the result."""


@dataclass(frozen=True, kw_only=True)
class SquareConfig(Config):
    power: int = 2
    """Exponent."""


def numbers(build: Build, config: NumbersConfig) -> Counts:
    """Whole numbers, ten to a file, the odd ones dropped."""
    slices = [(start, min(start + 10, config.n)) for start in range(0, config.n, 10)] or [(0, 0)]
    return build.map(write_numbers, slices, config=config)


def write_numbers(part: tuple[int, int], out_dir: Path, config: NumbersConfig) -> Counts:
    kept = [number + config.shift for number in range(*part) if number % 2 == 0]
    (out_dir / "numbers.json").write_text(json.dumps(kept))
    n_in = part[1] - part[0]
    return Counts("numbers", n_in, len(kept), {"odd": n_in - len(kept)})


def squares(build: Build, source: Artifact, config: SquareConfig) -> Counts:
    """Powers of the numbers."""
    values = [number for path in source.files("numbers-*.json") for number in json.loads(path.read_text())]
    (build.out_dir / "squares.json").write_text(json.dumps([value**config.power for value in values]))
    (build.out_dir / "speed.txt").write_text(str(id(build)))
    return Counts("numbers", len(values), len(values))


def make_stage(function: Callable[..., Counts], **options: Any) -> Stage:
    """A stage that is not registered among the product's own."""
    return Stage(function, stage(version=1, **options))
