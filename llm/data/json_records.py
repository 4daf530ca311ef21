"""Files of records that a user brings: JSON lines, a JSON list, Parquet, comma or tab separated values."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..files import read_table

DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Record:
    """One record, and where it stands, in words: `pairs.jsonl, line 3`."""

    place: str
    values: dict[str, Any]

    def text(self, name: str) -> str:
        """The text of a field; raises ValueError when it is missing, not text, or empty."""
        value = self.values.get(name)
        if not isinstance(value, str) or not value.strip():
            found = f"is {value!r}" if name in self.values else "is missing"
            raise ValueError(f"{self.place}: field {name!r} {found}; it must be a text that is not empty")
        return value

    def messages(self, name: str) -> list[dict[str, str]]:
        """The messages of a field; raises ValueError when they are not `{"role", "content"}` with text."""
        value = self.values[name]
        is_good = isinstance(value, list) and all(
            isinstance(item, dict) and isinstance(item.get("role"), str) and isinstance(item.get("content"), str)
            for item in value
        )
        if not is_good or not value:
            raise ValueError(f"{self.place}: field {name!r} must be a text or a list of {{role, content}} messages")
        return [{"role": item["role"], "content": item["content"]} for item in value]


def record_files(section: str, patterns: Sequence[str]) -> list[Path]:
    """The files that paths and glob patterns name, in order; ValueError, naming `section`, where there is none."""
    if not patterns:
        raise ValueError(f"{section}.files is empty; name at least one JSONL, JSON, Parquet, CSV or TSV file")
    files: list[Path] = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise ValueError(f"{section}.files has {pattern!r}, but there is no such file")
        files += [Path(path) for path in found if Path(path) not in files]
    return files


def read_records(path: Path) -> list[Record]:
    """The records of a file; raises ValueError naming file and line for one that is empty or malformed."""
    records = []
    for where, value in values_of(path):
        if isinstance(value, ValueError):
            raise ValueError(f"{path}, {where}: {value}") from value
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise ValueError(f"{path}, {where}: a record must be an object with fields, but is {kind}")
        records.append(Record(f"{path}, {where}", value))
    if not records:
        raise ValueError(f"{path} holds no record; give a file with at least one")
    return records


def values_of(path: Path) -> Iterator[tuple[str, Any]]:
    """What a file holds, one thing after the other, each with its place (`line 3`).

    In place of one that is not JSON there is the ValueError that says why. JSON is one list, or an object in each line.
    Raises ValueError for a table that cannot be read.
    """
    try:
        if path.suffix in DELIMITERS:
            with open(path, encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file, delimiter=DELIMITERS[path.suffix])
                yield from ((f"line {reader.line_num}", row) for row in reader)
        elif path.suffix == ".parquet":
            yield from ((f"row {number}", row) for number, row in enumerate(read_table(path).to_pylist(), 1))
        else:
            yield from _json_values(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from error


def _json_values(content: bytes) -> Iterator[tuple[str, Any]]:
    if content.lstrip()[:1] == b"[":
        values = _parsed(content)
        if isinstance(values, ValueError):
            yield "the list", values
        else:
            yield from ((f"record {number}", value) for number, value in enumerate(values, 1))
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            yield f"line {number}", _parsed(line)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content.decode())
    except UnicodeDecodeError as error:
        return ValueError(f"it is not UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        return ValueError(f"it is not JSON: {error.msg} at {place}")
    except RecursionError:
        return ValueError("it nests too deep")


def instruction(record: Record) -> str:
    """The question of an Alpaca-style record: `instruction`, and below it `input` where there is one."""
    more = record.values.get("input") or ""
    return f"{record.text('instruction')}\n\n{more}" if str(more).strip() else record.text("instruction")


def prompt_messages(record: Record) -> list[dict[str, str]]:
    """What is asked, as messages: the field `prompt` (text or messages) or `instruction` and `input`."""
    if "prompt" not in record.values:
        return [{"role": "user", "content": instruction(record)}]
    if isinstance(record.values["prompt"], list):
        return require_turns(record.messages("prompt"), record.place, last="user")
    return [{"role": "user", "content": record.text("prompt")}]


def require_turns(messages: list[dict[str, str]], place: str, *, last: str) -> list[dict[str, str]]:
    """The messages; ValueError unless they are (system, then) user and assistant in turn, the last one by `last`."""
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    wanted = [("user", "assistant")[i % 2] for i in range(len(turns))]
    if not turns or turns != wanted or turns[-1] != last:
        raise ValueError(
            f"{place}: the roles are {', '.join(roles)}; allowed: user and assistant in turn, a system message "
            f"before them, the last one by the {last}"
        )
    return messages


def held_out_keys(keys: Iterable[str], fraction: float) -> set[str]:
    """The keys that are kept from training: those with the lowest hashes, the given share of them, at least one.

    So the same text is on the same side whatever else is there. Raises ValueError when nothing is left to train on.
    """
    ordered = sorted(set(keys), key=lambda key: hashlib.blake2b(key.encode(), digest_size=16).digest())
    n_held_out = max(1, round(fraction * len(ordered)))
    if n_held_out >= len(ordered):
        raise ValueError(f"{len(ordered)} different records are too few to hold some out and train on the others")
    return set(ordered[:n_held_out])
