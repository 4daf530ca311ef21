from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from llm.data.clean.extract import extract
from llm.data.html.block_text import data_tables, text_of
from llm.data.html.blocks import FLAGS, Blocks, blocks_of
from tests.llm.data.html.visible_text import visible_blocks

SITE = Path(__file__).parents[3] / "site" / "html"


def walked(html: str, *, with_site: bool = False) -> Blocks:
    return blocks_of(LexborHTMLParser(html).body, with_site=with_site)


WORDS = st.text("abcdé ", min_size=1, max_size=6)
INLINE = st.recursive(
    WORDS,
    lambda inner: st.tuples(st.sampled_from(["b", "a href=x", "span class=y", "code", "x-y"]), st.lists(inner)).map(
        lambda part: f"<{part[0]}>{''.join(part[1])}</{part[0].split()[0]}>"
    ),
    max_leaves=5,
)
PARAGRAPH = st.tuples(st.sampled_from(["p", "h2", "pre"]), st.lists(INLINE, max_size=4))
BLOCK = st.recursive(
    st.one_of(PARAGRAPH.map(lambda part: f"<{part[0]}>{''.join(part[1])}</{part[0]}>"), WORDS),
    lambda inner: st.tuples(st.sampled_from(["div", "section", "blockquote", "article"]), st.lists(inner)).map(
        lambda part: f"<{part[0]}>{''.join(part[1])}</{part[0]}>"
    ),
    max_leaves=8,
)


@given(st.lists(BLOCK, max_size=5))
def test_blocks_are_those_of_the_reference(parts: list[str]) -> None:
    html = "<body>" + "".join(parts) + "</body>"
    assert walked(html).lines == visible_blocks(html)


# html.parser, on which the reference stands, repairs broken markup in another way
SOUND_PAGES = [path for path in sorted(SITE.rglob("*.html"))[::7] if path.parent.name != "broken"]


@pytest.mark.parametrize("path", SOUND_PAGES, ids=lambda path: path.stem)
def test_blocks_of_pages_are_those_of_the_reference(path: Path) -> None:
    html = path.read_text()
    marks = [" ¶", "¶", " [source]", "[source]"]
    expected = visible_blocks(html)
    for mark in marks:
        expected = [block.replace(mark, "") for block in expected]
    assert walked(html).lines == [block for block in expected if block]


@given(st.lists(BLOCK, max_size=6))
def test_elements_nest(parts: list[str]) -> None:
    page = walked("".join(parts))
    parent, first, depth, *_ = page.elements
    for element in range(1, len(page.tags)):
        above = parent[element]
        assert above < element
        assert depth[element] == depth[above] + 1
        assert first[above] <= first[element] < page.ends[element] <= page.ends[above]
    inside = [first[element] <= block < page.ends[element] for block, element in enumerate(page.blocks.element)]
    assert all(inside)


def test_navigation_and_footer_are_walked_only_when_asked_for() -> None:
    html = "<nav>a</nav><div role=navigation>b</div><div role=contentinfo>c</div><footer>d</footer><p>e"
    assert walked(html).lines == ["e"]
    assert walked(html, with_site=True).lines == ["a", "b", "c", "d", "e"]


def test_links_are_counted_without_white_space() -> None:
    page = walked(f"<p>a <a href=x>bc d</a> <a href=y>{'long' * 50}</a></p><p><a href=z>{'e ' * 90}<p>f</a></p>")
    assert page.blocks.n_link_chars.tolist()[:2] == [3 + 200, 90]
    assert page.blocks.n_short_link_chars.tolist()[:2] == [3, 90]
    assert page.blocks.n_words.tolist()[:2] == [4, 90]


def test_elements_that_look_alike_have_the_same_signature() -> None:
    page = walked("<ul><li class=x>a<li class=x>b<li>c</ul><ol><li class=x>d</ol>")
    first, second, other, elsewhere = page.elements.signature[page.blocks.element].tolist()
    assert first == second
    assert len({first, other, elsewhere}) == 3


@pytest.mark.parametrize(
    ("html", "flag"),
    [
        ("<aside>x", "aside"),
        ("<div class='a sidebar'>x", "aside"),
        ("<div role=main>x", "main"),
        ("<div itemprop=articleBody>x", "body_text"),
        ("<ol><li>x", "list"),
        ("<div style='display : none'>x", "hidden"),
        ("<form><p>x", "form"),
    ],
)
def test_flags_come_down_from_the_elements_above(html: str, flag: str) -> None:
    page = walked(f"<div>{html}")
    assert page.elements.flags[page.blocks.element].tolist() == [FLAGS[flag]]


def test_cells_are_numbered_with_the_empty_ones() -> None:
    page = walked("<table><tr><td></td><td>a</td><td> </td><td><p>b</p></td></tr><tr><td>c</td></tr></table>")
    cells = [index for index, tag in enumerate(page.tags) if tag == "td"]
    assert page.elements.cell[cells].tolist() == [1, 3, 0]


@pytest.mark.parametrize(
    ("cells", "is_data"),
    [("<td>a<td>b", True), ("<td><p>a</p><td>b", True), ("<td><p>a</p><p>b</p>", False), ("<td><ul><li>a</ul>", False)],
)
def test_tables_with_short_cells_hold_data(cells: str, is_data: bool) -> None:
    assert bool(data_tables(walked(f"<table><tr>{cells}</table>"))) is is_data


def test_text_of_some_blocks_keeps_their_marks() -> None:
    page = walked("<ol><li>a<li>b<li>c</ol><table><tr><td>d<td>e<tr><td>f<td>g</table><dl><dt>h<dd>i</dl>")
    assert text_of(page, [1, 2, 4, 5, 7, 8]) == "2. b\n3. c\n\n | e\nf\n\nh\ni"
    assert text_of(page, []) == ""


def test_no_body_has_no_blocks() -> None:
    page = blocks_of(None)
    assert page.lines == []
    assert page.elements.parent.tolist() == [0]
    assert np.array(page.blocks).shape == (5, 0)


@pytest.mark.parametrize("path", sorted(SITE.rglob("*.html"))[::6], ids=lambda path: path.stem)
def test_every_word_stands_in_the_page_in_this_order(path: Path) -> None:
    html = path.read_bytes()
    visible = iter(" ".join(visible_blocks(html)).split())
    marks = re.compile(r"^ *(?:- |\d+\. )", re.MULTILINE)
    words = marks.sub("", extract(html).text).replace(" | ", " ").split()
    assert [word for word in words if word not in visible] == []  # `in` moves the iterator on
