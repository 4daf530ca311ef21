"""A readable reference for the extractor, on BeautifulSoup: the visible text of each block, in document order."""

from __future__ import annotations

from bs4 import BeautifulSoup, Comment, Doctype, NavigableString, Tag


def words(text: str) -> frozenset[str]:
    """The words of `text` as a set."""
    return frozenset(text.split())


INVISIBLE = words("head script style template noscript svg math select textarea iframe object nav footer")
BLOCKS = words(
    """html body main article section aside header div p ul ol li dl dt dd table tbody tr td th caption pre blockquote
    form figure figcaption h1 h2 h3 h4 h5 h6"""
)
ONE_BLOCK = words("h1 h2 h3 h4 h5 h6 dt caption pre")


def visible_blocks(html: str | bytes) -> list[str]:
    """The blocks' texts with white space collapsed; block elements and nothing else cut them."""
    blocks = [""]
    _read(BeautifulSoup(html, "html.parser"), blocks, whole=False)
    return [text for text in (" ".join(block.split()) for block in blocks) if text]


def _read(parent: Tag, blocks: list[str], *, whole: bool) -> None:
    for child in parent.children:
        if isinstance(child, NavigableString):
            if not isinstance(child, Comment | Doctype):
                blocks[-1] += str(child)
        elif isinstance(child, Tag) and child.name not in INVISIBLE:
            cuts = child.name in BLOCKS and not whole
            if child.name == "br" or (child.name in BLOCKS and whole):
                blocks[-1] += " "
            if cuts:
                blocks.append("")
            _read(child, blocks, whole=whole or child.name in ONE_BLOCK)
            if child.name in BLOCKS and whole:
                blocks[-1] += " "
            if cuts:
                blocks.append("")
