"""The estimate of a page's depth, against the same estimate made tag by tag."""

import random
import re
from collections import Counter

import pytest

from llm.data.html import depth
from llm.data.html.depth import MAX_DEPTH, MAX_UNCHECKED_TAGS, is_too_deep

TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9:-]*)")


def largest_depth(source):
    """The largest number of elements that are open at once."""
    n_open, most = Counter(), 0
    for closing, tag in TAG.findall(source):
        name = tag.lower()[: depth.NAME_BYTES]
        if closing:
            n_open[name] -= n_open[name] > 0
        elif tag.lower() not in depth._UNNESTED_TAGS.split():
            n_open[name] += 1
        most = max(most, n_open.total())
    return most


@pytest.mark.parametrize("seed", range(60))
def test_random_tags(seed, monkeypatch):
    rng = random.Random(seed)
    monkeypatch.setattr(depth, "MAX_UNCHECKED_TAGS", 0)
    names = ["div", "DIV", "span", "a", "li", "p", "x-y", "blockquote", "blockquota", "br", "1", "ü", "", "h1"]
    closing = rng.uniform(0.3, 0.6)
    tags = [
        f"<{'/' * (rng.random() < closing)}{rng.choice(names)}{rng.choice(['>', ' x=<3>', '/>', ''])}"
        for _ in range(rng.randrange(1, 300))
    ]
    largest = largest_depth("".join(tags))
    for limit in (largest - 1, largest):
        monkeypatch.setattr(depth, "MAX_DEPTH", limit)
        assert is_too_deep("".join(tags)) == (limit < largest)


def test_deep_pages_with_few_tags_are_left_to_the_parser():
    assert not is_too_deep("<div>" * MAX_UNCHECKED_TAGS)
    assert is_too_deep("<div>" * (MAX_UNCHECKED_TAGS + 1))


def test_many_shallow_tags_are_fine_and_end_tags_without_start_hide_nothing():
    n = MAX_UNCHECKED_TAGS
    assert not is_too_deep("<p><br><li>" * n)
    assert not is_too_deep("<b></b>" * n)
    assert not is_too_deep("<" * n + "\ud800 <")
    assert is_too_deep("</i>" * n + "<i>" * (MAX_DEPTH + 1))
    assert is_too_deep("<i></b>" * n)
