"""What a page's markup tells a crawler: its links, the URL it calls its own, and what it asks robots not to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser, LexborNode

from ..html.charset import decode_html
from ..html.depth import is_too_deep
from .links import Scope, canonical_or_cut, canonical_url, host_of

MAX_REDIRECT_PAUSE_S = 1.0
"""A page that sends its reader on after a longer time is a page, and its target one of its links."""

_REFRESH = re.compile(
    r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*[;,\s]\s*(?:url\s*=\s*)?(['\"]?)(.*?)\2\s*$", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True)
class Markup:
    """What a page says to a crawler.

    `links` are the canonical URLs within the crawl that it links to, in order of first appearance (URLs that are too
    long are cut, see `links.is_cut`). `canonical` is the other URL on the same host that it calls its own.
    `redirect_to` is where it sends its reader at once. `asks` holds the words of its robots meta elements.
    """

    links: tuple[str, ...] = ()
    canonical: str | None = None
    redirect_to: str | None = None
    asks: frozenset[str] = frozenset()


def read_markup(url: str, body: bytes, content_type: str, scope: Scope, agent: str = "") -> Markup:
    """Returns the markup of the page at `url`; `agent` is the crawler's name, to which a robots meta element may speak.

    A page nested too deep for the parser gives an empty one.
    """
    source = decode_html(body, content_type)
    if is_too_deep(source):
        return Markup()  # the parser would take minutes
    tree = LexborHTMLParser(source)
    base = tree.css_first("base[href]") if re.search("<base", source, re.IGNORECASE) else None
    base_url = (canonical_url(url, base.attributes.get("href") or "") if base is not None else None) or url
    # Most links of a page differ in their fragment only: they are made one before the costly part.
    hrefs = dict.fromkeys((a.attrs.get("href") or "").partition("#")[0] for a in tree.tags("a"))
    found = dict.fromkeys(canonical_or_cut(base_url, href) for href in hrefs if href)
    metas = tree.tags("meta")
    pause_s, target = _refresh(metas, base_url)
    found |= {target: None}
    return Markup(
        links=tuple(link for link in found if link is not None and scope.contains(link)),
        canonical=_canonical(tree, url, base_url, scope),
        redirect_to=target if pause_s <= MAX_REDIRECT_PAUSE_S and target != url else None,
        asks=_asks(metas, agent),
    )


def _canonical(tree: LexborHTMLParser, url: str, base_url: str, scope: Scope) -> str | None:
    """Returns the URL of the first `<link rel="canonical">` in the head, if it is another one on the same host."""
    element = tree.head.css_first('link[rel~="canonical" i][href]') if tree.head is not None else None
    found = canonical_url(base_url, element.attributes.get("href") or "") if element is not None else None
    if found is None or found == url or not scope.contains(found):
        return None
    return found if host_of(found) == host_of(url) else None


def _refresh(metas: list[LexborNode], base_url: str) -> tuple[float, str | None]:
    """Returns seconds and target of `<meta http-equiv="refresh">`, unless it is for readers without scripts."""
    for element in metas:
        if (element.attributes.get("http-equiv") or "").strip().lower() == "refresh":
            match = _REFRESH.match(element.attributes.get("content") or "")
            if match and match[3] and not _is_within_noscript(element):
                return float(match[1]), canonical_url(base_url, match[3])
    return 0.0, None


def _is_within_noscript(element: LexborNode) -> bool:
    parent = element.parent
    while parent is not None:
        if parent.tag == "noscript":
            return True
        parent = parent.parent
    return False


def _asks(metas: list[LexborNode], agent: str) -> frozenset[str]:
    contents = [
        element.attributes.get("content") or ""
        for element in metas
        if (element.attributes.get("name") or "").strip().lower() in {"robots", agent.lower()} - {""}
    ]
    return robots_words(contents)


def robots_words(contents: Iterable[str], agent: str | None = None) -> frozenset[str]:
    """Returns the words of robots meta elements, or (with `agent`, the crawler's name) of X-Robots-Tag headers.

    "none" is spelled out. A header "otherbot: noindex" speaks to that crawler only.
    """
    words: set[str] = set()
    for content in contents:
        name, colon, rest = content.partition(":")
        is_addressed = bool(colon) and agent is not None and re.fullmatch(r"\s*[\w.-]+\s*", name) is not None
        if is_addressed and name.strip().lower() not in ("unavailable_after", "max-snippet", "max-image-preview"):
            if name.strip().lower() != (agent or "").lower():
                continue
            content = rest
        words |= {word.strip().lower() for word in content.split(",")}
    return frozenset(words | {"noindex", "nofollow"} if "none" in words else words)
