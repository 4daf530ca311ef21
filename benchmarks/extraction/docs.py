"""How much of a manual's definition terms, code and tables the extractor keeps.

    python -m benchmarks.extraction.docs --docs DIR [--pages 60]

DIR holds the HTML pages of a manual (Python's, PostgreSQL's, Rust's). Of each page the main element (`main`, `article`,
role=main, `#docContent`, `#main`; else the body without nav, header and footer) is taken; counted are the words of all
its `dt`, `pre` and `table` elements and of all of it, and how many of them are in the extracted text.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from selectolax.lexbor import LexborHTMLParser, LexborNode

from llm.data.clean.extract import extract

from .pages import word_list

MAIN = "[role=main], main, article, #docContent, #main"
NO_TEXT = ["script", "style", "nav", "footer", "svg", "button", "rustdoc-toolbar"]
PARTS = {"main element": "", "definition terms": "dt", "code": "pre", "tables": "table"}
MIN_WORDS = 5
"""Of a page with fewer words of a kind the share says nothing."""


def shares_kept(html: bytes) -> dict[str, float]:
    """For each part that the page has enough of, the share of its words that the text has, as multisets."""
    tree = LexborHTMLParser(html)
    tree.strip_tags(NO_TEXT)
    for mark in tree.css(".headerlink, .viewcode-link, .linenos, .src-numbers, .anchor, .navheader, .navfooter"):
        mark.decompose()
    root = tree.css_first(MAIN) or tree.body
    if root is None:
        return {}
    kept = Counter(word_list(extract(html).text))
    shares = {}
    for name, selector in PARTS.items():
        elements = _outermost(root, selector) if selector else [root]
        words = Counter(word_list(" ".join(_text(element) for element in elements)))
        if words.total() >= MIN_WORDS:
            shares[name] = (words & kept).total() / words.total()
    return shares


def _outermost(root: LexborNode, tag: str) -> list[LexborNode]:
    """The elements of a tag that lie in no other one (mdBook puts a `pre` into a `pre`)."""
    found = {element.mem_id: element for element in root.css(tag)}
    return [element for element in found.values() if element.parent is None or element.parent.mem_id not in found]


def _text(element: LexborNode) -> str:
    return element.text(separator="" if element.tag in ("dt", "pre") else " ")


def main() -> None:
    """Prints mean and least share of each part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--docs", type=Path, required=True, help="directory of HTML pages")
    parser.add_argument("--pages", type=int, default=60, help="so many of them, evenly")
    arguments = parser.parse_args()
    paths = sorted(arguments.docs.rglob("*.html"))
    found = {path: shares_kept(path.read_bytes()) for path in paths[:: max(1, len(paths) // arguments.pages)]}
    for name in PARTS:
        shares = {path: shares[name] for path, shares in found.items() if name in shares}
        if shares:
            worst = min(shares, key=lambda path: shares[path])
            mean = sum(shares.values()) / len(shares)
            print(f"{name}: {mean:.1%} of the words of {len(shares)} pages, least {shares[worst]:.1%} ({worst.name})")


if __name__ == "__main__":
    main()
