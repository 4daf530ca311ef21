from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.common.ngrams import split_words
from llm.data.decontaminate.decontaminate import (
    DecontaminateConfig,
    build_index,
    half_replaced,
    made_up_items,
    put_into,
)
from llm.data.decontaminate.ngram_index import NgramIndex, find_ngrams
from llm.data.user_files.benchmark_items import BenchmarkItem, benchmark_files, item_text, read_items

few_words = st.lists(st.sampled_from("abc"), max_size=12).map(" ".join)


def items_in(texts: Sequence[str], index: NgramIndex) -> set[tuple[int, int]]:
    """(text, item) of all hits."""
    found = find_ngrams(texts, index)
    owner, item = index.items_of(found[1].view(np.uint64))
    return set(zip(found[0][owner].tolist(), item.tolist(), strict=True))


def runs_of(words: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def brute_force(texts: list[str], items: list[str], ngram: int, min_words: int) -> set[tuple[int, int]]:
    hits = set()
    for i, text in enumerate(texts):
        for j, item in enumerate(items):
            words = split_words(item, punctuation=False)
            length = min(len(words), ngram)
            common = runs_of(words, length) & runs_of(split_words(text, punctuation=False), length)
            if len(words) >= min_words and common:
                hits.add((i, j))
    return hits


# ---------------------------------------------------------------- the index


@given(texts=st.lists(few_words, max_size=5), items=st.lists(few_words, max_size=5), min_words=st.integers(2, 4))
def test_hits_are_those_of_brute_force(texts: list[str], items: list[str], min_words: int) -> None:
    index = NgramIndex.build(list(enumerate(items)), 4, min_words, max_items=100)
    assert items_in(texts, index) == brute_force(texts, items, 4, min_words)


def test_hits_in_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    texts = [" ".join(f"w{rng.randrange(60)}" for _ in range(200)) for _ in range(50)]
    items = [" ".join(rng.choice(texts).split()[i : i + rng.randint(8, 20)]) for i in range(0, 180, 4)]
    index = NgramIndex.build(list(enumerate(items)), 13, 8, max_items=100)
    expected = brute_force(texts, items, 13, 8)
    assert len(expected) >= len(items)
    assert items_in(texts, index) == expected
    monkeypatch.setattr("llm.data.common.ngrams.BATCH_CHARS", 500)
    assert items_in(texts, index) == expected
    other = NgramIndex.build(list(enumerate(items)), 13, 8, max_items=100)
    np.testing.assert_array_equal(other.keys, index.keys)


def test_where_the_ngrams_stand() -> None:
    index = NgramIndex.build([(0, "b c d e"), (1, "x y")], 3, 2, max_items=10)
    found = find_ngrams(["a B, c! D e. b c d", "", "x", "y", "a (x) Y"], index)
    assert [(text, place, length) for text, _, place, length in found.T.tolist()] == [(0, 1, 3), (0, 2, 3), (4, 1, 2)]


def test_case_and_punctuation_do_not_count() -> None:
    index = NgramIndex.build([(0, "What's the “capital” of — France? It is: Paris.")], 13, 8, max_items=10)
    assert items_in(["so WHAT'S the capital of FRANCE (it is Paris)!"], index) == {(0, 0)}
    assert items_in(["What is the capital of France? It is Paris"], index) == set()


def test_what_many_items_share_is_not_looked_for() -> None:
    items = [(i, f"choose the right one of these four answers now {i} and {i} or {i}") for i in range(11)]
    index = NgramIndex.build(items, 5, 5, max_items=10)
    assert items_in(["choose the right one of these four answers now"], index) == set()
    assert items_in(["answers now 3 and 3 or 3"], index) == {(0, 3)}
    assert items_in(["the right one of these"], NgramIndex.build(items[:10], 5, 5, max_items=10)) == {
        (0, i) for i in range(10)
    }


def test_the_index_on_disk(tmp_path: Path) -> None:
    index = NgramIndex.build([(0, "b c d e"), (1, "x y"), (2, "c d e")], 3, 2, max_items=10)
    index.save(tmp_path / "index")
    loaded = NgramIndex.load(tmp_path / "index")
    assert loaded.lengths == index.lengths == (2, 3)
    assert items_in(["x y b c d e"], loaded) == {(0, 0), (0, 1), (0, 2)}


# ---------------------------------------------------------------- benchmark files


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"query": "Which?", "choices": ["no", "yes"], "gold": 1}, "Which? yes"),
        ({"context_options": ["Sarah", "Maria"], "continuation": "won.", "gold": 0}, "Sarah won."),
        ({"context": "The sky is", "continuation": "blue"}, "The sky is blue"),
        ({"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Ho."}]}, "Hi?\nHo."),
    ],
)
def test_forms_of_items(row: dict[str, Any], text: str) -> None:
    assert item_text(row) == text


def test_lines_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    rows = [{"context": f"line\u2028{i}\x85", "continuation": "x"} for i in range(3)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join([lines[0], "", *lines[1:], ""]), encoding="utf-8")
    assert [(item.benchmark, item.item) for item in read_items(path)] == [("quiz", 0), ("quiz", 2), ("quiz", 3)]


@pytest.mark.parametrize(
    "line", ["{", "[]", "3", '{"text": "x"}', '{"query": "x", "choices": ["a"], "gold": 1}', '{"context": "x"}']
)
def test_a_line_of_no_known_form_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "quiz.jsonl"
    path.write_text('{"context": "a", "continuation": "b"}\n' + line + "\n")
    with pytest.raises(
        ValueError, match=r"quiz.jsonl, line 2: not a benchmark item .*a line has query, choices and gold"
    ):
        read_items(path)


def test_a_line_of_an_item_is_looked_for_without_its_label() -> None:
    item = BenchmarkItem("quiz", 0, "Passage: Some text.\nQuestion: Who was the first to walk on the moon?\nAnswer: he")
    index = build_index([item], DecontaminateConfig(benchmarks=("quiz.jsonl",)))
    assert items_in(["A riddle. Who was the first to walk on the moon? I know."], index) == {(0, 0)}


def test_files_are_named_by_patterns(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / name).touch()
    names = [path.name for path in benchmark_files([f"{tmp_path}/b.jsonl", f"{tmp_path}/*.jsonl"])]
    assert names == ["b.jsonl", "a.jsonl"]
    with pytest.raises(ValueError, match=r"benchmarks has '.*none.jsonl', but there is no such file"):
        benchmark_files([f"{tmp_path}/none.jsonl"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jsonl").touch()
    with pytest.raises(ValueError, match=r"two files a\.jsonl"):
        benchmark_files([f"{tmp_path}/a.jsonl", f"{tmp_path}/other/a.jsonl"])


def test_settings_fit_each_other() -> None:
    with pytest.raises(ValueError, match="min_words is 14; allowed: up to ngram, which is 13"):
        DecontaminateConfig(min_words=14)


# ---------------------------------------------------------------- planted items


@given(text=few_words, addition=few_words)
def test_an_item_is_put_between_words(text: str, addition: str) -> None:
    words = put_into(text, addition).split()
    assert sorted(words) == sorted(text.split() + addition.split())


@given(text=few_words)
def test_half_the_words_replaced_leaves_no_two_in_a_row(text: str) -> None:
    assert not runs_of(text.split(), 2) & runs_of(half_replaced(text).split(), 2)


@pytest.mark.parametrize(("ngram", "min_words"), [(13, 8), (2, 2), (5, 5)])
def test_made_up_items_can_all_be_looked_for(ngram: int, min_words: int) -> None:
    config = DecontaminateConfig(ngram=ngram, min_words=min_words)
    items = made_up_items(config)
    assert np.unique(build_index(items, config).items).tolist() == list(range(len(items)))
