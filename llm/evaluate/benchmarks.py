"""Benchmarks out of JSONL files: their items, and the rules by which they are asked and counted."""

from __future__ import annotations

import dataclasses
import difflib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ..config import Config, name_problem, setting
from ..data.user_files.benchmark_items import BenchmarkRow, ItemForm, benchmark_files, read_rows
from ..files import read_table
from .config import EvaluateConfig
from .core_set import CoreTask, core_tasks
from .lm_eval_tasks import check_tasks, task_files
from .metrics import ACCURACY, DEFINITIONS, FOUR_CHOICE, FOUR_CHOICE_BY_SUM, FOUR_CHOICE_PER_BYTE, Metric

RULES_FILE, HITS_FILE = "benchmarks.yaml", "hits.parquet"

FilePick = Literal["mean", "sum", "per character"]
Pick = Literal["mean", "sum", "per character", "per byte", "pmi", "greedy"]
"""How a choice is picked: see choices.py."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRules(Config):
    """How a benchmark is asked and counted; in `benchmarks.yaml` these stand under the stem of the file's name."""

    n_shots: int = setting(0, at_least=0)
    """Solved items put before each item."""
    delimiter: str = " "
    """What stands between a question and its answer."""
    chance: float | None = setting(None, at_least=0, at_most=0.99)
    """The score of guessing; empty is one in the number of choices, and 0 where there are none."""
    pick: FilePick = "mean"
    """Which choice counts as the model's: that of the largest mean ln p of its tokens (as CORE has it), of the largest
    sum (lm-eval's acc), or of the largest sum per character (its acc_norm)."""


@dataclass(frozen=True)
class Benchmark:
    """The items of a file, all of one form, and how they are asked."""

    name: str
    path: Path
    form: ItemForm
    rows: Sequence[BenchmarkRow]
    rules: BenchmarkRules
    core: CoreTask | None = None
    """The task of CORE that this is, if it is asked by its rules."""
    is_definitions: bool = False
    """Whether these are the definitions of the instruct stage, which are asked closed book and have metrics of their
    own."""

    @property
    def picks(self) -> dict[Metric, Pick]:
        """What is measured, and how a choice is picked for it."""
        if self.is_definitions:
            return {FOUR_CHOICE: "pmi", FOUR_CHOICE_BY_SUM: "sum", FOUR_CHOICE_PER_BYTE: "per byte"}
        return {ACCURACY: "greedy" if self.form == "language modelling" else self.rules.pick}

    def choices(self, index: int) -> list[str]:
        """Returns the texts to choose from; of a language-modelling item the continuation alone."""
        values = self.rows[index].values
        return values.get("choices") or values.get("context_options") or [values["continuation"]]

    def id_of(self, row: BenchmarkRow) -> str:
        """Returns the name of an item in items.parquet."""
        return row.values["id"] if self.is_definitions else str(row.number)

    @property
    def zero(self) -> float:
        """The accuracy that counts as 0 in the centred score: the chance level, in CORE that of its table."""
        return self.core.chance if self.core else self.chance

    @property
    def chance(self) -> float:
        """The score of guessing."""
        if self.rules.chance is not None:
            return self.rules.chance
        if self.form == "language modelling":
            return 0.0
        return sum(1 / len(self.choices(index)) for index in range(len(self.rows))) / len(self.rows)


def external_files(config: EvaluateConfig) -> list[Path]:
    """Returns the files outside of the store that the evaluation reads."""
    files = benchmark_files(config.benchmarks)
    rules = dict.fromkeys(path.parent / RULES_FILE for path in files)
    there = [path for path in rules if path.exists()]
    return [*files, *there, *task_files(config.lm_eval_tasks)]


def check_benchmarks(config: EvaluateConfig) -> list[Benchmark]:
    """Reads and checks the benchmarks of a config, so that what is wrong is known before any model is trained.

    So are the tasks of lm-eval. Raises ValueError naming the file, the line and the field of an item, the key of a
    rule, the file that is missing, or the task.
    """
    check_tasks(config.lm_eval_tasks)
    return [made for path in benchmark_files(config.benchmarks) for made in read_benchmarks(path, config.n_shots)]


def read_benchmarks(path: Path, n_shots: int | None = None) -> list[Benchmark]:
    """Returns the benchmarks of a file: one, or for a file of CORE one for each task; see `check_benchmarks`."""
    if problem := name_problem(path.stem):
        raise ValueError(f"{path}: the benchmark's name, its file's without the ending, is {problem}; rename the file")
    rows = read_rows(path)
    form = _form(path, rows)
    given = _given_rules(path)
    made = []
    tasks: list[CoreTask | None] = [*core_tasks(path.stem)]
    for task in tasks or [None]:
        own: dict[str, Any] = {"n_shots": task.n_shots, "delimiter": task.delimiter} if task else {}
        rules = _rules(path, {**own, **given, **({} if n_shots is None else {"n_shots": n_shots})})
        if rules.n_shots >= len(rows):
            raise ValueError(f"{path}: n_shots is {rules.n_shots}; allowed: fewer than there are items, {len(rows)}")
        core = task if rules == BenchmarkRules(**own) else None
        made.append(Benchmark(task.name if task else path.stem, path, form, rows, rules, core))
    # Asked alike, two tasks of a file are one.
    return [one for index, one in enumerate(made) if one.rules not in [other.rules for other in made[:index]]]


def read_definitions(path: Path) -> Benchmark:
    """Returns the four-choice definitions that the instruct stage has held out."""
    return Benchmark(DEFINITIONS, path, "multiple choice", read_rows(path), BenchmarkRules(), is_definitions=True)


def contaminated_items(documents_dir: Path) -> dict[str, set[int]]:
    """Returns, by the stem of a benchmark's file, the lines (from 0) of its items that are in training documents.

    They are what decontamination has found and left where it is; a benchmark of which nothing was found is not named.
    What was found in documents that were dropped, or are held out, does not count: no model is trained on these.
    """
    path = documents_dir / HITS_FILE
    found: dict[str, set[int]] = defaultdict(set)
    rows = read_table(path, columns=["benchmark", "item", "held_out", "dropped"]).to_pylist() if path.exists() else []
    for row in rows:
        found[row["benchmark"]] |= set() if row["dropped"] or row["held_out"] else {row["item"]}
    return dict(found)


def _form(path: Path, rows: Sequence[BenchmarkRow]) -> ItemForm:
    if not rows:
        raise ValueError(f"{path}: there is no item in it")
    first = rows[0].form
    for row in rows:
        if row.form == "chat":
            raise ValueError(f"{path}, line {row.number + 1}: a chat (messages) has no choices and cannot be scored")
        if row.form != first:
            raise ValueError(f"{path}, line {row.number + 1}: its form is {row.form}, that of the first item {first}")
    return first


def _given_rules(path: Path) -> dict[str, Any]:
    """Returns what `benchmarks.yaml` beside a file says of it."""
    rules_path = path.parent / RULES_FILE
    if not rules_path.exists():
        return {}
    try:
        content = yaml.safe_load(rules_path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{rules_path}: not YAML: {error}") from error
    given = content.get(path.stem, {}) if isinstance(content, dict) else None
    if not isinstance(given, dict):
        raise ValueError(f"{rules_path}: expected the names of files, and under each its rules, such as n_shots: 5")
    return given


def _rules(path: Path, values: Mapping[str, Any]) -> BenchmarkRules:
    known = {field.name: field for field in dataclasses.fields(BenchmarkRules)}
    where = f"{path.parent / RULES_FILE}: {path.stem}"
    types: dict[str, Any] = {"n_shots": int, "delimiter": str, "chance": (int, float, type(None)), "pick": str}
    for name, value in values.items():
        if name not in known:
            near = "".join(f"; did you mean {match}?" for match in difflib.get_close_matches(str(name), known, n=1))
            raise ValueError(f"{where}.{name}: unknown key; known are {', '.join(known)}{near}")
        if not isinstance(value, types[name]) or isinstance(value, bool):
            raise ValueError(f"{where}.{name} is {value!r}; it is of the wrong kind")
    try:
        return BenchmarkRules(**values)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from error
