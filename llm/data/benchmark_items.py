"""Benchmark files (JSONL) as texts to look for in the corpus.

The forms that are read, those of the CORE set and our own: multiple choice (`query`, `choices`, `gold`), schema
(`context_options`, `continuation`, `gold`), language modelling (`context`, `continuation`), chat (`messages`).
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LABEL = re.compile(r"^\s*[\w &'/-]{1,40}:\s")  # "Question: ", "WORLD HISTORY: "


@dataclass(frozen=True)
class BenchmarkItem:
    """One item: the file's name without its ending, the number of its line from 0, and question with right answer."""

    benchmark: str
    item: int
    text: str

    def texts(self) -> Iterator[str]:
        """The whole, and each line without a label as "Question:" before it: a web page may have the question only."""
        yield self.text
        for line in self.text.splitlines():
            yield _LABEL.sub("", line)


def benchmark_files(patterns: Iterable[str]) -> list[Path]:
    """The files that paths and glob patterns name, in order; raises ValueError for one that names none."""
    files: list[Path] = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise ValueError(f"benchmarks has {pattern!r}, but there is no such file; give the path of a JSONL file")
        files += [Path(path) for path in found if Path(path) not in files]
    names = [path.stem for path in files]
    for path in files:
        if names.count(path.stem) > 1:
            raise ValueError(f"benchmarks names two files {path.name}; hits are told apart by that name: rename one")
    return files


def read_items(path: Path) -> list[BenchmarkItem]:
    """The items of a file; raises ValueError naming the line that is not of a known form."""
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")):
        if line.strip():
            try:
                items.append(BenchmarkItem(path.stem, number, item_text(json.loads(line))))
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}, line {number + 1}: not a benchmark item ({error!r}); a line has query, choices and gold, "
                    "or context_options, continuation and gold, or context and continuation, or messages"
                ) from error
    return items


def item_text(row: dict[str, Any]) -> str:
    """Question and right answer of an item in one text."""
    if "messages" in row:
        return "\n".join(message["content"] for message in row["messages"])
    if "choices" in row:
        return f"{row['query']} {row['choices'][row['gold']]}"
    if "context_options" in row:
        return f"{row['context_options'][row['gold']]} {row['continuation']}"
    return f"{row['context']} {row['continuation']}"
