"""Sitemaps: good, odd and hostile files, and a crawl of sites that have them."""

import gzip
import zlib
from contextlib import ExitStack

import pyarrow.parquet as pq
import pytest

from llm.data.common.warc_read import read_pages
from llm.data.web.sitemap import MAX_ENTRIES, Sitemap, guessed_sitemap, looks_like_sitemap, parse_sitemap
from tests.llm.data.web.crawling import crawl, html, site

XML = '<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{}</urlset>'


def urlset(*urls):
    """A sitemap."""
    return XML.format("".join(f"<url><loc>{url}</loc><priority>1</priority></url>" for url in urls)).encode()


def index(*urls):
    """A sitemap of sitemaps."""
    return f"<sitemapindex>{''.join(f'<sitemap><loc>{url}</loc></sitemap>' for url in urls)}</sitemapindex>".encode()


LAUGHS = b"""<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>
<urlset><url><loc>http://a/&b;&c;</loc></url></urlset>"""


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (urlset("http://a/1", "http://a/2"), Sitemap(("http://a/1", "http://a/2"), False)),
        (gzip.compress(urlset("http://a/1")), Sitemap(("http://a/1",), False)),
        (index("http://a/s.xml"), Sitemap(("http://a/s.xml",), True)),
        (urlset("\n http://a/?x=1&amp;y=2 \n"), Sitemap(("http://a/?x=1&y=2",), False)),
        (urlset("<![CDATA[http://a/3]]>"), Sitemap(("http://a/3",), False)),
        (b"http://a/1\r\nhttps://a/2 \n\nnot an address\n", Sitemap(("http://a/1", "https://a/2"), False)),
        (urlset(), Sitemap((), False)),
        (b"<?xml?><urlset><url><loc>http://a/1</loc></url><url><loc>http:", Sitemap(("http://a/1",), False)),
        (b"<urlset><loc>http://a/1</loc><image:loc>http://a/i.png</image:loc>", Sitemap(("http://a/1",), False)),
        (LAUGHS, Sitemap(("http://a/&b;&c;",), False)),
        (b"<html><a href=/>Not found</a></html>", None),
        (b"", None),
        (b"\x00\xff" * 1000, None),
        (urlset("x" * 100_000), Sitemap((), False)),
    ],
)  # fmt: skip
def test_entries(body, found):
    assert parse_sitemap(body, 10**6) == found


def test_only_so_many_entries_count():
    body = urlset(*(f"http://a/{n}" for n in range(MAX_ENTRIES + 7)))
    assert len(parse_sitemap(body, 10**8).entries) == MAX_ENTRIES


@pytest.mark.parametrize("body", [gzip.compress(bytes(10**7)), gzip.compress(gzip.compress(urlset("http://a/")))])
def test_bombs_are_refused(body):
    with pytest.raises(ValueError, match="more than 1000000 bytes"):
        parse_sitemap(body, 10**6)


def test_a_damaged_file_is_no_end_of_the_world():
    with pytest.raises(zlib.error):
        parse_sitemap(b"\x1f\x8b\x08\x00 not gzip at all", 10**6)
    assert parse_sitemap(gzip.compress(urlset("http://a/1") * 50)[:-20], 10**6).entries[0] == "http://a/1"


def test_names():
    assert guessed_sitemap("http://a.example:81/x/y?z") == "http://a.example:81/sitemap.xml"
    good = ["http://a/sitemap", "http://a/x/Sitemap_2.php?x=1", "http://a/feed.xml", "http://a/s.xml.gz"]
    assert all(map(looks_like_sitemap, good))
    assert not any(map(looks_like_sitemap, ["http://a/", "http://a/sitemap/page", "http://a/x.html"]))


@pytest.fixture(scope="module")
def crawled(tmp_path_factory):
    """Two sites with sitemaps, crawled together with two more; (site by name, pages by name, reasons by name)."""
    with ExitStack() as stack:
        sites = {}

        def declaring(path):
            home = sites["declaring"].url
            robots = f"User-agent: *\nDisallow: /secret\nSitemap: {home}all.xml\nSitemap: {home}gone\n"
            listed = (f"{home}hidden", f"{home}secret", f"{sites['plain'].url}island", "/relative")
            sitemaps = (f"{home}one.xml.gz", f"{home}all.xml", f"{home}bomb.xml.gz", "http://c.example/s")
            answers = {
                "/robots.txt": (200, {}, robots.encode()),
                "/all.xml": (200, {}, index(*sitemaps)),
                "/one.xml.gz": (200, {"Content-Type": "application/gzip"}, gzip.compress(urlset(*listed))),
                "/bomb.xml.gz": (200, {}, gzip.compress(bytes(30 * 2**20))),
            }
            found = html("/linked") if path in ("/", "/hidden", "/relative", "/linked") else (404, {}, b"")
            return answers.get(path, found)

        def plain(path):
            sitemap = urlset(f"{sites['plain'].url}listed", f"{sites['away'].url}from-plain")
            answers = {"/robots.txt": (404, {}, b""), "/sitemap.xml": (302, {"Location": "/sitemap-1.txt"}, b"")}
            answers["/sitemap-1.txt"] = (200, {}, sitemap)
            return answers.get(path, html())

        def away(path):
            moved = (302, {"Location": "/"}, b"")
            return {"/robots.txt": (404, {}, b""), "/sitemap.xml": moved}.get(path, html())

        for name, answer in {"declaring": declaring, "plain": plain, "away": away}.items():
            sites[name] = stack.enter_context(site(answer))
        config = {
            "seeds": [running.url for running in sites.values()],
            "allow_private": [running.place for running in sites.values()],
        }
        done = crawl(tmp_path_factory.mktemp("sitemap") / "c", config)
        counts, asked = done.counts, sites["declaring"].paths()
        pages = [page.url for page in read_pages(done.out_dir, 0, 99)]
        refused = {row["url"]: row["reason"] for row in pq.read_table(done.out_dir / "refused.parquet").to_pylist()}
        assert counts["n_in"] == len(pages) + len(refused)
        without = crawl(tmp_path_factory.mktemp("none") / "c", {**config, "sitemaps": False})
        yield sites, pages, refused, asked, [page.url for page in read_pages(without.out_dir, 0, 99)]


def paths(sites, urls, name):
    """The paths of the URLs of one site."""
    return {"/" + url.removeprefix(sites[name].url) for url in urls if url.startswith(sites[name].url)}


def test_pages_of_declared_and_customary_sitemaps_are_fetched(crawled):
    sites, pages, *_ = crawled
    assert paths(sites, pages, "declaring") == {"/", "/hidden", "/relative", "/linked"}
    assert paths(sites, pages, "plain") == {"/", "/listed", "/island"}
    assert paths(sites, pages, "away") == {"/", "/from-plain"}


def test_what_became_of_sitemaps_and_of_what_they_list_is_told(crawled):
    sites, _, refused, *_ = crawled
    home = sites["declaring"].url
    assert refused == {
        f"{home}secret": "robots: disallowed by robots.txt",
        f"{home}bomb.xml.gz": "too large: more than 10485760 bytes",
        f"{home}gone": "http 404",
    }


def test_everything_is_asked_for_once(crawled):
    *_, asked, _ = crawled
    assert sorted(asked) == sorted({*asked})
    assert {"/all.xml", "/one.xml.gz", "/gone"} <= {*asked}


def test_without_sitemaps_only_links_count(crawled):
    sites, *_, without = crawled
    assert sorted(without) == sorted([*(running.url for running in sites.values()), f"{sites['declaring'].url}linked"])
