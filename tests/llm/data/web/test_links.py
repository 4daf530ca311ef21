"""URLs: canonical forms, scope, and the links of a page."""

import pytest

from llm.data.web.links import Scope, canonical_url, parse_host_port

BASE = "http://a.example/docs/index.html"


@pytest.mark.parametrize(
    ("href", "url"),
    [
        ("b.html", "http://a.example/docs/b.html"),
        ("../c.html#part", "http://a.example/c.html"),
        ("#part", "http://a.example/docs/index.html"),
        (" b.html\n", "http://a.example/docs/b.html"),
        ("?q=1", "http://a.example/docs/index.html?q=1"),
        ("//B.Example", "http://b.example/"),
        ("HTTP://A.example:80/x", "http://a.example/x"),
        ("https://a.example:443/x", "https://a.example/x"),
        ("http://a.example:8080", "http://a.example:8080/"),
        ("b c.html", "http://a.example/docs/b%20c.html"),
        ("b%20c.html", "http://a.example/docs/b%20c.html"),
        ("ü.html", "http://a.example/docs/%C3%BC.html"),
        ("http://[::1]:8000/x", "http://[::1]:8000/x"),
        ("mailto:a@b.example", None),
        ("javascript:void(0)", None),
        ("file:///etc/passwd", None),
        ("data:text/html,x", None),
        ("http://user:secret@a.example/", None),
        ("http://a.example:99999/", None),
        ("http://[broken/", None),
        ("x" * 3000, None),
    ],
)
def test_canonical_url(href, url):
    assert canonical_url(BASE, href) == url
    assert url is None or canonical_url(url, url) == url


def test_scope_is_the_seeds_hosts_and_ports():
    scope = Scope(["http://a.example/x/", "http://127.0.0.1:8000/"])
    inside = ["http://a.example/y", "https://a.example/y", "http://127.0.0.1:8000/z"]
    outside = ["http://b.example/", "http://www.a.example/", "http://a.example:8000/", "http://127.0.0.1:8001/"]
    assert [scope.contains(url) for url in inside + outside] == [True] * 3 + [False] * 4
    assert scope.ports == {80, 8000}


def test_host_and_port():
    assert parse_host_port("LOCALHOST:8000") == ("localhost", 8000)
    assert parse_host_port("[::1]:80") == ("::1", 80)


@pytest.mark.parametrize(
    "text", ["", "localhost", "localhost:", ":80", "a:b", "a:99999", "http://a:80", "a:80/x", "u@a:80"]
)
def test_anything_but_host_and_port_is_refused(text):
    with pytest.raises(ValueError, match="host:port"):
        parse_host_port(text)
