"""Files of records that a user brings: JSON lines, a JSON list, Parquet, comma or tab separated values."""

from __future__ import annotations

import codecs
import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa

from ..common.bounded import HoldsTooMuch, bounded_rows
from ..common.file_patterns import all_matching_files
from .messages import BadRecord, Message, check_turns, messages_of, spoken, text_of, with_input, with_system

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".json", ".jsonl", ".parquet", *DELIMITERS)

BadExamples = Literal["refuse", "drop"]
Example = TypeVar("Example")


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


@dataclass
class BadRecords:
    """What to do with broken records of a section's files: refuse the first, or drop them and count the reasons."""

    section: str
    choice: BadExamples = "refuse"
    dropped: Counter[str] = field(default_factory=Counter)

    def drop(self, error: BadRecord, n: int = 1) -> None:
        """Counts broken records; raises ValueError, with the choice there is, when they are to be refused."""
        if self.choice == "refuse":
            raise ValueError(
                f"{error}. Mend it, or set {self.section}.bad_examples: drop to leave such records out"
            ) from error
        self.dropped[error.reason] += n


def read_examples(
    paths: Iterable[Path], parse: Callable[[Record], Example], bad: BadRecords
) -> Iterator[tuple[str, Example]]:
    """Yields what `parse` makes of each record of files, and where it stands, in words.

    Raises ValueError naming file and line for a broken record, unless `bad` drops it, and for a file without records.
    """
    for path in paths:
        is_empty = True
        for where, value in values_of(path):
            is_empty = False
            try:
                record = _record(f"{path}, {where}", value)
                example = parse(record)
            except BadRecord as error:
                bad.drop(error)
            else:
                yield record.place, example
        if is_empty:
            raise ValueError(f"{path} holds no record; give a file with at least one")


def one_answer_each(
    examples: Iterable[tuple[str, Example]],
    key_and_answer: Callable[[Example], tuple[str, str]],
    bad: BadRecords,
    *,
    words: str,
) -> dict[str, Example]:
    """Returns the first example of each key; a key with two answers is broken, all of its examples are.

    Counts the others in `bad.dropped`. Raises ValueError naming both places, between them `words` ("the same text has
    label"), unless `bad` drops what is broken.
    """
    found: dict[str, tuple[str, Example]] = {}
    n_of, broken = Counter[str](), dict[str, BadRecord]()
    for place, example in examples:
        key, answer = key_and_answer(example)
        before_place, before = found.setdefault(key, (place, example))
        n_of[key] += 1
        said = key_and_answer(before)[1]
        if said != answer:
            broken[key] = BadRecord("two answers", f"{place}: {words} {said!r} in {before_place}")
            bad.drop(broken[key], 0)
    for key, error in broken.items():
        bad.drop(error, n_of[key])
    kept = {key: example for key, (_, example) in found.items() if key not in broken}
    bad.dropped["duplicate"] += sum(n_of[key] - 1 for key in kept)
    return kept


def read_records(path: Path) -> list[Record]:
    """Returns the records of a file; raises ValueError naming file and line for one that is empty or malformed."""
    records = [_record(f"{path}, {where}", value) for where, value in values_of(path)]
    if not records:
        raise ValueError(f"{path} holds no record; give a file with at least one")
    return records


def _record(place: str, value: Any) -> Record:
    if isinstance(value, BadRecord):
        raise BadRecord(value.reason, f"{place}: {value}") from value
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise BadRecord("no object", f"{place}: a record must be an object with fields, but is {kind}")
    return Record(place, value)


def values_of(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields what a file holds, one thing after the other, each with its place (`line 3`).

    In place of one that is not JSON there is the BadRecord that says why. JSON is one list, or an object in each line.
    Raises ValueError for a table that cannot be read.
    """
    try:
        if path.suffix in DELIMITERS:
            yield from _rows(path)
        elif path.suffix == ".parquet":
            yield from ((f"row {number}", row) for number, row in enumerate(bounded_rows(path), 1))
        else:
            yield from _json_values(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    except HoldsTooMuch as error:
        raise ValueError(f"{path}: {error}; divide it into several files, if it is right") from error
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
    """Returns whether the first thing in a file is sound JSON, but ends in another line than it begins."""
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
