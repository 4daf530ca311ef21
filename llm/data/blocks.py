"""From an HTML tree to readable text: inline content becomes blocks, blocks become lines.

Only block elements and `br` break lines, so inline markup neither cuts a line nor glues words. The walk keeps a stack
of its own: no depth of nesting can exhaust Python's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from selectolax.lexbor import LexborNode


def names(text: str) -> frozenset[str]:
    """The words of `text` as a set."""
    return frozenset(text.split())


BLOCK_TAGS = names(
    """address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure
    footer form h1 h2 h3 h4 h5 h6 header hgroup hr legend li main menu nav ol option p pre search section summary table
    tbody td tfoot th thead tr ul"""
)
HEADING_TAGS = names("h1 h2 h3 h4 h5 h6")
KIND_OF_TAG = {"li": "item", "dt": "term", "pre": "code"}
LIST_TAGS = names("dir menu ol ul")
LINK_LIST_TAGS = names("div dl ol section table ul")
LINK_LIST_SHARE = 0.8  # of the characters; .5 to .7 lose more of the lists that people write than of menus
MAX_LINK_CHARS = 150  # a longer link is a text that can be clicked, or one that nobody closed
LAYOUT_CONTENT = "table, pre, ul, ol, dl, blockquote, h1, h2, h3, h4, h5, h6, p + p"
"""With any of these in it a table is there for the layout, or its cells are too long for a line."""

_UNSEEN = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\xad\u200b\u2060\ufeff]")  # controls, soft hyphen, zero width

LeaveOut = Callable[[LexborNode, str], bool]
"""Whether an element, given with its tag, is left out together with all that it holds."""


def text_of(root: LexborNode, leave_out: LeaveOut, *, max_link_list: int) -> str:
    """The text under `root`, without the elements that `leave_out` names and without lists of links.

    A list of links is an element of up to `max_link_list` characters most of which are links; 0 keeps them all.
    """
    writer = _BlockWriter(max_link_list)
    _walk(root, writer, leave_out)
    return join_blocks(writer.blocks)


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of text. `kind` is paragraph, line (what follows a `br`), item, term, row (of a table) or code."""

    kind: str
    text: str


def join_blocks(blocks: list[Block]) -> str:
    """The blocks as text: items and rows a line each, a term on the line above what it means, else a blank line."""
    parts = []
    for i, block in enumerate(blocks):
        if i > 0:
            previous = blocks[i - 1].kind
            together = previous == block.kind and block.kind in ("item", "row")
            parts.append("\n" if together or block.kind == "line" or previous == "term" else "\n\n")
        parts.append(block.text)
    return "".join(parts)


@dataclass(slots=True)
class _Open:
    """An element that the walk is inside of, and how much had been written when it began."""

    node: LexborNode
    tag: str
    n_blocks: int
    n_chars: int
    n_link_chars: int


def _walk(root: LexborNode, writer: _BlockWriter, leave_out: LeaveOut) -> None:
    """Feeds the elements and texts under `root` to `writer`, in document order."""
    opened = [writer.enter(root, root.tag or "")]
    node = root.first_child
    while opened:
        if node is None:
            element = opened.pop()
            writer.leave(element)
            node = element.node.next if opened else None
            continue
        tag = node.tag or "-"
        if tag == "-text":
            writer.add_text(node.text_content or "")
        elif not tag.startswith("-") and not leave_out(node, tag):
            opened.append(writer.enter(node, tag))
            node = node.first_child
            continue
        node = node.next


def _has_short_cells(table: LexborNode) -> bool:
    """Whether the rows of a table can be written as lines."""
    # Asked of the parts, because css_first() finds the element that it is called on, too.
    return all(part.css_first(LAYOUT_CONTENT) is None for part in table.iter())


def _join_cells(cells: list[str]) -> str:
    """The cells of a row as a line, without the empty ones at its end."""
    n_cells = max((i + 1 for i, cell in enumerate(cells) if cell), default=0)
    return " | ".join(cells[:n_cells])


def _item_marks(list_element: LexborNode, tag: str) -> Iterator[str]:
    """What stands before the items of a list: a dash, or the numbers of an ordered list."""
    if tag != "ol":
        return itertools.repeat("- ")
    start = list_element.attributes.get("start") or ""
    return (f"{number}. " for number in itertools.count(int(start) if re.fullmatch("[0-9]{1,9}", start) else 1))


class _BlockWriter:
    """Collects inline text and cuts it into blocks where block elements begin and end."""

    def __init__(self, max_link_list: int) -> None:
        self.blocks: list[Block] = []
        self._max_link_list = max_link_list
        self._pieces: list[str] = []  # inline text since the last block
        self._cells: list[str] = []  # finished cells of the row at hand
        self._kind = "paragraph"  # of the next block
        self._n_chars = self._n_link_chars = 0  # written so far, without what was taken back
        self._n_links = self._n_pres = self._n_lines = 0  # open elements; lines: those kept on one line
        self._lists: list[Iterator[str]] = []  # the marks of the next items of the open lists
        self._mark = ""  # of the item at hand, until it is written
        self._in_rows = False  # inside a table whose rows are written as lines

    def add_text(self, text: str) -> None:
        self._pieces.append(text)
        n_chars = len(text.strip())
        self._n_chars += n_chars
        if self._n_links:
            self._n_link_chars += n_chars

    def enter(self, node: LexborNode, tag: str) -> _Open:
        """Begins an element; what it returns is given back to `leave`."""
        if tag == "a":
            self._n_links += 1
        elif tag == "br":
            self._break_line()
        elif tag in BLOCK_TAGS:
            self._break_block()
            self._kind = KIND_OF_TAG.get(tag, self._kind)
            self._count_open(tag, 1)
            if tag in LIST_TAGS:
                self._lists.append(_item_marks(node, tag))
            elif tag == "li":
                self._mark = next(self._lists[-1]) if self._lists else "- "
            if tag == "table":
                self._in_rows = not self._n_lines and _has_short_cells(node)
        return _Open(node, tag, len(self.blocks), self._n_chars, self._n_link_chars)

    def leave(self, element: _Open) -> None:
        """Ends an element."""
        if element.tag == "a":
            self._n_links -= 1
            if self._n_link_chars - element.n_link_chars > MAX_LINK_CHARS:
                self._n_link_chars = element.n_link_chars
        elif element.tag in BLOCK_TAGS:
            self._end_block(element.tag)
            if element.tag in LINK_LIST_TAGS and not self._n_lines and not self._n_links:
                self._take_back_links(element)

    def _end_block(self, tag: str) -> None:
        if self._in_rows and tag in ("td", "th"):
            self._cells.append(self._take_inline())
        elif self._in_rows and tag == "tr":
            self._count_open(tag, -1)
            self._add_block("row", _join_cells(self._cells))
            self._cells = []
        elif tag == "pre" and self._n_pres == 1:
            self._count_open(tag, -1)
            self._add_block("code", self._take_verbatim())
        else:
            self._count_open(tag, -1)
            self._break_block()
        if tag in LIST_TAGS:
            self._lists.pop()
        if tag == "table":
            self._in_rows = False
        if not self._n_lines:
            self._kind = "paragraph"

    def _count_open(self, tag: str, step: int) -> None:
        """Counts an element that changes how the text inside of it is written: `step` 1 as it opens, -1 as it ends."""
        if tag == "pre" and not self._n_lines:
            self._n_pres += step
        elif tag in HEADING_TAGS or tag in ("dt", "caption") or (tag == "tr" and self._in_rows):
            self._n_lines += step

    def _break_line(self) -> None:
        if self._n_pres:
            self._pieces.append("\n")
        elif self._n_lines:
            self._pieces.append(" ")
        else:
            n_blocks = len(self.blocks)
            self._break_block()
            # The second of two `br` finds nothing to end: it makes a new paragraph.
            self._kind = "line" if len(self.blocks) > n_blocks else self._kind.replace("line", "paragraph")

    def _break_block(self) -> None:
        """Ends the block at hand, if there is one; on a one-line element or in `pre` that is a space or a new line."""
        if self._n_lines:
            self._pieces.append(" ")
        elif self._n_pres:
            if self._pieces and not self._pieces[-1].endswith("\n"):
                self._pieces.append("\n")
        elif self._pieces:
            self._add_block(self._kind, self._take_inline())

    def _add_block(self, kind: str, text: str) -> None:
        if not text:
            return
        if kind == "item":
            text = "  " * (len(self._lists) - 1) + self._mark + text
        self.blocks.append(Block(kind, text))
        self._kind = "paragraph"

    def _take_inline(self) -> str:
        """The inline text at hand with white space collapsed."""
        return " ".join(self._take_pieces().split())

    def _take_verbatim(self) -> str:
        """The inline text at hand as it is, without empty lines before and after."""
        return re.sub(r"^(?:[^\S\n]*\n)+", "", self._take_pieces().replace("\r", "")).rstrip()

    def _take_pieces(self) -> str:
        text = _UNSEEN.sub("", "".join(self._pieces))
        self._pieces = []
        return text

    def _take_back_links(self, element: _Open) -> None:
        """Removes what `element` wrote if that is mostly links, as in a menu, and no sentence announces them."""
        if element.n_blocks > 0 and self.blocks[element.n_blocks - 1].text.endswith(":"):
            return
        n_chars = self._n_chars - element.n_chars
        n_link_chars = self._n_link_chars - element.n_link_chars
        if n_chars <= self._max_link_list and n_link_chars > LINK_LIST_SHARE * n_chars:
            del self.blocks[element.n_blocks :]
            self._n_chars, self._n_link_chars = element.n_chars, element.n_link_chars
