"""Examples out of files and data sets: read, checked, and named by file and line where something is wrong."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...tokenizer.tokenizer import SPECIAL_TOKENS
from ..common.credential import hub_errors, opened
from ..common.drops import Dropped
from ..common.file_patterns import matching_files
from ..user_files.json_records import SUFFIXES, values_of
from ..user_files.messages import (
    EMPTY_ANSWER,
    EMPTY_QUESTION,
    BadRecord,
    Message,
    check_turns,
    messages_of,
    text_of,
    with_input,
    with_system,
)
from .config import InstructConfig, InstructSource
from .definitions import hash_of

SPECIAL_TOKEN, DUPLICATE, NOT_LEARNED = "special token", "duplicate", "not learned"
ALWAYS_DROPPED = (EMPTY_ANSWER, SPECIAL_TOKEN, DUPLICATE, NOT_LEARNED)
"""Sound records that teach nothing, or that our chat template refuses (see llm/tokenizer/tokenizer.py)."""

_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


@dataclass(frozen=True)
class Example:
    """A chat to train on; `question` is what it asks about."""

    id: str
    question: str
    messages: list[Message]
    document_id: str = ""
    weight: int = 1
    definition: dict[str, str] | None = None
    """The definition that it was made of, if it was."""

    @property
    def answer(self) -> str:
        """What the assistant says last."""
        return self.messages[-1]["content"]

    @property
    def first_question(self) -> str:
        """What the user says first."""
        return next(message["content"] for message in self.messages if message["role"] == "user")


@dataclass(frozen=True)
class Found:
    """What was read of some sources."""

    examples: list[Example] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    @property
    def n_read(self) -> int:
        """Records, of either sort."""
        return len(self.examples) + len(self.dropped)


def external_files(config: InstructConfig) -> list[Path]:
    """Returns the files outside of the store that the examples come from."""
    files = [path for source in config.sources for path in source_files(source)]
    folders = [Path(source.dataset) for source in config.sources if source.dataset and not source.is_on_hub]
    return files + [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


def check_sources(config: InstructConfig) -> None:
    """Reads all sources of this machine, so that what is wrong with them is known before any model is trained.

    Data sets of the hub are skipped: they may have to be fetched. Raises ValueError as `read_source` does.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for source in config.sources:
            if source.kind != "definitions" and not source.is_on_hub:
                read_source(source, Path(scratch), config)


def read_sources(config: InstructConfig, downloads: Path) -> Found:
    """Returns the examples of all files and data sets, in the order of the sources; see `read_source`."""
    found = Found()
    for source in config.sources:
        if source.kind != "definitions":
            part = read_source(source, downloads, config)
            found.examples.extend(part.examples)
            found.dropped.extend(part.dropped)
    return found


def read_source(source: InstructSource, downloads: Path, config: InstructConfig) -> Found:
    """Returns the examples of a source of files or of a data set, which is kept in `downloads`.

    Raises ValueError that names file, line and field of the first broken record (or drops it, as `bad_examples` says),
    or when there is no record at all; ConnectionError when a data set cannot be fetched.
    """
    found = Found()
    for place, record in _records(source, downloads):
        url = f"{source.label}:{place}"
        try:
            messages = chat_of(record, source)
            id = hash_of(json.dumps(messages, ensure_ascii=False))
            found.examples.append(Example(id, messages[-2]["content"], messages, weight=source.weight))
        except BadRecord as error:
            if config.bad_examples == "refuse" and error.reason not in ALWAYS_DROPPED:
                raise ValueError(
                    f"{place}: {error}. Mend it, or set instruct.bad_examples: drop to leave such records out"
                ) from error
            shown = record if isinstance(record, str) else repr(record)[:1000]
            found.dropped.append(Dropped.of(hash_of(url), url, shown, error.reason, str(error)))
        if len(found.examples) == source.limit:
            break
    if not found.n_read:
        raise ValueError(f"{source.path or source.dataset} holds no record: give a file that is not empty")
    return found


def chat_of(record: Any, source: InstructSource) -> list[Message]:
    """Returns the chat of a record: perhaps a system message, then user and assistant in turn, the assistant last.

    Raises BadRecord for any other record.
    """
    if isinstance(record, BadRecord):
        raise record
    if not isinstance(record, dict):
        raise BadRecord("no object", f"expected an object, found {record!r:.80}")
    messages = _of_alpaca(record, source) if source.kind == "alpaca" else _of_messages(record, source)
    while messages and "weight" in messages[-1]:  # nothing comes after it that is learned
        messages = messages[:-2]
    if not messages or messages[-1]["role"] != "assistant":
        raise BadRecord(NOT_LEARNED, "all turns of the assistant have weight 0")
    for number, message in enumerate(messages, 1):
        if found := _SPECIAL.search(message["content"]):
            where = f"message {number}, of the {message['role']},"
            raise BadRecord(SPECIAL_TOKEN, f"{where} spells {found[0]}, which marks turns")
    return messages


def _of_alpaca(record: dict[str, Any], source: InstructSource) -> list[Message]:
    question = text_of(record, source.instruction_field, source.instruction_field, when_empty=EMPTY_QUESTION)
    if source.input_field:
        question = with_input(question, record, source.input_field, source.input_field)
    answer = text_of(record, source.output_field, source.output_field, when_empty=EMPTY_ANSWER)
    read = {source.instruction_field, source.input_field, source.output_field}
    beside = {name: value for name, value in record.items() if name not in read}
    return with_system([{"role": "user", "content": question}, {"role": "assistant", "content": answer}], beside)


def _of_messages(record: dict[str, Any], source: InstructSource) -> list[Message]:
    names = [source.messages_field] if source.messages_field else ["messages", "conversations"]
    name = next((name for name in names if name in record), None)
    if name is None:
        found = ", ".join(map(repr, record)) or "none"
        raise BadRecord("missing field", f"{' or '.join(names)} is missing; there are {found}")
    messages = messages_of(record[name], name)
    check_turns(messages, name, last="assistant")
    return with_system(messages, record)


def _records(source: InstructSource, downloads: Path) -> Iterator[tuple[str, Any]]:
    """Yields each record with its place in words; a BadRecord instead of one that cannot be read."""
    if source.dataset is not None:
        yield from _dataset_records(source, downloads)
    for path in source_files(source):
        yield from ((f"{path.name}, {where}", value) for where, value in values_of(path))


def source_files(source: InstructSource) -> list[Path]:
    """Returns the files that a source's path names, in order; raises ValueError when there is none."""
    if source.path is None:
        return []
    try:
        return matching_files("instruct.sources: path", source.path, SUFFIXES)
    except ValueError as error:
        raise ValueError(f"{error}, as in instruct.sources.0.path=FILE") from None


def _dataset_records(source: InstructSource, downloads: Path) -> Iterator[tuple[str, Any]]:
    """Yields the rows of a data set, which is fetched whole, so that it can be read again without a network."""
    import datasets

    access, what = opened(source.credential), f"instruct.sources: dataset {source.dataset!r}"
    with hub_errors(what, access):
        rows = datasets.load_dataset(
            source.dataset,
            source.config_name,
            split=source.split,
            revision=source.revision if source.is_on_hub else None,
            cache_dir=str(downloads / "datasets"),
            token=access.token,
        )
    yield from ((f"{source.label} {source.split}, row {number}", row) for number, row in enumerate(rows, 1))
