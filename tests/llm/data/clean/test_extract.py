from __future__ import annotations

import random
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from llm.data.clean.extract import NOT_TEXT, TOO_DEEP, extract
from llm.data.html.charset import decode_html
from llm.data.html.depth import MAX_DEPTH

SITE = Path(__file__).parents[3] / "site" / "html"
PROSE = "Flour and water stand in a warm place until wild yeast wakes up and the jar smells of sour apples. " * 6


def main_text(inner: str) -> str:
    """What is extracted of `inner` after a long paragraph in `main`."""
    text = extract(f"<html><body><main><p>{PROSE}</p>{inner}</main></body></html>".encode()).text
    assert text.startswith(PROSE.strip())
    return text[len(PROSE.strip()) :].strip("\n")


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>a<b>b</b><i>c</i> d\n\n  e</p>", "abc d e"),
        ("<p>f<a href=x>g</a>, <code>h.i</code>(<em>j</em>)</p>", "fg, h.i(j)"),
        ("<p>one<br>two<br/><br>three</p>", "one\ntwo\n\nthree"),
        ("<h2>Head\n ing</h2><p>p</p><div>d<div>e</div>f</div>", "Head ing\n\np\n\nd\n\ne\n\nf"),
        ("<ul><li>a<li><p>b</p></ul><p>c</p>", "- a\n- b\n\nc"),
        ("<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>", "- a\n  - b\n- c"),
        ("<ol><li>a</li><li>b<ol start=7><li>c</ol></li><li>d</li></ol>", "1. a\n2. b\n  7. c\n3. d"),
        ("<ol start=1e999><li>a</ol><ol start=-2><li>b</ol>", "1. a\n1. b"),
        ("<pre>\n  if x:\n\n      y = [1,  2]   \n</pre>", "  if x:\n\n      y = [1,  2]"),
        ("<pre><span>a</span>  <b>b</b>\n\tc<br>d</pre>", "a  b\n\tc\nd"),
        ("<p>x\u00a0y\u200bz so\u00adft</p>", "x yz soft"),
        ("<p>&lt;b&gt; &amp;amp; &eacute; &#x1F35E;</p>", "<b> &amp; é 🍞"),
        ("<table><tr><th>a<th>b<tr><td>1 <b>2</b></td><td><p>3</p></td></table>", "a | b\n1 2 | 3"),
        ("<table><tr><td>a</td><td></td><td>c</td></tr></table>", "a |  | c"),
        ("<table><tr><td></td><td>|</td><td>or</td><td> </td></tr></table>", " | | | or"),
        ("<table><tr><td><pre>x\n y</pre></td><td>z</td></tr></table>", "x\n y\n\nz"),
        (
            "<dl><dt>f(<em>x</em>,\n <span>y</span>)</dt><dd><p>Does it.</p><p>Then.</p></dd></dl>",
            "f(x, y)\nDoes it.\n\nThen.",
        ),
        ("<dl><dt>a</dt><dt>b</dt><dd>both</dd><dt>c</dt><dd>d</dd></dl>", "a\nb\nboth\n\nc\nd"),
        ("<dl><dt>f(<dl><dd>x,</dd><dd>y</dd></dl>)</dt><dd>text</dd></dl>", "f( x, y )\ntext"),
        ("<p>a</p><!-- no --><script>no()</script><style>no</style><svg><text>no</text></svg><p>b</p>", "a\n\nb"),
        ("<blockquote>a<p>b</blockquote>", "a\n\nb"),
        ("<p>a<?dl ?>b</p>", "ab"),
        ("<p>a</p><p>&#8203;</p><ul><li>&shy;</ul><pre>\ufeff\n</pre><p>b</p>", "a\n\nb"),
        ("<p></p><ul><li></li></ul><table><tr><td></td></tr></table><pre>\n\n</pre>", ""),
    ],
)
def test_blocks(html: str, text: str) -> None:
    assert main_text(html) == text


WORD = st.text("abcdefghijk", min_size=1, max_size=5)


@given(st.lists(st.tuples(st.sampled_from(["b", "i", "a", "code", "span", "em", "x-y", "sub"]), WORD, st.booleans())))
def test_inline_markup_neither_breaks_lines_nor_moves_spaces(parts: list[tuple[str, str, bool]]) -> None:
    html = "".join(f"<{tag}>{word}</{tag}>" + "\n " * space for tag, word, space in parts)
    plain = "".join(word + " " * space for _, word, space in parts)
    assert main_text(f"<p>{html} end</p>") == " ".join((plain + " end").split())


# ---------------------------------------------------------------- what is left out

NAV = "<ul>" + "".join(f"<li><a href=/{i}>Page number {i}</a></li>" for i in range(9)) + "</ul>"


@pytest.mark.parametrize(
    "furniture",
    [
        "<nav>noise</nav>",
        "<footer><p>noise</p></footer>",
        "<aside>noise</aside>",
        "<div role=navigation>noise</div>",
        "<div role=search>noise</div>",
        "<div class='site-footer wide'>noise</div>",
        "<div class=siteFooter>noise</div>",
        "<div id=sidebar><p>noise</p></div>",
        "<div class=sphinxsidebar><p>noise</p></div>",
        "<div class=related><h3>noise</h3></div>",
        "<div hidden>noise</div>",
        "<div style='color:red; display: none'>noise</div>",
        "<noscript>noise</noscript>",
        "<template><p>noise</p></template>",
        "<button>noise</button>",
        "<h2 id=noise>kept<a class=headerlink href=#noise>¶</a></h2>",
        "<p>kept <a href=_modules/noise.html><span class=viewcode-link>[source]</span></a></p>",
        NAV.replace("Page", "noise"),
    ],
)
def test_furniture_is_left_out(furniture: str) -> None:
    text = main_text(f"<p>before</p>{furniture}<p>after</p>")
    assert text.replace("\n\nkept", "") == "before\n\nafter"


@pytest.mark.parametrize(
    "content",
    [
        "<section id=navigation><p>words</p></section>",
        "<div class=section id=sharing><p>words</p></div>",
        "<h2 id=menu>words</h2>",
        "<dl><dt id=tkinter.Menu>words</dt></dl>",
        "<div class=shareholders>words</div>",
        "<p>words <a href=x>link</a></p>",
        "<p>They include:</p><ul><li><a href=x>words</a></li><li><a href=y>more</a></li></ul>",
        "<ul><li><a href=x>PEP 584</a>, union operators for dictionaries: words</li></ul>",
    ],
)
def test_content_is_kept(content: str) -> None:
    assert "words" in main_text(content)


def test_an_element_that_holds_the_text_is_kept_whatever_its_name() -> None:
    html = f"<body><form class='content with-sidebar'><p>{PROSE}</p></form><p>More.</p></body>"
    assert PROSE.strip() in extract(html.encode()).text


@pytest.mark.parametrize("main", ["<main>{}</main>", "<div role=main>{}</div>", "<article>{}</article>"])
def test_the_marked_main_content_is_picked(main: str) -> None:
    html = f"<body><p>Banner words</p>{main.format(f'<p>{PROSE}</p>')}<p>Closing words</p></body>"
    assert extract(html.encode()).text == PROSE.strip()


def test_of_many_equal_articles_all_are_kept() -> None:
    articles = [f"<article><h2>Story {i}</h2><p>{PROSE}</p></article>" for i in range(3)]
    text = extract(f"<body><p>Top</p>{''.join(articles)}</body>".encode()).text
    assert [f"Story {i}" in text for i in range(3)] == [True] * 3


def test_a_short_main_falls_back_to_the_whole_body_without_its_furniture() -> None:
    html = f"<body><nav>Menu</nav><main><p>Loading</p></main><div><p>{PROSE}</p></div></body>"
    text = extract(html.encode()).text
    assert PROSE.strip() in text
    assert "Menu" not in text


def test_a_page_of_nothing_but_links_gives_its_links() -> None:
    assert "Page number 7" in extract(f"<body>{NAV}</body>".encode()).text


def test_a_short_page_is_not_filled_up_with_furniture() -> None:
    html = f"<body><nav>{NAV}</nav><main><p>Closed on Monday.</p></main><aside>{PROSE}</aside></body>"
    assert extract(html.encode()).text == "Closed on Monday."


# ---------------------------------------------------------------- title


@pytest.mark.parametrize(
    ("html", "title"),
    [
        ("<title> A &amp;\n B </title><h1>C</h1>", "A & B"),
        ("<body><h1>C <i>d</i></h1><svg><title>no</title></svg>", "C d"),
        ("<p>nothing", ""),
    ],
)
def test_title(html: str, title: str) -> None:
    assert extract(html.encode()).title == title


# ---------------------------------------------------------------- charset


@pytest.mark.parametrize(
    ("html", "content_type", "text"),
    [
        ("käse".encode(), "", "käse"),
        ("käse".encode(), "text/html; charset=iso-8859-1", "käse"),  # valid UTF-8 proves itself
        ("käse".encode("latin-1"), "", "käse"),
        ("5 €".encode("cp1252"), "text/html; charset=ISO-8859-1", "5 €"),
        ("хлеб".encode("cp1251"), 'text/html; charset="windows-1251"', "хлеб"),
        (b"<meta charset=koi8-r>" + "хлеб".encode("koi8-r"), "", "<meta charset=koi8-r>хлеб"),
        (b"<meta content='text/html; charset=Shift_JIS'>" + "小麦粉".encode("cp932"), "", None),
        ("小麦".encode("gb18030"), "text/html;charset=gb2312", "小麦"),
        (b"<meta charset=x>" + "é".encode("latin-1"), "text/html; charset=nonsense", "<meta charset=x>é"),
        ("é".encode("latin-1"), "text/html; charset=rot13", "é"),  # a codec of Python, but none of text
        ("\ufeffpão".encode("utf-16-le"), "text/html; charset=utf-8", "pão"),
        ("pão".encode("utf-16-be"), "text/html; charset=utf-16be", "pão"),
        ("\ufeffpão".encode(), "text/html; charset=windows-1251", "pão"),
        ("パン".encode("iso2022_jp"), "text/html; charset=iso-2022-jp", "パン"),
        ("pãoã".encode()[:-1], "", "pão"),  # cut in the middle of a character
        (b"a\xffb\x81", "text/html; charset=utf-8", "aÿb\ufffd"),  # no character in UTF-8: declared wrongly
        (b"", "", ""),
    ],
)
def test_charset(html: bytes, content_type: str, text: str | None) -> None:
    expected = "<meta content='text/html; charset=Shift_JIS'>小麦粉" if text is None else text
    assert decode_html(html, content_type) == expected


# ---------------------------------------------------------------- hostile pages


@pytest.mark.parametrize("tag", ["div", "b", "ul><li", "table><tr><td", "font size=1"])
def test_hundreds_of_thousands_of_nested_tags_are_refused_at_once(tag: str) -> None:
    start = time.perf_counter()
    assert extract(f"<{tag}>".encode() * 200_000 + b"deep").problem == TOO_DEEP
    assert extract(f"<{tag}></nothing>".encode() * 50_000).problem == TOO_DEEP
    assert time.perf_counter() - start < 10  # lexbor alone takes minutes


def test_deep_and_long_pages_are_read() -> None:
    deep = "<div>" * (MAX_DEPTH - 10) + PROSE + "</div>" * (MAX_DEPTH - 10)
    assert extract(deep.encode()).text == PROSE.strip()
    long = f"<p>unclosed <b>bold</b> {PROSE}<img src=x><br>" * 3_000
    assert extract(long.encode()).text.count("unclosed bold") == 3_000


def test_nesting_beyond_the_recursion_limit_is_walked() -> None:
    depth = 4_000  # few enough tags that the check of depth leaves them alone
    assert extract(("<i>" * depth + PROSE).encode()).text == PROSE.strip()


@pytest.mark.parametrize("tag", ["table><td", "article", "div class=sidebar", "ul><li", "a"])
def test_nesting_that_is_let_through_takes_no_minutes(tag: str) -> None:
    start = time.perf_counter()
    extract(f"<{tag}>".encode() * 4_900 + PROSE.encode())
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("seed", range(5))
def test_binary_dressed_as_html_is_not_text(seed: int) -> None:
    noise = random.Random(seed).randbytes(30_000)
    page = extract(b"<html><body><p>" + noise + b"</p></body></html>", content_type="text/html; charset=utf-8")
    assert (page.text, page.problem) == ("", NOT_TEXT)
    assert extract(b"\x89PNG\r\n\x1a\n" + noise).problem == NOT_TEXT


def test_a_few_control_characters_are_removed() -> None:
    html = f"<p>{PROSE}</p><p>a\x00b\x07c&#7;d\x0ce\r\nf</p><pre>g\r\nh</pre>"
    assert extract(html.encode()).text.endswith("abcd e f\n\ng\nh")


FRAGMENTS = [
    "<div>",
    "</div>",
    "<p>",
    "<table>",
    "<tr>",
    "<td>",
    "</table>",
    "<pre>",
    "</pre>",
    "<dl><dt>",
    "<dd>",
    "<br>",
]
FRAGMENTS += ["<li>", "<ul>", "</ul>", "<a href=x>", "</a>", "<h1>", "<main>", "<article>", "<svg>", "<!--", "-->", "<"]
FRAGMENTS += [
    "<template>",
    "<?dl ?>",
    "<select>",
    "<frameset>",
    "<plaintext>",
    "&#0;",
    "\x00",
    "word ",
    "\ud83d".encode("utf-8", "replace").decode(),
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=60))
def test_no_markup_breaks_it(fragments: list[str]) -> None:
    page = extract("".join(fragments).encode())
    assert page.text == page.text.strip("\n")
    assert "\x00" not in page.text


@given(st.binary(max_size=300), st.text(max_size=40))
def test_no_bytes_break_it(html: bytes, content_type: str) -> None:
    assert isinstance(extract(html, content_type=content_type).text, str)


def mutated(html: bytes, dice: random.Random) -> bytes:
    """A page damaged in one of the ways that networks, disks and people damage pages."""
    match dice.randrange(7):
        case 0:  # cut off
            return html[: dice.randrange(len(html))]
        case 1:  # flipped bytes
            damaged = bytearray(html)
            for _ in range(dice.randrange(1, 400)):
                damaged[dice.randrange(len(damaged))] = dice.randrange(256)
            return bytes(damaged)
        case 2:  # tags in another order
            parts = re.split(rb"(<[^>]*>)", html)
            tags = parts[1::2]
            dice.shuffle(tags)
            parts[1::2] = tags
            return b"".join(parts)
        case 3:  # tags lost
            return re.sub(rb"<[^>]*>", lambda tag: tag[0] if dice.random() < 0.7 else b"", html)
        case 4:  # NULs, and something without an end
            place = dice.randrange(len(html))
            return (
                html[:place]
                + b"\x00" * 50
                + dice.choice([b"<!--", b"<script>", b"<a href='", b"<title>"])
                + html[place:]
            )
        case 5:  # two pages in one
            return html[: dice.randrange(len(html))] + html[dice.randrange(len(html)) :]
    return html + dice.choice([b"<div>", b"<b>", b"<table><tr><td>", b"<ul><li>"]) * 60_000  # never closed


@pytest.mark.parametrize("seed", range(10))
def test_broken_pages_are_read_or_say_why_not(seed: int) -> None:
    dice = random.Random(seed)
    pages = [path.read_bytes() for path in sorted(SITE.rglob("*.html"))[seed::10]]
    outcomes = Counter()
    for _ in range(32):
        page = extract(mutated(dice.choice(pages), dice))
        assert page.problem in ("", NOT_TEXT, TOO_DEEP)
        assert not (page.problem and page.text)
        assert 0 <= page.link_share <= 1
        outcomes["read" if page.text else page.problem or "empty"] += 1
    assert outcomes.total() == 32
    assert outcomes["read"] > 10


def test_the_same_page_gives_the_same_text() -> None:
    html = (SITE / "guide" / "starter.html").read_bytes()
    assert extract(html) == extract(html)


@pytest.mark.parametrize("fragment", ["<li>x", "x", "<td>x", "<p>x", "</div>x<div>", "<dd>x", "<body>x"])
def test_fragments_are_read(fragment: str) -> None:
    assert extract(fragment.encode()).text.removeprefix("- ") == "x"


# ---------------------------------------------------------------- the site with known answers


NO_MARKS = str.maketrans("", "", "-|")


def site_pages() -> list[Path]:
    """Pages of prose: not the lists of links, the very short pages and the broken one."""
    pages = SITE.rglob("*.html")
    return sorted(page for page in pages if page.stem != "index" and page.parent.name not in ("news", "broken"))


@pytest.mark.parametrize("path", site_pages()[::3], ids=lambda path: path.stem)
def test_all_words_of_main_and_no_others(path: Path) -> None:
    html = path.read_bytes()
    soup = BeautifulSoup(html, "html.parser")
    main = soup.find("main") or soup.find("article") or soup.find(attrs={"role": "main"})
    assert main is not None
    for mark in main.select("script, style, nav, aside, footer, .headerlink, .viewcode-link"):
        mark.decompose()
    page = extract(html)
    # The marks of items and cells are ours, and get_text() puts nothing between blocks: compare what is not space.
    ours, theirs = ("".join(text.split()).translate(NO_MARKS) for text in (page.text, main.get_text()))
    assert ours == theirs
    paragraphs = [" ".join(paragraph.get_text().split()) for paragraph in main.find_all("p")]
    lines = {line.removeprefix("- ") for line in page.text.split("\n")}
    assert [paragraph for paragraph in paragraphs if paragraph not in lines] == []
    assert page.title == " ".join(soup.find("title").get_text().split())


def test_broken_markup_keeps_its_text() -> None:
    page = extract((SITE / "broken" / "kvass.html").read_bytes())
    assert "Stale rye bread is toasted until it is nearly black, drenched" in page.text
    assert "Rye bread | five hundred grams\nWater | four litres" in page.text
    assert "never text" not in page.text
    assert "Breads" not in page.text


def test_a_definition_reads_as_signature_and_description() -> None:
    html = f"""<main><h1>textwrap</h1><p>{PROSE}</p><dl class="py function">
    <dt class="sig sig-object py" id="textwrap.fill"><span class="sig-prename">textwrap.</span><span
    class="sig-name">fill</span><span class="sig-paren">(</span><em class="sig-param"><span class="n">text</span></em>,
    <em class="sig-param"><span class="n">width</span><span class="o">=</span><span>70</span></em><span
    class="sig-paren">)</span><a class="headerlink" href="#textwrap.fill">¶</a></dt>
    <dd><p>Wraps the single paragraph.</p><div class="highlight"><pre><span></span>wrap(text,
     70)
    </pre></div></dd></dl></main>"""
    assert extract(html.encode()).text.endswith(
        "\n\ntextwrap.fill(text, width=70)\nWraps the single paragraph.\n\nwrap(text,\n     70)"
    )
