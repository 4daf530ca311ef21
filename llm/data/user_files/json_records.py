"""Files of records that a user brings: JSON lines, a JSON list, Parquet, comma or tab separated values."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from ...files import read_table
from ..common.file_patterns import all_matching_files
from .messages import BadRecord, Message, check_turns, messages_of, spoken, text_of, with_input, with_system

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".json", ".jsonl", ".parquet", *DELIMITERS)


@dataclass(frozen=True)
class Record:
    """One record, and where it stands, in words: `pairs.jsonl, line 3`."""

    place: str
    values: dict[str, Any]

    def field(self, name: str) -> str:
        """Returns a field in words: `pairs.jsonl, line 3: field 'prompt'`."""
        return f"{self.place}: field {name!r}"

    def text(self, name: str) -> str:
        """Returns the text of a field; raises BadRecord, naming place and field, as `text_of` does."""
        return text_of(self.values, name, self.field(name))

    def chat(self, name: str, *, last: Literal["user", "assistant"]) -> list[Message]:
        """Returns the messages of a field: a list of them, a chat in one text (see `spoken`), or a text of `last`.

        Raises BadRecord, naming place and field, for one that is malformed or in which not `last` speaks last.
        """
        value = self.values.get(name)
        if isinstance(value, list):
            messages = messages_of(value, self.field(name))
        else:
            text = self.text(name)
            messages = spoken(text) or [{"role": last, "content": text}]
        if [message["role"] for message in messages] != [last]:
            check_turns(messages, self.field(name), last=last)
        if "weight" in messages[-1]:
            raise BadRecord("not learned", f"{self.field(name)}: the answer to learn from has weight 0")
        return [{"role": message["role"], "content": message["content"]} for message in messages]

    def asked(self) -> list[Message]:
        """Returns the field `prompt` (text or messages), or `instruction` and `input`, as messages.

        Raises BadRecord, naming place and field, for one that is malformed.
        """
        if "prompt" in self.values:
            return self.chat("prompt", last="user")
        question = with_input(self.text("instruction"), self.values, "input", self.field("input"))
        return [{"role": "user", "content": question}]

    def with_system(self, messages: list[Message]) -> list[Message]:
        """Returns the chat with what the record says beside it; see `messages.with_system`."""
        return with_system(messages, self.values, f"{self.place}: ")


def record_files(section: str, patterns: Sequence[str]) -> list[Path]:
    """Returns the files that paths, folders and patterns name; ValueError, naming `section`, where there is none."""
    if not patterns:
        raise ValueError(f"{section}.files is empty; name at least one JSONL, JSON, Parquet, CSV or TSV file")
    return all_matching_files(f"{section}.files", patterns, SUFFIXES)


def read_records(path: Path) -> list[Record]:
    """Returns the records of a file; raises ValueError naming file and line for one that is empty or malformed."""
    records = []
    for where, value in values_of(path):
        if isinstance(value, BadRecord):
            raise ValueError(f"{path}, {where}: {value}") from value
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise ValueError(f"{path}, {where}: a record must be an object with fields, but is {kind}")
        records.append(Record(f"{path}, {where}", value))
    if not records:
        raise ValueError(f"{path} holds no record; give a file with at least one")
    return records


def values_of(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields what a file holds, one thing after the other, each with its place (`line 3`).

    In place of one that is not JSON there is the BadRecord that says why. JSON is one list, or an object in each line.
    Raises ValueError for a table that cannot be read.
    """
    try:
        if path.suffix in DELIMITERS:
            yield from _rows(path)
        elif path.suffix == ".parquet":
            yield from ((f"row {number}", row) for number, row in enumerate(read_table(path).to_pylist(), 1))
        else:
            yield from _json_values(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from error


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:  # Excel begins its files with a byte order mark
        reader = csv.DictReader(file, delimiter=DELIMITERS[path.suffix])
        try:
            yield from ((f"line {reader.line_num}", row) for row in reader)
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {reader.reader.line_num}: {error}; look for a quotation mark that is not closed, and "
                "give longer texts as JSON lines or Parquet"
            ) from error


def _json_values(content: bytes) -> Iterator[tuple[str, Any]]:
    if content.lstrip()[:1] == b"[":
        values = _parsed(content)
        if isinstance(values, BadRecord):
            yield "the list", values
        else:
            yield from ((f"record {number}", value) for number, value in enumerate(values, 1))
        return
    if _is_spread(content):
        why = "it goes over several lines; give a list of records, or one object a line"
        yield "first object", BadRecord("not JSON", why)
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            yield f"line {number}", _parsed(line)


def _is_spread(content: bytes) -> bool:
    """Whether the first thing in a file is sound JSON, but ends in another line than it begins."""
    text = content.decode(errors="replace").lstrip()
    try:
        end = json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError):
        return False
    return "\n" in text[:end]


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content.decode())
    except UnicodeDecodeError as error:
        why = f"it is not UTF-8 at byte {error.start + 1}"
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        why = f"it is not JSON: {error.msg} at {place}"
    except ValueError as error:  # a number of too many digits
        why = f"it is not JSON that can be read: {error}"
    except RecursionError:
        why = "it nests too deep"
    return BadRecord("not JSON", why)
