from __future__ import annotations

import html
import json
from typing import Any

import pytest
from selectolax.lexbor import LexborHTMLParser

from llm.data.clean.extract import extract
from llm.data.html.discourse import topic_html

POSTS = [
    "<p>My starter smells of <b>acetone</b> since Monday, and it no longer rises after I feed it. What is wrong?</p>",
    "<p>It is hungry. Feed it twice a day with equal weights of flour &amp; water, and keep it at 24 degrees.</p>",
]


def forum(preloaded: object, body: str = "<noscript>no</noscript>") -> str:
    attribute = html.escape(preloaded if isinstance(preloaded, str) else json.dumps(preloaded))
    return f'<html><title>Forum</title><body><div id="data-preloaded" data-preloaded="{attribute}"></div>{body}</body>'


def topic(posts: list[dict[str, Any]]) -> dict[str, str]:
    return {"site": "{}", "topic_12": json.dumps({"title": "Acetone <smell>", "post_stream": {"posts": posts}})}


def converted(source: str) -> str:
    return topic_html(source, LexborHTMLParser(source))


def test_posts_are_read_in_their_order() -> None:
    source = forum(topic([{"username": "ada", "cooked": POSTS[0]}, {"username": "bo", "cooked": POSTS[1]}]))
    found = LexborHTMLParser(converted(source))
    assert [post.text(strip=True) for post in found.css(".cooked p")][1].startswith("It is hungry. Feed it twice")
    assert found.css_first("h1").text() == "Acetone <smell>"
    text = extract(source.encode()).text
    assert text.index("smells of acetone since Monday") < text.index("flour & water")


def test_a_topic_without_posts_leaves_the_page_as_it_is() -> None:
    page = forum(topic([]), f"<main>{POSTS[0]}</main>")
    assert converted(page) == ""
    assert "acetone" in extract(page.encode()).text


@pytest.mark.parametrize(
    "preloaded",
    [
        "{broken",
        "[" * 100_000,
        "[]",
        "null",
        {"topic_1": "{broken"},
        {"topic_1": 7},
        {"topic_1": "[]"},
        {"topic_1": '{"post_stream": null}'},
        {"topic_1": '{"post_stream": {"posts": {"a": 1}}}'},
        {"topic_1": '{"post_stream": {"posts": [null, 1, {}, {"cooked": 3}]}}'},
    ],
)
def test_anything_else_is_no_topic(preloaded: object) -> None:
    source = forum(preloaded)
    assert converted(source) == ""
    assert extract(source.encode()).problem == ""


def test_a_topic_nested_too_deep_is_not_parsed() -> None:
    source = forum(topic([{"username": "x", "cooked": "<div>" * 20_000}]))
    assert extract(source.encode()).text == ""


def test_other_pages_are_not_touched() -> None:
    assert converted("<p>data-preloaded is an attribute") == ""
    assert converted("<p>plain") == ""
