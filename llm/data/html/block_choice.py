"""Which blocks of a page make its main text, given how probable each is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .block_columns import Array
from .block_text import LIST_TAGS, data_tables
from .blocks import FLAGS, HEADING_TAGS, Blocks, Numbers

MIN_PROBABILITY = 0.2
"""No block below it is main text."""

MIN_WEIGHT = 0.3
"""The weight, in words, of a block without any."""

MAX_SIDE_SHARE = 0.4
"""What is hidden, aside or in a form is no main text while it is less of the page than this; else it may be all."""

OUTSIDE_FACTOR = 0.6
"""What a probability is worth outside of the element that the page marks as its main content."""

ALLOW_SCORE = -10.0
"""In that element a block is kept if no element around it has a name with log odds (in tenths) this low."""

DENY_SCORE, DENY_FACTOR = -15.0, 0.7
"""From this score down, what a name says counts once more."""

MAX_LINK_SHARE = 0.5
"""A block with a larger share of links is not kept for its innocence."""

LINK_LIST_SHARE, LINK_LIST_FACTOR, MIN_LINKS = 0.8, 0.7, 3
"""A list of so many items that are links is worth less, if no sentence announces it."""

MIN_MAIN_CHARS = 250
"""A marked element with less than this is a teaser or waits for a script to fill it, whatever the page calls it."""

WHOLE_TAGS = LIST_TAGS | {"dl"}


def chosen_blocks(
    page: Blocks, main: tuple[int, int] | None, probabilities: Array, columns: dict[str, Array]
) -> list[int]:
    """Returns the numbers of the blocks of the main text, ascending.

    `main` is `main_range`, `columns` are `block_columns`.
    """
    if not page.texts:
        return []
    words = columns["words"]
    lists, tables = _innermost_lists(page), [_blocks_in(page, table) for table, _ in data_tables(page)]
    flags = page.elements.flags[page.blocks.element]
    probabilities = _without_side(flags, probabilities, words)
    cut = best_cut(probabilities, words)
    bare_links = _bare_links(page, columns["link_share"], lists)
    allowed = (flags & SIDE_FLAGS == 0) & ((columns["link_share"] < MAX_LINK_SHARE) | (bare_links < 0))
    probabilities = np.where(bare_links > 0, probabilities * LINK_LIST_FACTOR, probabilities)
    probabilities = _judged_by_names(main, probabilities, columns, cut, allowed)
    probabilities = _decided_whole(probabilities, words, lists + tables)
    return np.flatnonzero(_with_company(page, probabilities, cut, tables)).tolist()


def main_range(page: Blocks) -> tuple[int, int] | None:
    """Returns the blocks (from, to) that the page marks as its article, else as its main content.

    None if it marks none.

    Of several articles it is the one with more text than all others; where there is none the page is a list of them.
    """
    parents, first, flags = page.elements.parent, page.elements.first, page.elements.flags
    n_chars = np.concatenate([[0], np.cumsum(page.blocks.n_chars)])
    for kind in (FLAGS["article"] | FLAGS["body_text"], FLAGS["main"]):
        marked = flags & kind != 0
        outermost = np.flatnonzero(marked & ~marked[parents])
        ranges = [(int(first[element]), int(page.ends[element])) for element in outermost]
        sizes = [int(n_chars[end] - n_chars[start]) for start, end in ranges]
        largest = max(sizes, default=0)
        if largest >= MIN_MAIN_CHARS and largest > 0.5 * sum(sizes):
            return ranges[sizes.index(largest)]
    return None


def best_cut(probabilities: Array, words: Array) -> float:
    """Returns the probability from which on blocks are kept, so that the expected F1 over words is largest.

    Keeping what is at least as probable as half of the best reachable F1 is optimal (Lewis, 1995; Lipton et al., 2014).
    There must be a block.
    """
    weights = np.maximum(words, MIN_WEIGHT)
    order = np.argsort(-probabilities, kind="stable")
    hits = np.cumsum((probabilities * weights)[order])
    expected_f1 = 2 * hits / (np.cumsum(weights[order]) + hits[-1])
    return max(MIN_PROBABILITY, float(expected_f1.max()) / 2)


SIDE_FLAGS = FLAGS["hidden"] | FLAGS["aside"] | FLAGS["form"] | FLAGS["dialog"]


def _without_side(flags: Numbers, probabilities: Array, words: Array) -> Array:
    """Returns the probabilities, 0 in side elements that hold little of the page, and beside a main element."""
    has_main = np.any(flags & (FLAGS["main"] | FLAGS["article"]))
    for kind in ("hidden", "aside", "form", "dialog"):
        inside = flags & FLAGS[kind] != 0
        if (kind == "aside" and has_main) or words[inside].sum() < MAX_SIDE_SHARE * words.sum():
            probabilities = np.where(inside, 0.0, probabilities)
    return probabilities


def _judged_by_names(
    main: tuple[int, int] | None,
    probabilities: Array,
    columns: dict[str, Array],
    cut: float,
    allowed: NDArray[np.bool_],
) -> Array:
    """Returns the probabilities after what marks and names say plainly; the trees know too little of it on small pages.

    Where the page marks its main content, that is kept but for what has the name of something else or is made of links;
    where it marks none, what has no bad name and no bad word. `allowed` says what may be kept so.
    """
    words = columns["words"]
    denied = columns["names_min"] <= DENY_SCORE
    if words[denied].sum() < MAX_SIDE_SHARE * words.sum():
        probabilities = np.where(denied, probabilities * DENY_FACTOR, probabilities)
    if main is None:
        allowed = allowed & (columns["names_min"] >= 0) & (columns["text_min"] >= ALLOW_SCORE)
        return np.where(allowed, 1.0, probabilities)
    inside = np.zeros(len(words), dtype=bool)
    inside[slice(*main)] = True
    likely = probabilities >= cut
    if words[likely & inside].sum() >= 0.5 * words[likely].sum():
        probabilities = np.where(inside, probabilities, probabilities * OUTSIDE_FACTOR)
    return np.where(inside & allowed & (columns["names_min"] > ALLOW_SCORE), 1.0, probabilities)


def _blocks_in(page: Blocks, element: int) -> slice:
    return slice(int(page.elements.first[element]), int(page.ends[element]))


def _bare_links(page: Blocks, link_share: Array, lists: list[slice]) -> Numbers:
    """Returns 1 for blocks in lists of nothing but links, -1 if a sentence announces them, else 0."""
    found = np.zeros(len(link_share), dtype=np.intp)
    for members in lists:
        if link_share[members].min() > LINK_LIST_SHARE:
            announced = members.start > 0 and page.lines[members.start - 1].endswith(":")
            found[members] = -1 if announced else int(members.stop - members.start >= MIN_LINKS)
    return found


def _innermost_lists(page: Blocks) -> list[slice]:
    """Returns the blocks of each list with no list in it."""
    lists = {index for index, tag in enumerate(page.tags) if tag in WHOLE_TAGS}
    parents = page.elements.parent.tolist() if lists else []
    outer = set()
    for index in lists:
        above = parents[index]
        while above and above not in lists:
            above = parents[above]
        outer.add(above)
    return [_blocks_in(page, index) for index in sorted(lists - outer)]


def _decided_whole(probabilities: Array, words: Array, groups: list[slice]) -> Array:
    """Returns the probabilities; in a table of data or a list their mean over the words for every block."""
    weights = np.maximum(words, MIN_WEIGHT)
    decided = probabilities.copy()
    for members in groups:
        if members.stop > members.start:
            decided[members] = np.average(probabilities[members], weights=weights[members])
    return decided


def _with_company(page: Blocks, probabilities: Array, cut: float, tables: list[slice]) -> list[bool]:
    """Returns whether each block is kept, most by their probability.

    A heading and a term go with what they announce; code, and tables of data that are likely, with a
    neighbour.
    """
    kept = (probabilities >= cut).tolist()
    likely = (probabilities >= cut / 2).tolist()
    tags = [page.tags[element] for element in page.blocks.element.tolist()]
    codes = [slice(block, block + 1) for block, tag in enumerate(tags) if tag == "pre"]
    for members in codes + [members for members in tables if any(likely[members])]:
        if any(kept[max(0, members.start - 1) : members.start] + kept[members.stop : members.stop + 1]):
            kept[members] = [True] * (members.stop - members.start)
    for block in range(len(kept) - 2, -1, -1):
        if kept[block + 1] and (tags[block] == "dt" or (tags[block] in HEADING_TAGS and likely[block])):
            kept[block] = True
    return kept
