"""Documents: the schema of `documents-*.parquet`, their ids, and the split into train and held-out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from .files import read_table

DOCUMENT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("n_chars", pa.int32()),
        ("held_out", pa.bool_()),
        ("source", pa.string()),
    ]
)


@dataclass(frozen=True)
class Document:
    """One row of `documents-*.parquet`.

    `id` is 32 hexadecimal digits, `language` an ISO 639-1 code ("en"; three letters where there are no two), `n_chars`
    the length of `text` in characters. A held-out document is never trained on: the losses are measured on it. `source`
    is where it came from, in a word: the host of a crawled page, the name that the recipe gives an ingested source.
    """

    id: str
    url: str
    title: str
    text: str
    language: str
    n_chars: int
    held_out: bool
    source: str = ""


def document_id(url: str, text: str) -> str:
    """Returns the id of a document, 32 hexadecimal digits: a hash of where it came from and of what it says."""
    return hashlib.blake2b(f"{url}\n{text}".encode(), digest_size=16).hexdigest()


def documents_table(documents: Sequence[Document]) -> pa.Table:
    """Returns the documents, in the order given, as a table with `DOCUMENT_SCHEMA`."""
    return pa.Table.from_pylist([asdict(document) for document in documents], schema=DOCUMENT_SCHEMA)


def document_files(artifact_dir: Path) -> list[Path]:
    """Returns the files `documents-*.parquet` of an artifact, in partition order."""
    return sorted(artifact_dir.glob("documents-*.parquet"))


def read_documents(artifact_dir: Path) -> Iterator[Document]:
    """Yields all documents of an artifact, in order, one file in memory at a time.

    Raises OSError for a damaged file.
    """
    for path in document_files(artifact_dir):
        for row in read_table(path).to_pylist():
            yield Document(**row)
