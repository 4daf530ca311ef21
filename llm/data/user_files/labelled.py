"""Texts with labels out of files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...splits import held_out_of_each
from .json_records import BadExamples, BadRecords, Record, one_answer_each, read_examples
from .messages import BadRecord


@dataclass(frozen=True)
class Labelled:
    """A text, its label, and where it stands, in words."""

    text: str
    label: str
    place: str


@dataclass(frozen=True)
class LabelledSet:
    """What a classifier is trained on and what it is evaluated on."""

    train: list[Labelled]
    val: list[Labelled]
    labels: tuple[str, ...]
    """All labels, in alphabetical order."""
    dropped: dict[str, int]


def read_labelled(
    paths: Iterable[Path],
    held_out_paths: Iterable[Path],
    held_out_fraction: float,
    text_field: str,
    label_field: str,
    bad_examples: BadExamples = "refuse",
) -> LabelledSet:
    """Returns the records of files, each text once; without held-out files a share of each label's texts is held out.

    A text that is held out is never trained on, and a label with a single text is. Raises ValueError for a single label
    and, unless these are to be dropped, naming file, line and field, for a malformed record, for a text with two
    labels, and for a label that training has not seen.
    """
    bad = BadRecords("classify", bad_examples)

    def labelled(record: Record) -> Labelled:
        return Labelled(record.text(text_field), label_of(record, label_field), record.place)

    given, separate = (
        one_answer_each(
            read_examples(some, labelled, bad),
            lambda item: (item.text, item.label),
            bad,
            words="the same text has label",
        )
        for some in (paths, held_out_paths)
    )
    if separate:
        held_out = set(separate)
        bad.dropped["also held out"] += len(held_out & given.keys())
    else:
        held_out = held_out_of_each({text: item.label for text, item in given.items()}, held_out_fraction)
    train = [item for text, item in given.items() if text not in held_out]
    labels = tuple(sorted({item.label for item in train}))
    if len(labels) < 2:
        raise ValueError(
            f"all {len(train)} texts to train on have one label, {', '.join(labels)!r}; a classifier needs two or more"
        )
    val = []
    for item in separate.values() or [given[text] for text in given if text in held_out]:
        if item.label in labels:
            val.append(item)
        else:
            why = f"label {item.label!r} is not among those trained on ({', '.join(labels)})"
            bad.drop(BadRecord("label not trained on", f"{item.place}: {why}: add texts with it to train on"))
    if not val:
        raise ValueError("no text is left to measure the classifier with; add some with labels that it is trained on")
    return LabelledSet(train, val, labels, {reason: n for reason, n in bad.dropped.items() if n})


def label_of(record: Record, field: str) -> str:
    """Returns a label as text; a whole number is the same label however it is written (0, 0.0, "0.0")."""
    value = record.values.get(field)
    is_number = isinstance(value, int | float) and math.isfinite(value)  # True and False too
    label = str(value) if is_number else record.text(field).strip()
    whole = re.fullmatch(r"(-?\d+)\.0+", label)
    return whole[1] if whole else label
