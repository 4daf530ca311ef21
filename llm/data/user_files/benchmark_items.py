"""Benchmark files (JSONL): items to answer, and texts to look for in the corpus.

The forms that are read, those of the CORE set and our own: multiple choice (`query`, `choices`, `gold`), schema
(`context_options`, `continuation`, `gold`), language modelling (`context`, `continuation`), chat (`messages`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..common.file_patterns import all_matching_files

ItemForm = Literal["multiple choice", "schema", "language modelling", "chat"]

FIELDS: dict[ItemForm, tuple[str, ...]] = {
    "chat": ("messages",),
    "multiple choice": ("choices", "query", "gold"),
    "schema": ("context_options", "continuation", "gold"),
    "language modelling": ("context", "continuation"),
}
"""The fields of each form; a line with the first one is of that form."""

_LABEL = re.compile(r"^\s*[\w &'/-]{1,40}:\s")  # "Question: ", "WORLD HISTORY: "


@dataclass(frozen=True)
class BenchmarkItem:
    """One item: the file's name without its ending, the number of its line from 0, and question with right answer."""

    benchmark: str
    item: int
    text: str

    def texts(self) -> Iterator[str]:
        """Yields the whole, and each line without its label ("Question:"): a web page may have the question only."""
        yield self.text
        for line in self.text.splitlines():
            yield _LABEL.sub("", line)


@dataclass(frozen=True)
class BenchmarkRow:
    """A line of a benchmark's file: its number from 0, its form, and its fields, which are those of the form."""

    number: int
    form: ItemForm
    values: dict[str, Any]


def benchmark_files(patterns: Iterable[str]) -> list[Path]:
    """Returns the files that paths, folders and patterns name, in order; raises ValueError for one that names none."""
    files = all_matching_files("benchmarks", patterns, (".jsonl",))
    names = [path.stem for path in files]
    for path in files:
        if names.count(path.stem) > 1:
            raise ValueError(f"benchmarks names two files {path.name}; hits are told apart by that name: rename one")
    return files


def read_items(path: Path) -> list[BenchmarkItem]:
    """Returns the items of a file as texts; raises ValueError as `read_rows` does."""
    return [BenchmarkItem(path.stem, row.number, item_text(row.values)) for row in read_rows(path)]


def read_rows(path: Path) -> list[BenchmarkRow]:
    """Returns the items of a file.

    Raises ValueError naming the file, the line and the field that is missing or wrong.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")):
        if line.strip():
            try:
                values = json.loads(line)
                rows.append(BenchmarkRow(number, item_form(values), values))
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number + 1}: not a benchmark item ({error}); a line has query, choices and gold, "
                    "or context_options, continuation and gold, or context and continuation, or messages"
                ) from error
    return rows


def item_form(values: Any) -> ItemForm:
    """Returns the form of an item; raises ValueError naming the field that is missing or wrong."""
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, found {values!r:.80}")
    for form, fields in FIELDS.items():
        if fields[0] in values:
            _check_fields(values, fields)
            return form
    raise ValueError(f"it has none of the fields {', '.join(fields[0] for fields in FIELDS.values())}")


def _check_fields(values: dict[str, Any], fields: tuple[str, ...]) -> None:
    for field in fields:
        if field not in values:
            raise ValueError(f"{field} is missing")
        value = values[field]
        if field == "messages":
            _check_messages(value)
        elif field == "gold":
            _check_gold(value, len(values[fields[0]]))
        elif field in ("choices", "context_options"):
            _check_options(field, value)
        elif not isinstance(value, str):
            raise ValueError(f"{field} is {value!r:.80}; expected text")
        elif field == "continuation" and not value.strip():
            raise ValueError("continuation is empty")


def _check_options(field: str, value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{field} is {value!r:.80}; expected a list of texts")
    for index, option in enumerate(value):
        if not isinstance(option, str) or not option.strip():
            raise ValueError(f"{field}[{index}] is {option!r:.80}; expected text that is not empty")


def _check_gold(value: Any, n_options: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < n_options:
        raise ValueError(f"gold is {value!r:.80}; allowed: 0 to {n_options - 1}, the index of the right one")


def _check_messages(value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise ValueError(f"messages is {value!r:.80}; expected a list of messages")
    for index, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError(f"messages[{index}] is {message!r:.80}; expected an object with a text content")


def item_text(row: dict[str, Any]) -> str:
    """Question and right answer of an item in one text."""
    if "messages" in row:
        return "\n".join(message["content"] for message in row["messages"])
    if "choices" in row:
        return f"{row['query']} {row['choices'][row['gold']]}"
    if "context_options" in row:
        return f"{row['context_options'][row['gold']]} {row['continuation']}"
    return f"{row['context']} {row['continuation']}"
