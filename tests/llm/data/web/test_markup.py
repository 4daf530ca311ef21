"""What a page tells a crawler: links, its own URL, where it sends its reader, what robots may not do."""

import time
from urllib.parse import quote

import pytest

from llm.data.clean import language
from llm.data.web.links import Scope, is_cut
from llm.data.web.markup import read_markup, robots_words

BASE = "http://a.example/docs/index.html"
SCOPE = Scope(["http://a.example/", "http://b.example/"])


def read(body, url=BASE, content_type="text/html"):
    """The markup of a page."""
    return read_markup(url, body.encode() if isinstance(body, str) else body, content_type, SCOPE, "sourdough")


def test_links_of_a_page_are_each_given_once_in_order():
    body = b"""<a href="two.html">2</a><a name=x>no</a><a href="/one.html#a">1</a><A HREF='one.html'>3</A>
    <a href="/one.html#b">1</a><a href="http://c.example/">out</a><a href="">self</a>
    <area href="no.html"><a href>none</a>"""
    assert read(body).links == (
        "http://a.example/docs/two.html",
        "http://a.example/one.html",
        "http://a.example/docs/one.html",
    )


def test_links_in_a_charset_that_is_not_declared_do_not_depend_on_the_clean_stage(monkeypatch):
    """The charset is the one whose language is certain; how certain a document must be of its language is not asked."""
    text = "Закваска живёт в банке на кухне. Каждое утро пекарь кормит её свежей мукой и тёплой водой."
    body = f'<p>{text}</p><a href="/хлеб.html">x</a>'.encode("cp1251")
    expected = ("http://a.example/" + quote("хлеб.html"),)
    assert read(body).links == expected
    monkeypatch.setattr(language, "CERTAIN", 2.0)
    assert read(body).links == expected


def test_a_base_element_moves_relative_links():
    assert read('<BASE href="/other/"><a href="x.html">x</a>').links == ("http://a.example/other/x.html",)


def test_a_base_that_is_no_address_is_ignored():
    assert read("<base href='http://['><a href='/x'>y</a>").links == ("http://a.example/x",)


def test_links_in_another_charset_are_read():
    body = '<a href="/b%C3%BC/ü.html">x</a>'.encode("utf-16-le")
    assert read(b"\xff\xfe" + body).links == ("http://a.example/b%C3%BC/%C3%BC.html",)
    assert read("<a href=/ü>".encode("latin-1")).links == ("http://a.example/%C3%BC",)


@pytest.mark.parametrize("body", [b"", b"\x00\xff<a href='\xff\xfe'>", b"<a href=x" * 1000, b"<div>" * 5000])
def test_no_page_breaks_the_reader(body):
    assert isinstance(read(body).links, tuple)


def test_a_page_nested_too_deep_has_no_links_and_costs_no_time():
    started = time.monotonic()
    assert read(b"<a href=x>y</a>" + b"<div>" * 100_000).links == ()
    assert time.monotonic() - started < 5


def test_a_link_that_is_too_long_is_cut_and_marked():
    (link,) = read(f"<a href='/{'x' * 10**6}'>").links
    assert is_cut(link)
    assert len(link) < 2100
    (link,) = read(f"<a href='/{'ü' * 1000}'>").links
    assert is_cut(link)


@pytest.mark.parametrize(
    ("markup", "canonical"),
    [
        ("<link rel=canonical href='/docs/'>", "http://a.example/docs/"),
        ("<link rel='nofollow Canonical' href='#top'>", None),
        ("<link rel=canonical href='http://b.example/x'>", None),
        ("<link rel=canonical href='http://c.example/x'>", None),
        ("<link rel=canonical href=''>", None),
        ("<link rel=canonical href='mailto:x'>", None),
        (
            "<link rel=canonical><link rel=canonical href=/first><link rel=canonical href=/second>",
            "http://a.example/first",
        ),
        ("<p>text<link rel=canonical href=/in-the-body>", None),
        ("<link rel=alternate href=/x>", None),
    ],
)
def test_the_canonical_url(markup, canonical):
    assert read(markup).canonical == canonical


@pytest.mark.parametrize(
    ("content", "redirect_to", "links"),
    [
        ("0; url=/new", "http://a.example/new", ("http://a.example/new",)),
        ("1;URL='new.html'", "http://a.example/docs/new.html", ("http://a.example/docs/new.html",)),
        ("0,/new", "http://a.example/new", ("http://a.example/new",)),
        ("5; url=/new", None, ("http://a.example/new",)),
        ("0", None, ()),
        ("300", None, ()),
        ("0; url=http://c.example/", "http://c.example/", ()),
        (f"0; url={BASE}", None, (BASE,)),
        ("0; url=javascript:alert(1)", None, ()),
        ("; ; ;", None, ()),
    ],
)
def test_a_refresh_at_once_is_a_redirect_and_a_later_one_a_link(content, redirect_to, links):
    markup = read(f'<meta http-equiv="Refresh" content="{content}">')
    assert (markup.redirect_to, markup.links) == (redirect_to, links)


def test_a_refresh_for_readers_without_scripts_is_no_redirect():
    assert read("<noscript><meta http-equiv=refresh content='0; url=/no-script'></noscript><p>x").redirect_to is None


@pytest.mark.parametrize(
    ("markup", "asks"),
    [
        ("<meta name=robots content='NOINDEX, follow'>", {"noindex", "follow"}),
        ("<meta name=Robots content=none>", {"none", "noindex", "nofollow"}),
        ("<meta name=sourdough content=noindex>", {"noindex"}),
        ("<meta name=googlebot content=noindex>", set()),
        ("<p>x<meta name=robots content=nofollow>", {"nofollow"}),
        ("<meta name=robots>", {""}),
    ],
)
def test_what_the_page_asks_robots(markup, asks):
    assert read(markup).asks == asks


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (["noindex, nofollow"], {"noindex", "nofollow"}),
        (["googlebot: noindex"], set()),
        (["Sourdough: noindex"], {"noindex"}),
        (["noarchive", "googlebot: nofollow", "noindex"], {"noarchive", "noindex"}),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST"], {"unavailable_after: 25 jun 2030 15:00:00 pst"}),
        (["none"], {"none", "noindex", "nofollow"}),
    ],
)
def test_what_a_header_asks_robots(headers, words):
    assert robots_words(headers, "sourdough") == words
