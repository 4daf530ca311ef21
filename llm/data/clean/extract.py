"""The main text of an HTML page: one parse (lexbor), one walk into blocks, a small model that chooses among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from selectolax.lexbor import LexborHTMLParser

from ..html.block_choice import SIDE_FLAGS, chosen_blocks, main_range
from ..html.block_model import BlockModel, block_model
from ..html.block_text import text_of
from ..html.blocks import FLAGS, Blocks, blocks_of
from ..html.charset import decode_html
from ..html.depth import is_too_deep
from ..html.discourse import topic_html
from .control_characters import CONTROL_IN_HTML, MAX_NOISE

MIN_WORDS = 50
"""Of fewer words there is doubt whether they are the main text, and a gentler choice is tried."""

NOT_TEXT, TOO_DEEP = "not text", "nested too deep"


@dataclass(frozen=True)
class Page:
    """What a page says. Where it cannot be read `text` is "" and `problem` says why ("not text", "nested too deep")."""

    title: str
    text: str
    problem: str = ""
    link_share: float = 0.0
    """Share of the main element's characters that are links, from 0 to 1: near 1 for an index or a site map."""


def extract(html: bytes, *, url: str = "", content_type: str = "") -> Page:
    """Returns title and main text of a page; `content_type` is the HTTP header, which may name the charset.

    Paragraphs, headings and lists are separated by a blank line, list items ("- ") and table rows (cells joined by
    " | ") stand on a line each, the text of `pre` is verbatim. Never raises, whatever the bytes are. (`url` is not
    used: the choice rests on the page alone.)
    """
    return extract_with(block_model(), html, content_type)


def extract_with(model: BlockModel, html: bytes, content_type: str = "") -> Page:
    """As `extract`, by a model of your own."""
    source = decode_html(html, content_type)
    if NUL in source or REPLACEMENT in source:
        source, noise = _without_control_characters(source)
        if noise > MAX_NOISE:
            return Page("", "", NOT_TEXT)
    if is_too_deep(source):
        return Page("", "", TOO_DEEP)
    tree = LexborHTMLParser(source)
    page = _blocks_of_tree(source, tree)
    main = main_range(page)
    return Page(_title(tree), _main_text(page, main, tree, model), link_share=_link_share(page, main))


def page_blocks(source: str) -> Blocks:
    """Returns the blocks of a page that is not nested too deep, navigation and footer left out."""
    return _blocks_of_tree(source, LexborHTMLParser(source))


# ---------------------------------------------------------------- what is refused

NUL = "\x00"  # where it is not, other control characters are few, and left to the writer of the text
REPLACEMENT = "\ufffd"  # what decoding puts for bytes that mean nothing


def _without_control_characters(source: str) -> tuple[str, float]:
    """`source` without control characters, and the share of those and of replacement characters."""
    n_noise = len(CONTROL_IN_HTML.findall(source)) + source.count(REPLACEMENT)
    return (CONTROL_IN_HTML.sub("", source), n_noise / len(source)) if n_noise else (source, 0.0)


# ---------------------------------------------------------------- what is kept


def _blocks_of_tree(source: str, tree: LexborHTMLParser) -> Blocks:
    topic = topic_html(source, tree)
    if topic and not is_too_deep(topic):
        tree = LexborHTMLParser(topic)
    return blocks_of(tree.body)


def _main_text(page: Blocks, main: tuple[int, int] | None, tree: LexborHTMLParser, model: BlockModel) -> str:
    """The text of the blocks that the model chooses; of a page that has little of it, all that may be main text."""
    text = text_of(page, chosen_blocks(page, main, *model.probabilities(page)))
    if _n_words(text) >= MIN_WORDS:
        return text
    flags = page.elements.flags[page.blocks.element]
    in_main = flags & (FLAGS["main"] | FLAGS["article"]) != 0
    if in_main.any():
        everything = text_of(page, np.flatnonzero(in_main & (flags & SIDE_FLAGS == 0)).tolist())
    elif whole := _text_with_site(tree, model):
        return whole
    else:
        everything = text_of(page, np.flatnonzero(flags & SIDE_FLAGS == 0).tolist())
    return max(text, everything, key=_n_words) if _n_words(everything) < MIN_WORDS else text or everything


def _text_with_site(tree: LexborHTMLParser, model: BlockModel) -> str:
    """The text chosen when navigation and footer count too; "" if that is little or mostly links."""
    page = blocks_of(tree.body, with_site=True)
    chosen = chosen_blocks(page, main_range(page), *model.probabilities(page))
    text = text_of(page, chosen)
    n_link_chars = page.blocks.n_link_chars[chosen].sum()
    return text if _n_words(text) >= MIN_WORDS and n_link_chars < 0.5 * len(text) else ""


def _n_words(text: str) -> int:
    return len(text.split())


# ---------------------------------------------------------------- about the page


def _link_share(page: Blocks, main: tuple[int, int] | None) -> float:
    """Share of the main element's visible characters that stand in links; one never closed does not count."""
    inside = slice(*(main or (0, len(page.texts))))
    n_visible = int((page.blocks.n_chars - page.blocks.n_words + 1)[inside].sum())
    return min(1.0, int(page.blocks.n_short_link_chars[inside].sum()) / n_visible) if n_visible else 0.0


def _title(tree: LexborHTMLParser) -> str:
    """The page's title, else its first heading."""
    element = tree.css_first("head title") or tree.css_first("h1")
    return " ".join(element.text_lexbor().split()) if element else ""
