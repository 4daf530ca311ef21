"""Topics of Discourse forums, whose pages hold the posts only as JSON in an attribute that a script would show."""

from __future__ import annotations

import html
import json
from typing import Any

from selectolax.lexbor import LexborHTMLParser

ATTRIBUTE = "data-preloaded"
"""Holds JSON: for each name ("topic_123") once more JSON, with the posts in `post_stream.posts[].cooked`."""


def topic_html(source: str, tree: LexborHTMLParser) -> str:
    """Returns the topic of a Discourse page as HTML, an `article` a post; "" for any other page. Never raises."""
    if ATTRIBUTE not in source:
        return ""
    holder = tree.css_first(f"#{ATTRIBUTE}")
    preloaded = _parsed(holder.attributes.get(ATTRIBUTE)) if holder else {}
    for name, value in preloaded.items():
        if name.startswith("topic_") and (posts := _posts(topic := _parsed(value))):
            return f"<body><main><h1>{html.escape(str(topic.get('title') or ''))}</h1>{posts}</main></body>"
    return ""


def _posts(topic: dict[str, Any]) -> str:
    stream = topic.get("post_stream")
    posts = stream.get("posts") if isinstance(stream, dict) else None
    return "".join(_post(post) for post in posts if isinstance(post, dict)) if isinstance(posts, list) else ""


def _post(post: dict[str, Any]) -> str:
    text = post.get("cooked")
    if not isinstance(text, str) or not text:
        return ""
    writer = html.escape(str(post.get("username") or ""))
    return (
        f"<article class=topic-post><div class=topic-meta-data><span class=username>{writer}</span></div>"
        f"<div class='cooked post'>{text}</div></article>"
    )


def _parsed(value: object) -> dict[str, Any]:
    """Returns JSON as a dictionary; an empty one if it is anything else or broken."""
    try:
        found = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
