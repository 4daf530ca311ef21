"""The blocks of text of an HTML tree: one walk, which notes of every block where in the page it stands.

A block is a run of inline content inside a block element: a paragraph, a list item, a cell, a heading, the whole of a
`pre`. Inline markup neither cuts a block nor glues words. The walk keeps a stack of its own: no depth of nesting can
exhaust Python's.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from selectolax.lexbor import LexborNode

Numbers = NDArray[np.intp]


def names(text: str) -> frozenset[str]:
    """Returns the words of `text` as a set."""
    return frozenset(text.split())


LINE_BREAK = "\x1e"
"""Stands for a `br` in the text of a block (a control character, which text has no other use for)."""

MAX_LINK_CHARS = 150
"""A longer link is a text that can be clicked, or one that nobody closed."""

INVISIBLE_TAGS = names(
    """audio canvas datalist head iframe math noscript object option script select style svg template textarea title
    video"""
)
SITE_TAGS = names("nav footer")
SITE_ROLES = names("navigation contentinfo menu menubar")
BLOCK_TAGS = names(
    """address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure
    footer form frameset h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol optgroup p pre search
    section summary table tbody td tfoot th thead tr ul"""
)
HEADING_TAGS = names("h1 h2 h3 h4 h5 h6")
LINE_TAGS = HEADING_TAGS | {"dt", "caption", "pre"}
"""Elements whose whole text is one block, whatever elements are in them: one line, or verbatim."""

# What Sphinx, MkDocs and wikis put beside headings, definitions and code; no reader means it when he quotes the text.
LINK_MARKS = frozenset(["¶", "#", "§", "🔗", "[source]", "[docs]", "[edit]"])
MARK_CLASSES = names("headerlink viewcode-link mw-editsection linenos lineno")

_NUMBERED_TAGS = """- div p li td th h1 h2 h3 h4 h5 h6 pre blockquote dt dd section article main header footer nav aside
ul ol table tr tbody dl figure figcaption form details summary address body center fieldset hgroup caption dialog"""
TAG_NUMBERS = {tag: number for number, tag in enumerate(_NUMBERED_TAGS.split())}
"""A number for each tag that the model tells apart; 0 is any other."""

_KINDS = "nav footer aside header form main article list table figure definitions quote details dialog code tabs"
FLAGS = {name: 1 << bit for bit, name in enumerate([*_KINDS.split(), "hidden", "body_text", "description", "comment"])}
"""What an element lies in, as bits."""

_FLAG_OF_TAG = {
    **{tag: flag for tag, flag in FLAGS.items() if tag in BLOCK_TAGS},
    "ul": FLAGS["list"],
    "ol": FLAGS["list"],
    "dl": FLAGS["definitions"],
    "blockquote": FLAGS["quote"],
    "pre": FLAGS["code"],
}
_FLAG_OF_ROLE = {
    "navigation": FLAGS["nav"],
    "menu": FLAGS["nav"],
    "menubar": FLAGS["nav"],
    "contentinfo": FLAGS["footer"],
    "complementary": FLAGS["aside"],
    "banner": FLAGS["header"],
    "search": FLAGS["form"],
    "form": FLAGS["form"],
    "main": FLAGS["main"],
    "article": FLAGS["article"],
    "dialog": FLAGS["dialog"],
    "alertdialog": FLAGS["dialog"],
    "tablist": FLAGS["tabs"],
}
_FLAG_OF_ITEMPROP = {
    "articleBody": FLAGS["body_text"],
    "text": FLAGS["body_text"],
    "description": FLAGS["description"],
    "reviewBody": FLAGS["comment"],
    "comment": FLAGS["comment"],
    "commentText": FLAGS["comment"],
    "mainEntityOfPage": FLAGS["article"],
    "mainContentOfPage": FLAGS["main"],
    "breadcrumb": FLAGS["nav"],
}


class BlockNumbers(NamedTuple):
    """Numbers of the blocks, each of shape (blocks,): their element, characters and words of their line, and characters
    in links and in short links, white space not counted."""

    element: Numbers
    n_chars: Numbers
    n_words: Numbers
    n_link_chars: Numbers
    n_short_link_chars: Numbers


class ElementNumbers(NamedTuple):
    """Numbers of the elements, each of shape (elements,).

    `first` is an element's first block. Elements that look alike, in ancestors that do, have the same `signature`. The
    cells of a row are numbered, empty ones too.
    """

    parent: Numbers
    first: Numbers
    depth: Numbers
    tag: Numbers
    flags: Numbers
    signature: Numbers
    cell: Numbers


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a page in document order, and the block elements with text, a parent before its children.

    `texts` have white space as the page has it, `lines` are the same collapsed. Element 0 is what surrounds the root,
    and its own parent. `ends[e]` is the block after the last of element e; `names` are an element's class and id,
    `list_starts` the `start` attributes of ordered lists.
    """

    texts: list[str]
    lines: list[str]
    blocks: BlockNumbers
    elements: ElementNumbers
    ends: Numbers
    tags: list[str]
    names: list[str]
    list_starts: dict[int, str]


def blocks_of(root: LexborNode | None, *, with_site: bool = False) -> Blocks:
    """Returns the blocks under `root` (none if it is None), of which nothing is changed.

    Navigation and footer `with_site`.
    """
    walk = _Walk(with_site)
    enter, leave, pieces = walk.enter, walk.leave, walk.pieces
    opened: list[tuple[LexborNode, int]] = []
    node = root
    while node is not None:
        tag = node.tag or "-"
        if tag == "-text":
            text = node.text_content or ""
            if pieces or walk.in_pre or not text.isspace():
                pieces.append(text)
        elif kind := enter(node, tag):
            child = node.first_child
            if child is not None:
                opened.append((node, kind))
                node = child
                continue
            leave(kind)
        following = node.next if opened else None
        while following is None and opened:
            node, kind = opened.pop()
            if kind != _INLINE:
                leave(kind)
            following = node.next if opened else None
        node = following
    return walk.finish()


_SKIP, _INLINE, _LINK, _BLOCK, _LINE, _INNER = range(6)  # what entering an element began; skipped ones are not entered
LINK_TAGS = names("a button")
_JUDGED_INLINE_TAGS = names("a button label span")  # the only inline elements whose attributes are looked at
_CELL_TAGS = names("td th")
_ROW_TAGS = names("tr tbody thead tfoot")
_SLUG_TAGS = HEADING_TAGS | names("section dt p")
_ASIDE_CLASS = re.compile(r"(?<!\S)(?:related|(?:sphinx)?sidebar|(?:(?:site|page)[-_]?)?footer)(?!\S)", re.IGNORECASE)

Attributes = dict[str, str | None]


class _Walk:
    """Collects inline text and cuts it into blocks where block elements begin and end.

    An element is noted when the first block in it ends: nearly half of them have no text.
    """

    def __init__(self, with_site: bool) -> None:
        self.pieces: list[str] = []  # inline text since the last block
        self.in_pre = self._in_line = False
        self._with_site = with_site
        self._open: list[tuple[str, Attributes, int]] = []  # tag, attributes and cell of the open block elements
        self._n_cells = [0]  # in each of them, and around
        self._path = [(0, 0, 0)]  # index, flags and signature of what surrounds the root, and of open elements noted
        self._signatures: dict[tuple[int, str, str], int] = {}
        self._links: list[int] = []  # of each open link the number of pieces before it
        self._n_chars_of_link = 0  # of the outermost open link, in earlier blocks
        self._n_link_chars = self._n_short_link_chars = 0  # since the last block
        self._texts: list[str] = []
        self._lines: list[str] = []
        self._blocks: list[int] = []  # flat, as the elements: an object for each would take three times as long
        self._elements = [0] * len(ElementNumbers._fields)
        self._ends, self._tags, self._names = [0], ["-"], [""]
        self._list_starts: dict[int, str] = {}

    def enter(self, node: LexborNode, tag: str) -> int:
        """Begins an element and says what `leave` has to end; 0 if nothing under it counts."""
        if tag in BLOCK_TAGS:
            return self._enter_block(node, tag)
        if tag in _JUDGED_INLINE_TAGS:
            return self._enter_inline(node, tag)
        if tag == "br":
            self.pieces.append("\n" if self.in_pre else LINE_BREAK)
        elif tag not in INVISIBLE_TAGS and tag[0] != "-":
            return _INLINE
        return _SKIP

    def leave(self, kind: int) -> None:
        """Ends the element for which `enter` returned `kind`."""
        if kind in (_BLOCK, _LINE):
            if self.pieces:
                self._end_block()
            if len(self._path) > len(self._open):
                self._ends[self._path.pop()[0]] = len(self._texts)
            self._open.pop()
            self._n_cells.pop()
            if kind == _LINE:
                self._in_line = self.in_pre = False
        elif kind == _LINK:
            self._leave_link()
        elif kind == _INNER:
            self._add_space()

    def finish(self) -> Blocks:
        """Returns what was found, after the root has been left."""
        if self.pieces:
            self._end_block()
        self._ends[0] = len(self._texts)
        return Blocks(
            self._texts,
            self._lines,
            BlockNumbers(*_columns(self._blocks, len(BlockNumbers._fields))),
            ElementNumbers(*_columns(self._elements, len(ElementNumbers._fields))),
            np.array(self._ends, dtype=np.intp),
            self._tags,
            self._names,
            self._list_starts,
        )

    # ------------------------------------------------------------ inline content

    def _enter_inline(self, node: LexborNode, tag: str) -> int:
        attributes = node.attributes
        if attributes:
            classes = attributes.get("class")
            if classes and not MARK_CLASSES.isdisjoint(classes.split()):
                return _SKIP
            if _is_hidden(attributes):
                return _SKIP
        if tag not in LINK_TAGS:
            return _INLINE
        self._links.append(len(self.pieces))
        return _LINK

    def _leave_link(self) -> None:
        start = self._links.pop()
        text = "".join(self.pieces[start:])
        if len(text) < 20 and text.strip() in LINK_MARKS:
            del self.pieces[start:]
        elif not self._links:
            n_chars = len("".join(text.split()))
            self._n_link_chars += n_chars
            n_in_all = self._n_chars_of_link + n_chars
            self._n_short_link_chars += n_in_all if n_in_all <= MAX_LINK_CHARS else 0
            self._n_chars_of_link = 0

    def _add_space(self) -> None:
        if not self.in_pre:
            self.pieces.append(" ")
        elif self.pieces and not self.pieces[-1].endswith("\n"):
            self.pieces.append("\n")

    # ------------------------------------------------------------ block elements

    def _enter_block(self, node: LexborNode, tag: str) -> int:
        if self._in_line:
            self._add_space()
            return _INNER
        attributes = node.attributes
        if not self._with_site and (tag in SITE_TAGS or (attributes and _is_of_site(attributes))):
            return _SKIP
        if self.pieces:
            self._end_block()
        cell = self._n_cells[-1]
        if tag in _CELL_TAGS:
            self._n_cells[-1] += 1
        self._n_cells.append(0)
        self._open.append((tag, attributes, cell))
        if tag in LINE_TAGS:
            self._in_line, self.in_pre = True, tag == "pre"
            return _LINE
        return _BLOCK

    def _end_block(self) -> None:
        """Ends the block at hand, if there is anything to see in it."""
        text = "".join(self.pieces)
        if self._links:
            n_chars = len("".join("".join(self.pieces[self._links[0] :]).split()))
            self._n_chars_of_link += n_chars
            self._n_link_chars += n_chars
            self._links = [0] * len(self._links)
        self.pieces.clear()
        line = " ".join(text.split())
        if not line:
            return
        for tag, attributes, cell in self._open[len(self._path) - 1 :]:
            self._note_element(tag, attributes, cell)
        self._texts.append(text)
        self._lines.append(line)
        n_words = line.count(" ") + 1
        self._blocks += (self._path[-1][0], len(line), n_words, self._n_link_chars, self._n_short_link_chars)
        self._n_link_chars = self._n_short_link_chars = 0

    def _note_element(self, tag: str, attributes: Attributes, cell: int) -> None:
        flags, classes, element_names = _judge(tag, attributes) if attributes else (0, "", "")
        parent, flags_above, signature_above = self._path[-1]
        flags |= flags_above | _FLAG_OF_TAG.get(tag, 0)
        look = (signature_above, tag, classes)
        signature = self._signatures.setdefault(look, len(self._signatures) + 1)
        index = len(self._tags)
        number = TAG_NUMBERS.get(tag, 0)
        self._elements += (parent, len(self._texts), len(self._path), number, flags, signature, cell)
        self._path.append((index, flags, signature))
        self._tags.append(tag)
        self._names.append(element_names)
        self._ends.append(0)
        if tag == "ol" and (start := attributes.get("start")):
            self._list_starts[index] = start


def _columns(rows: list[int], n_columns: int) -> Numbers:
    """Returns the columns of rows that stand one after another, shape (columns, rows)."""
    return np.ascontiguousarray(np.array(rows, dtype=np.intp).reshape(-1, n_columns).T)


def _is_of_site(attributes: Attributes) -> bool:
    return attributes.get("role") in SITE_ROLES or attributes.get("itemprop") == "breadcrumb"


def _judge(tag: str, attributes: Attributes) -> tuple[int, str, str]:
    """Returns the flags of an element, its class, and its class, id and itemprop as names.

    The id of a section, heading or term is what it says as a slug ("navigation", "related-work"), and says nothing;
    nor do ids with a number at the end, or the names of rows ("odd", "even").
    """
    classes = attributes.get("class") or ""
    element_names, flags = "" if tag in _ROW_TAGS else classes, 0
    if classes and _is_aside(classes):
        flags |= FLAGS["aside"]
    if (id := attributes.get("id")) and tag not in _SLUG_TAGS and not id[-1].isdigit() and "section" not in classes:
        element_names = f"{element_names} {id}"
    if "role" in attributes:
        flags |= _FLAG_OF_ROLE.get(attributes["role"] or "", 0)
    if "itemprop" in attributes:
        flags |= _FLAG_OF_ITEMPROP.get(attributes["itemprop"] or "", 0)
        element_names = f"{element_names} ip_{attributes['itemprop']}"
    if _is_hidden(attributes):
        flags |= FLAGS["hidden"]
    return flags, classes, element_names


def _is_hidden(attributes: Attributes) -> bool:
    return "hidden" in attributes or ("style" in attributes and _hides(attributes["style"] or ""))


@functools.lru_cache(maxsize=10_000)
def _hides(style: str) -> bool:
    return re.search(r"display\s*:\s*none", style) is not None


@functools.lru_cache(maxsize=10_000)
def _is_aside(classes: str) -> bool:
    return _ASIDE_CLASS.search(classes) is not None
