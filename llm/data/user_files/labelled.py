"""Texts with labels out of files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...splits import held_out_keys
from .json_records import Record, read_records


@dataclass(frozen=True)
class Labelled:
    """A text, its label, and where it stands, in words."""

    text: str
    label: str
    place: str


@dataclass(frozen=True)
class LabelledSet:
    """What a classifier learns from and what it is measured with."""

    train: list[Labelled]
    val: list[Labelled]
    labels: tuple[str, ...]
    """All labels, in alphabetical order."""
    dropped: dict[str, int]


def read_labelled(
    paths: Iterable[Path], held_out_paths: Iterable[Path], held_out_fraction: float, text_field: str, label_field: str
) -> LabelledSet:
    """Returns the records of files, each text once; without held-out files a share of the texts is held out.

    A text that is held out is never trained on. Raises ValueError, naming file, line and field, for a malformed record,
    for a text with two labels, for a single label, and for a label that training has not seen.
    """
    dropped = Counter[str]()
    given = [_unique(some, text_field, label_field, dropped) for some in (paths, held_out_paths)]
    if given[1]:
        held_out = set(given[1])
        dropped["also held out"] += len(held_out & given[0].keys())
    else:
        held_out = held_out_keys(given[0], held_out_fraction)
    train = [item for text, item in given[0].items() if text not in held_out]
    val = list(given[1].values()) or [item for text, item in given[0].items() if text in held_out]
    labels = tuple(sorted({item.label for item in train}))
    if len(labels) < 2:
        raise ValueError(f"all texts to train on have one label, {', '.join(labels)!r}; a classifier needs two or more")
    for item in val:
        if item.label not in labels:
            raise ValueError(
                f"{item.place}: label {item.label!r} is not among those trained on ({', '.join(labels)}): add texts "
                "with it to train on, or take it out"
            )
    return LabelledSet(train, val, labels, {reason: n for reason, n in dropped.items() if n})


def _unique(paths: Iterable[Path], text_field: str, label_field: str, dropped: Counter[str]) -> dict[str, Labelled]:
    found: dict[str, Labelled] = {}
    for record in (record for path in paths for record in read_records(path)):
        item = Labelled(record.text(text_field), _label(record, label_field), record.place)
        before = found.setdefault(item.text, item)
        if before.label != item.label:
            raise ValueError(f"{item.place}: the same text has label {before.label!r} in {before.place}")
        dropped["duplicate"] += before is not item
    return found


def _label(record: Record, field: str) -> str:
    value = record.values.get(field)
    if isinstance(value, int):  # True and False too
        return str(value)
    return record.text(field).strip()
