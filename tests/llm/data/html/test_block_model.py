from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from llm.data.html.block_choice import MIN_PROBABILITY, MIN_WEIGHT, best_cut, chosen_blocks, main_range
from llm.data.html.block_columns import BEYOND, WordScores, block_columns, name_keys, text_keys
from llm.data.html.block_model import MODEL_FILE, BlockModel, block_model
from llm.data.html.blocks import Blocks, blocks_of

PROSE = "Flour and water stand in a warm place until wild yeast wakes up and the jar smells of sour apples. " * 3
NAMES = {"content": 20, "~side": -15, "~bar": -5}
TEXTS = {"share": -30, "share this": -12, "=home": -25, "flour": 9}


def page_of(html: str) -> Blocks:
    return blocks_of(LexborHTMLParser(html).body)


PAGE = page_of(
    f"""<body><ul class=menu><li><a href=/>Home</a><li><a href=/b>Share this</a></ul>
    <div class="content wide"><h1>Bread</h1><p>{PROSE}</p><p>{PROSE}</p><div class=side-bar><p>Share this<p>Home</div>
    <h2>More</h2><p>Flour 12 is <a href=x>sold</a> here.</p></div></body>"""
)
COLUMNS = block_columns(PAGE, WordScores(NAMES, TEXTS))


# ---------------------------------------------------------------- words


def test_keys_of_names_and_texts() -> None:
    assert name_keys("mainContent") == ["maincontent", "~main", "~content"]
    assert name_keys("post_list-item") == ["post_list-item", "~post", "~list", "~item"]
    assert name_keys("x" * 41) == []
    assert text_keys("Share this: 12 times, now") == ["share", "this", "0", "times", "share this", "this 0", "0 times"]
    assert text_keys("Home!") == ["home", "=home"]
    assert text_keys("…") == []


@given(st.lists(st.sampled_from(["share", "this", "home", "flour", "12", "other"]), max_size=6).map(" ".join))
def test_scores_of_a_text_are_those_of_its_keys(text: str) -> None:
    found = [TEXTS[key] for key in text_keys(text) if key in TEXTS]
    expected = (sum(found) / len(found), min(found), max(found)) if found else (0, 0, 0)
    assert WordScores(NAMES, TEXTS).of_text(text) == expected


def test_scores_of_names() -> None:
    scores = WordScores(NAMES, TEXTS)
    assert scores.of_names("content side-bar") == (20, -15, 0)
    assert scores.of_names("unknown") == (0, 0, 0)


# ---------------------------------------------------------------- columns against plain loops


def ancestors(block: int) -> list[int]:
    """The elements of a block, its own first, without the one around the root."""
    found, element = [], int(PAGE.blocks.element[block])
    while element:
        found.append(element)
        element = int(PAGE.elements.parent[element])
    return found


def test_every_column_has_a_finite_number_for_each_block() -> None:
    assert {values.shape for values in COLUMNS.values()} == {(len(PAGE.texts),)}
    assert all(np.isfinite(values).all() for values in COLUMNS.values())


def test_columns_of_the_text() -> None:
    words = [len(line.split()) for line in PAGE.lines]
    copies = Counter(PAGE.lines)
    assert COLUMNS["words"].tolist() == words
    assert COLUMNS["copies"].tolist() == [copies[line] for line in PAGE.lines]
    assert COLUMNS["page_words"].tolist() == [sum(words)] * len(words)
    assert COLUMNS["link_share"].tolist()[:3] == [1, 9 / 10, 0]
    around = [w * (1 - share) for w, share in zip(words, COLUMNS["link_share"], strict=True)]
    assert COLUMNS["around"] == pytest.approx([sum(around[max(0, i - 5) : i + 6]) for i in range(len(words))], abs=0.01)


def test_columns_of_names_sum_over_the_ancestors() -> None:
    scores = WordScores(NAMES, TEXTS)
    for block in range(len(PAGE.texts)):
        found = [scores.of_names(PAGE.names[element]) for element in ancestors(block)]
        assert COLUMNS["names_sum"][block] == pytest.approx(sum(mean for _, _, mean in found))
        assert COLUMNS["names_min"][block] == min(low for _, low, _ in found)


def test_columns_of_ancestors_hold_their_share_of_the_words() -> None:
    words = COLUMNS["words"]
    for block in range(len(PAGE.texts)):
        for level, element in enumerate(ancestors(block)[:3]):
            held = words[PAGE.elements.first[element] : PAGE.ends[element]].sum()
            assert COLUMNS[f"a{level}_words"][block] == pytest.approx(held / words.sum())


def test_columns_of_neighbours_are_shifted() -> None:
    total = COLUMNS["names_sum"].tolist()
    assert COLUMNS["b1_names_sum"].tolist() == [*total[1:], BEYOND]
    assert COLUMNS["b-2_names_sum"].tolist() == [BEYOND, BEYOND, *total[:-2]]


def test_columns_of_groups_count_what_looks_the_same() -> None:
    signatures = PAGE.elements.signature[PAGE.blocks.element].tolist()
    sizes = Counter(signatures)
    assert COLUMNS["group_blocks"].tolist() == [sizes[signature] for signature in signatures]


def test_one_block_is_enough() -> None:
    columns = block_columns(page_of("<p>x"), WordScores({}, {}))
    assert {values.shape for values in columns.values()} == {(1,)}


# ---------------------------------------------------------------- trees


def leaf_of(model: BlockModel, tree: int, row: dict[str, float]) -> float:
    node, n_inner = 0, model.feature.shape[1]
    while node < n_inner:
        value = row[model.columns[model.feature[tree, node]]]
        node = 2 * node + (1 if value <= model.threshold[tree, node] else 2)
    return float(model.leaf[tree, node - n_inner])


def test_trees_give_what_a_walk_down_each_gives() -> None:
    model = block_model()
    probabilities, columns = model.probabilities(PAGE)
    for block in range(len(PAGE.texts)):
        row = {name: float(values[block]) for name, values in columns.items()}
        log_odds = sum(leaf_of(model, tree, row) for tree in range(len(model.feature)))
        assert probabilities[block] == pytest.approx(1 / (1 + np.exp(-log_odds)), rel=1e-12)


def test_the_model_tells_prose_from_a_menu() -> None:
    page = page_of(
        f"""<header><ul class=menu><li class=menu-item><a href=/>Home</a><li class=menu-item><a href=/b>Share</a></ul>
        </header><article><h1>Bread</h1>{f"<p>{PROSE}</p>" * 6}</article>"""
    )
    probabilities, columns = block_model().probabilities(page)
    assert probabilities[:2].max() < 0.3 < 0.6 < probabilities[3:].min()
    assert chosen_blocks(page, main_range(page), probabilities, columns) == list(range(2, 9))


def test_a_page_without_blocks_has_no_probabilities() -> None:
    probabilities, columns = block_model().probabilities(page_of(""))
    assert (probabilities.shape, columns) == ((0,), {})


def test_the_model_file_says_what_it_is_and_is_small() -> None:
    values = json.loads(MODEL_FILE.read_text(encoding="utf-8"))
    assert "WCXB" in values["about"]["trained on"]
    assert MODEL_FILE.stat().st_size < 300_000
    assert set(values["columns"]) == set(COLUMNS)


# ---------------------------------------------------------------- the cut


@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.integers(0, 50)), min_size=1, max_size=12))
def test_no_other_cut_promises_a_better_f1(blocks: list[tuple[float, int]]) -> None:
    probabilities, words = (np.array(values, dtype=float) for values in zip(*blocks, strict=True))
    weights = np.maximum(words, MIN_WEIGHT)

    def expected_f1(cut: float) -> float:
        kept = probabilities >= cut
        hits = (probabilities * weights)[kept].sum()
        return 2 * hits / (weights[kept].sum() + (probabilities * weights).sum())

    cut = best_cut(probabilities, words)
    best = max(expected_f1(p) for p in probabilities)
    assert cut == pytest.approx(max(MIN_PROBABILITY, best / 2))
    if cut > MIN_PROBABILITY:
        assert expected_f1(cut) == pytest.approx(best)


# ---------------------------------------------------------------- what is decided together


def chosen(html: str, probability: dict[str, float]) -> list[str]:
    """The chosen lines of a page whose blocks have these probabilities by their text, else 0.9."""
    page = page_of(html)
    columns = block_columns(page, WordScores({"~bad": -30}, {}))
    probabilities = np.array([probability.get(line, 0.9) for line in page.lines])
    return [page.lines[block] for block in chosen_blocks(page, main_range(page), probabilities, columns)]


BAD = "<div class=bad>"  # so that no block is kept for having no bad name around it


def test_lists_and_tables_are_kept_or_left_whole() -> None:
    html = f"{BAD}<p>{PROSE}</p>{{}}</div><p>{PROSE} end</p>"
    rows = html.format("<table><tr><td>long words in a cell<td>b<tr><td>c<td>more words in it</table>")
    assert len(chosen(rows, {"b": 0.1, "c": 0.1})) == 6
    items = html.format("<div><ul><li>one two three four<li>b</ul></div>")
    assert len(chosen(items, {"b": 0.1})) == 4
    assert len(chosen(items, {"one two three four": 0.01, "b": 0.9})) == 2


def test_headings_terms_and_code_go_with_what_is_beside_them() -> None:
    html = f"{BAD}<h2>head</h2><p>{PROSE}</p><pre>code</pre><h2>last</h2></div><dl><dt>term<dd>{PROSE}</dl>"
    assert chosen(html, {"head": 0.3, "code": 0.05, "last": 0.05, "term": 0.05})[:3] == ["head", PROSE.strip(), "code"]
    assert "last" not in chosen(html, {"last": 0.05})


@pytest.mark.parametrize("side", ["<div hidden>{}</div>", "<aside>{}</aside>", "<form>{}</form>"])
def test_the_side_is_left_out_while_it_is_small(side: str) -> None:
    small = f"<p>{PROSE}</p>{side.format('<p>side</p>')}"
    assert "side" not in chosen(small, {})
    large = f"<p>short</p>{side.format(f'<p>{PROSE}</p>')}"
    assert PROSE.strip() in chosen(large, {})


def test_outside_of_the_marked_main_element_less_is_believed() -> None:
    html = f"<p>banner</p><main><p>{PROSE}</p><p>{PROSE}end</p></main>"
    assert chosen(html, {"banner": 0.6}) == [PROSE.strip(), f"{PROSE}end"]
    assert "banner" in chosen(html.replace("main>", "div>"), {"banner": 0.6})
