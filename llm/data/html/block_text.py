"""Readable text out of the chosen blocks of a page.

Paragraphs and headings are separated by a blank line; list items and the rows of a table stand on a line each, a term
on the line above what it means; what stands in `pre` is verbatim.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .blocks import LINE_BREAK, LINE_TAGS, Blocks, names

LIST_TAGS = names("dir menu ol ul")
CELL_TAGS = names("td th")
LAYOUT_TAGS = names("table pre ul ol dl blockquote h1 h2 h3 h4 h5 h6")
"""With any of these in it a table is there for the layout, or its cells are too long for a line."""

_UNSEEN = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\xad\u200b\u2060\ufeff]")  # controls, soft hyphen, zero width
_MANY_LINES = re.compile("\n{3,}")
_EMPTY_LINES_BEFORE = re.compile(r"(?:[^\S\n]*\n)+")


class Position(NamedTuple):
    """Where an element stands: nearest list item, open lists, row of a table of data, cell in that row (-1: none)."""

    item: int
    n_lists: int
    row: int
    cell: int


@dataclass(frozen=True, slots=True)
class _Line:
    kind: str  # paragraph, item, row, term or code
    text: str


def text_of(page: Blocks, kept: Sequence[int]) -> str:
    """Returns the text of the blocks with these numbers, which ascend."""
    return _joined(list(_lines(page, kept)))


def data_tables(page: Blocks) -> list[tuple[int, int]]:
    """Returns the tables whose rows can be written as lines, as ranges of elements."""
    if "table" not in page.tags:
        return []
    depth = page.elements.depth
    found = []
    for table in (index for index, tag in enumerate(page.tags) if tag == "table"):
        after = np.flatnonzero(depth[table + 1 :] <= depth[table])
        end = table + 1 + int(after[0]) if len(after) else len(depth)
        if not _is_layout(page, table + 1, end):
            found.append((table, end))
    return found


def _is_layout(page: Blocks, start: int, end: int) -> bool:
    if not LAYOUT_TAGS.isdisjoint(page.tags[start:end]):
        return True
    parents = page.elements.parent
    paragraphs = Counter(int(parents[index]) for index in range(start, end) if page.tags[index] == "p")
    return max(paragraphs.values(), default=0) > 1


def _positions(page: Blocks) -> list[Position]:
    """Returns the index of each element."""
    parents, cells = page.elements.parent.tolist(), page.elements.cell.tolist()
    in_data = {index for start, end in data_tables(page) for index in range(start, end)}
    positions = [Position(-1, 0, -1, -1)]
    for index in range(1, len(page.tags)):
        tag = page.tags[index]
        position = positions[parents[index]]
        if tag == "li":
            position = position._replace(item=index)
        elif tag in LIST_TAGS:
            position = position._replace(n_lists=position.n_lists + 1)
        elif index in in_data:
            if tag == "tr":
                position = position._replace(row=index)
            elif tag in CELL_TAGS and position.row >= 0:
                position = position._replace(cell=cells[index])
        positions.append(position)
    return positions


def _marks(page: Blocks) -> dict[int, str]:
    """Returns what stands before the items of a list: a dash, or the numbers of an ordered list."""
    parents = page.elements.parent.tolist()
    numbers: dict[int, int] = {}
    marks = {}
    for item in (index for index, tag in enumerate(page.tags) if tag == "li"):
        parent = parents[item]
        if page.tags[parent] != "ol":
            marks[item] = "- "
            continue
        start = page.list_starts.get(parent, "")
        number = numbers.setdefault(parent, int(start) if re.fullmatch("[0-9]{1,9}", start) else 1)
        numbers[parent] += 1
        marks[item] = f"{number}. "
    return marks


def _lines(page: Blocks, kept: Sequence[int]) -> Iterator[_Line]:
    positions, marks = _positions(page), _marks(page)
    element_of = page.blocks.element.tolist()
    cells: list[str] = []
    row = -1
    for block in kept:
        element = element_of[block]
        position, tag = positions[element], page.tags[element]
        if row >= 0 and position.row != row:
            yield _Line("row", " | ".join(cells))
            cells = []
        row = position.row
        if row >= 0:
            cells += [""] * (position.cell + 1 - len(cells))
            cells[-1] = f"{cells[-1]} {_seen(page.lines[block])}".strip()
        elif tag == "pre":
            yield _Line("code", _verbatim(page.texts[block]))
        elif tag in LINE_TAGS:
            yield _Line("term" if tag == "dt" else "paragraph", _seen(page.lines[block]))
        elif (text := _paragraph(page, block)) and position.item in marks:
            yield _Line("item", "  " * (position.n_lists - 1) + marks.pop(position.item) + text)
        else:
            yield _Line("paragraph", text)
    if row >= 0:
        yield _Line("row", " | ".join(cells))


def _joined(lines: list[_Line]) -> str:
    parts: list[str] = []
    previous = ""
    for line in lines:
        if not line.text:
            continue
        if parts:
            together = (line.kind == previous and line.kind in ("item", "row")) or previous == "term"
            parts.append("\n" if together else "\n\n")
        parts.append(line.text)
        previous = line.kind
    return "".join(parts)


def _seen(line: str) -> str:
    """Returns a line without characters that nobody sees."""
    return line if line.isprintable() else " ".join(_UNSEEN.sub("", line).split())


def _paragraph(page: Blocks, block: int) -> str:
    """Returns the text with white space collapsed; `br` breaks a line, and two make a new paragraph."""
    text = page.texts[block]
    if LINE_BREAK not in text:
        return _seen(page.lines[block])
    lines = (_seen(" ".join(line.split())) for line in text.split(LINE_BREAK))
    return _MANY_LINES.sub("\n\n", "\n".join(lines)).strip("\n")


def _verbatim(text: str) -> str:
    """Returns the text as it is, without empty lines before and after."""
    text = _UNSEEN.sub("", text.replace("\r", "")).rstrip()
    before = _EMPTY_LINES_BEFORE.match(text)
    return text[before.end() :] if before else text
