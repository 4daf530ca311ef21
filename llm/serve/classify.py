"""Labels out of a trained classifier: what the command line and the server share."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..data.user_files.json_records import SUFFIXES, read_records
from ..files import read_json
from ..model.classifier import Classifier, class_probabilities, classifier_tokens, load_classifier
from ..model.files import CONFIG_FILE, WEIGHTS_FILE
from ..tokenizer.tokenizer import Tokenizer

BATCH_SIZE = 16
RECORD_SUFFIXES = (*SUFFIXES, ".ndjson")
"""Files whose texts are fields of records; any other file has a text in each line."""
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Prediction:
    """The label of one text."""

    text: str
    label: str
    """The most probable one."""
    probabilities: list[float]
    """In the order of the classifier's labels; they add up to 1."""
    n_tokens: int
    """Tokens that were read, `<|document|>` included."""


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier with its tokenizer."""

    name: str
    model: Classifier
    labels: tuple[str, ...]
    tokenizer: Tokenizer
    text_field: str
    """The field of records that its training texts stood in."""
    created: int
    """When its weights were written, in seconds since 1970."""

    @property
    def context_length(self) -> int:
        """Tokens of a text that are read; the rest is cut off, as in training."""
        return self.model.config.context_length

    def predictions(self, texts: Iterable[str]) -> Iterator[list[Prediction]]:
        """Yields the predictions for the texts, `BATCH_SIZE` at a time and in their order."""
        remaining = iter(texts)
        while batch := list(itertools.islice(remaining, BATCH_SIZE)):
            tokens = classifier_tokens(batch, self.tokenizer, self.context_length)
            rows = class_probabilities(self.model, tokens, BATCH_SIZE)
            yield [
                Prediction(text, self.labels[row.argmax()], row.tolist(), len(ids))
                for text, row, ids in zip(batch, rows, tokens, strict=True)
            ]


def load(directory: Path, name: str) -> LoadedClassifier:
    """Loads the classifier of a directory; raises as `load_classifier` does."""
    model, labels = load_classifier(directory)
    text_field = read_json(directory / CONFIG_FILE)["training"].get("text_field", "text")
    created = int((directory / WEIGHTS_FILE).stat().st_mtime)
    return LoadedClassifier(name, model, tuple(labels), Tokenizer.load(directory), text_field, created)


def read_texts(file: str, field: str) -> Iterator[str]:
    """Yields the texts of a file, `-` for standard input: field `field` of each record, or each line that is not blank.

    JSON, JSONL, CSV, TSV and Parquet files hold records. Raises ValueError, naming place and field, for a malformed
    record and for a file without a text, OSError when it cannot be read.
    """
    path = Path(file)
    if path.suffix.lower() in RECORD_SUFFIXES:
        yield from (record.text(field) for record in read_records(path))
        return
    name, is_empty = ("standard input" if file == STANDARD_INPUT else file), True
    with open(sys.stdin.fileno() if file == STANDARD_INPUT else path, "rb", closefd=file != STANDARD_INPUT) as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{name}, line {number} is not UTF-8 text: {error}") from error
            if text.strip():
                is_empty = False
                yield text
    if is_empty:
        raise ValueError(f"{name} holds no text; give one in each line, or records with a field {field!r}")
