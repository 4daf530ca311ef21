"""Examples out of files and data sets: read, checked, and named by file and line where something is wrong."""

from __future__ import annotations

import glob
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..drops import Dropped
from ..json_records import values_of
from ..messages import BadRecord, Message
from .chats import ALWAYS_DROPPED, chat_of
from .config import InstructConfig, InstructSource
from .definitions import hash_of

SUFFIXES = (".json", ".jsonl", ".parquet", ".csv", ".tsv")


@dataclass(frozen=True)
class Example:
    """A chat to learn from; `question` is what it asks about."""

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

    @property
    def last_question(self) -> str:
        """What the user says before the last answer."""
        return self.messages[-2]["content"]


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

    Data sets of the hub are passed over: they may have to be fetched. Raises ValueError as `read_source` does.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for source in config.sources:
            if source.kind != "definitions" and not source.is_on_hub:
                read_source(source, Path(scratch), config)


def read_sources(config: InstructConfig, downloads: Path) -> Found:
    """The examples of all files and data sets, in the order of the sources; see `read_source`."""
    found = Found()
    for source in config.sources:
        if source.kind != "definitions":
            part = read_source(source, downloads, config)
            found.examples.extend(part.examples)
            found.dropped.extend(part.dropped)
    return found


def read_source(source: InstructSource, downloads: Path, config: InstructConfig) -> Found:
    """The examples of a source of files or of a data set, which is kept in `downloads`.

    Raises ValueError that names file, line and field of the first broken record (or drops it, as `bad_examples` says),
    or when there is no record at all; ConnectionError when a data set cannot be fetched.
    """
    found = Found()
    for place, record in _records(source, downloads):
        url = f"{source.label}:{place}"
        try:
            found.examples.append(_example(_chat(record, source), source))
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


def _chat(record: Any, source: InstructSource) -> list[Message]:
    if isinstance(record, BadRecord):
        raise record
    return chat_of(record, source)


def _example(messages: list[Message], source: InstructSource) -> Example:
    id = hash_of(json.dumps(messages, ensure_ascii=False))
    return Example(id, messages[-2]["content"], messages, weight=source.weight)


def _records(source: InstructSource, downloads: Path) -> Iterator[tuple[str, Any]]:
    """Each record with its place in words; a BadRecord instead of one that cannot be read."""
    if source.dataset is not None:
        yield from _dataset_records(source, downloads)
    for path in source_files(source):
        yield from ((f"{path.name}, {where}", value) for where, value in values_of(path))


def source_files(source: InstructSource) -> list[Path]:
    """The files that a source's path names, in order; raises ValueError when there is none."""
    if source.path is None:
        return []
    path = Path(source.path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
    else:
        files = [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(source.path, recursive=True))]
    if not files:
        raise ValueError(
            f"instruct.sources: path is {source.path!r}, but there is no file {', '.join(SUFFIXES)} at "
            f"{path.absolute()}; give it with instruct.sources.0.path=FILE"
        )
    return files


def _dataset_records(source: InstructSource, downloads: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a data set, which is fetched whole, so that it can be read again without a network."""
    import datasets
    from datasets.exceptions import DatasetGenerationError

    try:
        rows = datasets.load_dataset(
            source.dataset,
            source.config_name,
            split=source.split,
            revision=source.revision if source.is_on_hub else None,
            cache_dir=str(downloads / "datasets"),
        )
    except ConnectionError:
        raise
    except DatasetGenerationError as error:  # it says nothing; the reason is its cause
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from error
        raise ValueError(f"instruct.sources: dataset {source.dataset!r}: {error.__cause__}") from error
    except (ValueError, FileNotFoundError) as error:  # what `datasets` raises for an unknown data set, split or file
        raise ValueError(f"instruct.sources: dataset {source.dataset!r}: {error}") from error
    yield from ((f"{source.label} {source.split}, row {number}", row) for number, row in enumerate(rows, 1))
