"""The main text of an HTML page, by rules: one parse (lexbor) and one walk over the tree.

The walk turns inline content into blocks (a paragraph, a list item, a table row, code). An element is left out when its
tag, role, class or id says that it is furniture of the site, or when most of its text is links.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser, LexborNode

from .blocks import BLOCK_TAGS, MAX_LINK_CHARS, names, text_of
from .charset import decode_html
from .depth import is_too_deep

MIN_WORDS = 50
"""A main text of fewer words is doubted, and gentler rules are tried."""

MIN_MAIN_CHARS = 250
"""An element with less than this is a teaser or waits for a script to fill it, whatever the page calls it."""

MAX_NOISE = 0.01
"""Largest share of control and replacement characters in text."""

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
    """Title and main text of a page; `content_type` is the HTTP header, which may name the charset.

    Paragraphs, headings and lists are separated by a blank line, list items ("- ") and table rows (cells joined by
    " | ") stand on a line each, the text of `pre` is verbatim. Never raises, whatever the bytes are. (`url` is not used
    by these rules: it is there for extractors that know sites.)
    """
    source = decode_html(html, content_type)
    source, noise = _without_control_characters(source)
    if noise > MAX_NOISE:
        return Page("", "", NOT_TEXT)
    if is_too_deep(source):
        return Page("", "", TOO_DEEP)
    tree = LexborHTMLParser(source)
    title = _title(tree)
    tree.strip_tags(list(INVISIBLE_TAGS))
    if tree.body is None:
        return Page(title, "")
    root = _main_element(tree.body)
    return Page(title, _main_text(root, tree.body), link_share=_link_share(root))


# ---------------------------------------------------------------- what is refused

_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
REPLACEMENT = "\ufffd"  # what decoding puts for bytes that mean nothing


def _without_control_characters(source: str) -> tuple[str, float]:
    """`source` without control characters, and the share of those and of replacement characters."""
    n_noise = len(_CONTROL.findall(source)) + source.count(REPLACEMENT)
    return (_CONTROL.sub("", source), n_noise / len(source)) if n_noise else (source, 0.0)


# ---------------------------------------------------------------- which elements count

INVISIBLE_TAGS = names(
    "audio canvas datalist iframe math noscript object script select style svg template textarea video"
)
FURNITURE_TAGS = names("aside button dialog footer menu nav")
FURNITURE_ROLES = names("banner complementary contentinfo dialog menu menubar navigation search toolbar")
FURNITURE_WORDS = names(
    """ads advert advertisement author banner bio breadcrumb breadcrumbs byline comments consent cookie cookies
    copyright disqus editsection footer gdpr linenos login masthead menu metadata modal nav navbar navbox
    navigation newsletter outbrain pager pagination popover popular popup rail recent recommended related share
    sharing sidebar signature signup similar skip social sort sphinxsidebar sponsor sponsored subscribe taboola
    tags toolbar trending upsell"""
)
JUDGED_TAGS = BLOCK_TAGS | FURNITURE_TAGS | names("a span")
# Marks that Sphinx, MkDocs and wikis put beside headings and definitions.
LINK_MARKS = frozenset(["¶", "#", "§", "🔗", "[source]", "[docs]", "[edit]"])


def _main_text(root: LexborNode, body: LexborNode) -> str:
    """The text under the strictest rules that leave enough of it, else the longest that any rules leave."""
    best = ""
    for element, drop_link_lists in ((root, True), (root, False), (body, False)):
        best = max(best, _readable(element, drop_link_lists=drop_link_lists), key=_n_words)
        if _n_words(best) >= MIN_WORDS:
            return best
    return best


def _n_words(text: str) -> int:
    return len(text.split())


def _main_element(body: LexborNode) -> LexborNode:
    """The element that the page marks as its article, else as its main content, else the body.

    Of several articles it is the one with more text than all others; where there is none the page is a list of them.
    """
    for selector in ("article, [itemprop=articleBody]", "main, [role=main]"):
        marked = _outermost(body, selector)
        sizes = [_n_chars(element) for element in marked]
        largest = max(sizes, default=0)
        if largest >= MIN_MAIN_CHARS and largest > 0.5 * sum(sizes):
            return marked[sizes.index(largest)]
    return body


def _outermost(body: LexborNode, selector: str) -> list[LexborNode]:
    """The matching elements that lie in no other one, each once (css() gives one twice that matches two ways)."""
    matching = {element.mem_id: element for element in body.css(selector)}
    return [element for element in matching.values() if not any(above in matching for above in _ancestors(element))]


def _ancestors(element: LexborNode) -> Iterator[int]:
    """The memory ids of the elements that `element` lies in."""
    above = element.parent
    while above is not None:
        yield above.mem_id
        above = above.parent


def _readable(root: LexborNode, *, drop_link_lists: bool) -> str:
    """The text of `root` after the chosen rules."""
    total = _n_chars(root)

    def leave_out(element: LexborNode, tag: str) -> bool:
        if tag not in JUDGED_TAGS:
            return False
        if tag == "a" and element.text_lexbor().strip() in LINK_MARKS:
            return True
        if tag in FURNITURE_TAGS or element.attributes.get("role") in FURNITURE_ROLES:
            return True
        # What holds much of the text is not furniture, whatever it is called ("content-with-sidebar").
        return _looks_like_furniture(element, tag) and _n_chars(element) < 0.4 * total

    return text_of(root, leave_out, max_link_list=total // 2 if drop_link_lists else 0)


def _n_chars(element: LexborNode) -> int:
    return len(element.text_lexbor())


def _link_share(root: LexborNode) -> float:
    """Share of visible characters that stand in links; one that is too long (never closed) does not count."""
    n_chars = len("".join(root.text_lexbor().split()))
    lengths = [len("".join(link.text_lexbor().split())) for link in root.css("a[href]")]
    n_link_chars = sum(length for length in lengths if length <= MAX_LINK_CHARS)
    return n_link_chars / n_chars if n_chars else 0.0


def _looks_like_furniture(element: LexborNode, tag: str) -> bool:
    """Whether an element is a form, is hidden, or has a class or id that says it belongs to the site."""
    attributes = element.attributes
    if tag == "form" or "hidden" in attributes or "display:none" in (attributes.get("style") or "").replace(" ", ""):
        return True
    if tag in ("article", "main"):
        return False
    named = attributes.get("class") or ""
    # The id of a section is its heading as a slug ("navigation", "related-work") and says nothing.
    if tag == "div" and "section" not in named:
        named = f"{named} {attributes.get('id') or ''}"
    # What holds the page's title is not furniture ("article with-sidebar").
    return _has_furniture_word(named) and element.css_first("h1") is None


@functools.lru_cache(maxsize=100_000)
def _has_furniture_word(classes: str) -> bool:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", classes)
    return any(word.lower() in FURNITURE_WORDS for word in words)


def _title(tree: LexborHTMLParser) -> str:
    """The page's title, else its first heading."""
    element = tree.css_first("head title") or tree.css_first("h1")
    return " ".join(element.text_lexbor().split()) if element else ""
