"""The crawl stage end to end: its own process, real connections, sites on the loopback interface."""

import ipaddress
import json
import signal
import ssl
import time
from collections import Counter
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from llm.data.common.warc_read import read_pages
from llm.data.web.config import CrawlConfig
from llm.data.web.site import serve
from tests.llm.data.web.crawling import TEST_SITE, crawl, html, site, start

PAGES = {path.relative_to(TEST_SITE).as_posix() for path in TEST_SITE.rglob("*.html")} - {"private/ledger.html"}


@pytest.fixture(scope="module")
def test_site():
    """The address of tests/site."""
    with serve(TEST_SITE, 0) as url:
        yield url


def config_for(url, **fields):
    """A crawl of one loopback site."""
    return {"seeds": [f"{url}index.html"], "allow_private": [url.removeprefix("http://").rstrip("/")], **fields}


@pytest.fixture(scope="module")
def crawled(test_site, tmp_path_factory):
    """A complete crawl of tests/site with 16 connections."""
    return crawl(tmp_path_factory.mktemp("crawl") / "16", config_for(test_site, n_connections=16))


def refusals(done):
    """URL -> reason."""
    return {row["url"]: row["reason"] for row in pq.read_table(done.out_dir / "refused.parquet").to_pylist()}


def test_the_test_site_is_fetched_whole_and_every_refusal_has_its_reason(crawled, test_site):
    pages = {page.url: page for page in read_pages(crawled.out_dir, 0, 10**6)}
    assert set(pages) == {test_site + path for path in PAGES}
    assert all(pages[test_site + path].body == (TEST_SITE / path).read_bytes() for path in PAGES)
    assert {page.content_type for page in pages.values()} == {"text/html"}
    assert refusals(crawled) == {
        f"{test_site}private/ledger.html": "robots: disallowed by robots.txt",
        f"{test_site}guide/nowhere.html": "http 404",
        f"{test_site}files/recipe.txt": "not html: text/plain",
        f"{test_site}files/loaf.png": "not html: image/png",
    }


def test_counts_balance(crawled):
    assert crawled.counts == {
        "unit": "urls",
        "n_in": len(PAGES) + 4,
        "n_out": len(PAGES),
        "dropped": {"http 404": 1, "not html": 2, "robots": 1},
        "figures": {"bytes": sum((TEST_SITE / path).stat().st_size for path in PAGES)},
    }


def test_progress_names_pages_stored_and_urls_known(crawled):
    lines = [json.loads(line) for line in (crawled.folder / "work/metrics.jsonl").read_text().splitlines()]
    assert (lines[-1]["step"], lines[-1]["of"]) == (len(PAGES), len(PAGES) + 4)
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)


def test_four_connections_give_the_same_bytes_as_sixteen(crawled, test_site, tmp_path):
    again = crawl(tmp_path / "4", config_for(test_site, n_connections=4))
    assert again.digest() == crawled.digest()
    assert again.counts == crawled.counts


def test_scrapy_is_silent(crawled):
    assert "scrapy" not in crawled.stderr()


OTHERS = (
    "/unasked",
    "/accent",
    "/unlucky",
    "/umlaut",
    "/teapot",
    "/moved",
    "/nowhere-else",
    "/error",
    "/flaky",
    "/copy",
    "/refresh",
)


def odd_site(path):
    """Answers that no good site gives."""
    page = {"Content-Type": "text/html"}
    if path == "/":
        return html("/good", "/short", "/noindex", "/nofollow", "/header", "/away", *OTHERS)
    if path == "/short":
        return lambda out: out.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 500\r\n\r\nab")
    return {
        "/good": (200, {}, b"<p>no type</p>"),
        "/noindex": html("/only-from-noindex", text="<meta name=robots content=noindex>"),
        "/only-from-noindex": html(text="found"),
        "/nofollow": html("/never", text="<meta name=robots content=nofollow>"),
        "/header": (200, {**page, "X-Robots-Tag": "none"}, b"<a href=/never>"),
        "/copy": (200, page, b"<link rel=canonical href=/original><a href=/from-copy>copy</a>"),
        "/from-copy": html(text="copied"),
        "/original": html(text="original"),
        "/refresh": html(text="<meta http-equiv=refresh content='0; url=/moved-here'>"),
        "/moved": (301, {"Location": "/moved-here"}, b""),
        "/moved-here": html(text="moved"),
        "/away": (302, {"Location": "http://elsewhere.example/"}, b""),
        "/nowhere-else": (302, {}, b""),
        "/accent": (200, {"Content-Type": "text/html; charset=\xe9\xff"}, b"<p>accent</p>"),
        "/unlucky": html(text="unlucky"),
        "/umlaut": (302, {"Location": "/br\u00f6tchen".encode().decode("latin-1")}, b""),
        "/br%C3%B6tchen": html(text="roll"),
        "/teapot": (418, page, b""),
        "/unasked": (304, {}, b""),
        "/error": (500, {"Content-Type": "text/plain"}, b"oops"),
    }.get(path, (404, {}, b""))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A crawl of the odd site; ("/flaky" answers 503 once.)"""
    flaky = iter([(503, {}, b"")])

    def answer(path):
        return next(flaky, html(text="well again")) if path == "/flaky" else odd_site(path)

    with site(answer) as running:
        config = {"seeds": [running.url], "allow_private": [running.place], "max_retries": 1}
        done = crawl(tmp_path_factory.mktemp("hostile") / "c", config, {"raise_on": "/unlucky"})
        reasons = {"/" + url.removeprefix(running.url): reason for url, reason in refusals(done).items()}
        pages = {"/" + page.url.removeprefix(running.url): page for page in read_pages(done.out_dir, 0, 99)}
        yield running, pages, reasons


def test_good_pages_of_a_bad_site_are_kept(hostile):
    _, pages, _ = hostile
    assert set(pages) == {
        *("/", "/good", "/moved-here", "/flaky", "/accent", "/br%C3%B6tchen"),
        *("/nofollow", "/only-from-noindex", "/original", "/from-copy"),
    }
    assert pages["/accent"].content_type == "text/html; charset=\xe9\xff"
    assert pages["/good"].content_type == ""
    assert pages["/flaky"].body.startswith(b"<p>well again")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/short", "failed: connection lost before the page was complete"),
        ("/noindex", "noindex: by the page"),
        ("/header", "noindex: by X-Robots-Tag"),
        ("/copy", "not canonical: the page calls itself {url}original"),
        ("/refresh", "redirect: to {url}moved-here (meta refresh)"),
        ("/moved", "redirect: to {url}moved-here"),
        ("/away", "redirect: to http://elsewhere.example/, which is outside the seeds' hosts"),
        ("/nowhere-else", "redirect: to no web address"),
        ("/umlaut", "redirect: to {url}br%C3%B6tchen"),
        ("/unlucky", "failed: could not be processed (RuntimeError)"),
        ("/teapot", "http 418"),
        ("/unasked", "http 304"),
        ("/error", "http 500"),
    ],
)
def test_odd_answers_are_refused_with_their_reason(hostile, path, reason):
    running, _, reasons = hostile
    assert reasons[path] == reason.format(url=running.url)


def test_what_may_pass_is_tried_again_and_nothing_else(hostile):
    running, _, _ = hostile
    tried = Counter(running.paths())
    again = {path for path, times in tried.items() if times > 1}
    assert again == {"/short", "/error", "/flaky"}
    assert max(tried.values()) == 2


@pytest.mark.slow
def test_a_budget_chooses_the_same_pages_however_fast_the_answers_come(test_site, tmp_path):
    budget = {"max_total_bytes": 60_000, "max_pages": 40}
    one = crawl(tmp_path / "1", config_for(test_site, n_connections=1, **budget))
    sixteen = crawl(tmp_path / "16", config_for(test_site, n_connections=16, **budget))
    assert sixteen.digest() == one.digest()
    assert sixteen.counts == one.counts
    assert 40_000 < one.counts["figures"]["bytes"] <= 60_000
    assert one.counts["dropped"]["byte budget"] > 0


def test_an_unreachable_seed_is_a_connection_error_with_cause_and_remedy(tmp_path):
    with site(lambda path: html()) as closed:
        pass
    config = {"seeds": [closed.url], "allow_private": [closed.place], "max_retries": 0}
    done = crawl(tmp_path / "c", config)
    assert done.error == (
        f"ConnectionError: crawl.seeds: no page could be stored from {closed.url}: failed: connection refused. "
        "Check that the site is up and the address right, then run again"
    )
    assert list(done.out_dir.iterdir()) == []
    assert list((done.folder / "work/segments").iterdir()) == []


def test_a_site_that_answers_500_says_so_and_is_tried_again_in_the_next_run(tmp_path):
    answers = [(500, {}, b"")] * 2

    with site(lambda path: (404, {}, b"") if path != "/" else answers.pop() if answers else html()) as running:
        config = {"seeds": [running.url], "allow_private": [running.place], "max_retries": 1}
        first = crawl(tmp_path / "c", config)
        assert first.error.startswith(
            f"ValueError: crawl.seeds: no page could be stored from {running.url}: http 500. "
        )
        assert list(first.out_dir.iterdir()) == []
        assert crawl(tmp_path / "c", config).counts["n_out"] == 1


def test_a_seed_that_was_missing_is_tried_again_in_the_next_run(tmp_path):
    answers = [(404, {}, b"")]

    with site(lambda path: (404, {}, b"") if path != "/" else answers.pop() if answers else html()) as running:
        config = {"seeds": [running.url], "allow_private": [running.place]}
        assert "http 404" in crawl(tmp_path / "c", config).error
        assert crawl(tmp_path / "c", config).counts["n_out"] == 1


def test_a_loopback_seed_must_be_allowed_by_name(test_site, tmp_path):
    done = crawl(tmp_path / "c", {"seeds": [test_site]})
    place = test_site.removeprefix("http://").rstrip("/")
    assert "ValueError" in done.error
    assert f"add '{place}' to allow_private" in done.error


@pytest.fixture
def self_signed(tmp_path):
    """A TLS context with a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    start, end = datetime(2020, 1, 1, tzinfo=UTC), datetime(2120, 1, 1, tzinfo=UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, end).add_extension(names, critical=False)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "server.pem").write_bytes(certificate + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    return context


def test_a_certificate_that_nobody_vouches_for_is_not_accepted(self_signed, tmp_path):
    with site(lambda path: html(), tls=self_signed) as running:
        config = {"seeds": [f"https://{running.place}/"], "allow_private": [running.place]}
        done = crawl(tmp_path / "c", config)
        assert "failed: the TLS certificate was not accepted" in done.error
        assert running.requests == []


def test_a_full_disk_and_a_sigterm_leave_nothing_behind_and_the_crawl_goes_on_later(crawled, test_site, tmp_path):
    config = config_for(test_site)
    full = crawl(tmp_path / "c", config, {"file_bytes": 200_000})
    assert "OSError" in full.error
    assert "run again: the crawl goes on where it stopped" in full.error
    assert list(full.out_dir.iterdir()) == []

    metrics = tmp_path / "c/work/metrics.jsonl"
    metrics.unlink()
    stopped = start(tmp_path / "c", {**config, "delay_s": 0.05})
    while not metrics.exists() or not metrics.read_text():
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(timeout=20) == 3
    assert list(full.out_dir.iterdir()) == []

    assert crawl(tmp_path / "c", config).digest() == crawled.digest()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": ()}, "seeds is empty"),
        ({"seeds": ("ftp://a.example/",)}, "seeds: 'ftp://a.example/' is not an http"),
        ({"seeds": ("a.example",)}, "seeds: 'a.example' is not"),
        ({"seeds": ("http://me:secret@a.example/",)}, "seeds holds an address with a user name or password"),
        ({"allow_private": ("127.0.0.1",)}, "allow_private: '127.0.0.1' is not allowed; allowed: 'host:port'"),
        ({"max_pages": 0}, "max_pages is 0"),
        ({"user_agent": "two\nlines"}, "user_agent"),
        ({"allow": ("(",)}, "allow: '(' is no regular expression"),
        ({"deny": ("ok", "[")}, "deny: '[' is no regular expression"),
        ({"retry_pause_s": -1}, "retry_pause_s is -1"),
        ({"max_pages_per_host": 0}, "max_pages_per_host is 0"),
    ],
)
def test_bad_configs_are_refused_with_the_field_and_what_is_allowed(fields, message):
    with pytest.raises(ValueError, match="allowed") as caught:
        CrawlConfig(**{"seeds": ("http://a.example/",), **fields})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "user_agent", ["me (me@uni.example)", "me/1.0 (+https://me.example/bot)", "me http://me.example", "a@b.example"]
)
def test_a_user_agent_with_a_contact_may_go_anywhere(user_agent):
    assert CrawlConfig(seeds=("http://a.example/",), user_agent=user_agent).user_agent == user_agent


@pytest.mark.parametrize("user_agent", ["sourdough/0.1", "sourdough (+me)", "me@home", "http://localhost"])
def test_one_without_may_only_go_to_what_is_ones_own(user_agent):
    own = {"seeds": ("http://127.0.0.1:8000/", "http://in.example/", "http://localhost/", "http://10.0.0.1/")}
    CrawlConfig(**own, allow_private=("127.0.0.1:8000", "in.example:80"), user_agent=user_agent)
    with pytest.raises(ValueError, match=r"user_agent is .*http://a\.example/ is somebody else's.*add an address"):
        CrawlConfig(seeds=("http://a.example/", "http://127.0.0.1:8000/"), user_agent=user_agent)


def test_equal_seeds_are_one():
    seeds = ("http://A.example", "http://a.example:80/#top", "http://a.example/x")
    config = CrawlConfig(seeds=seeds, user_agent="test (me@a.example)")
    assert config.seed_urls == ("http://a.example/", "http://a.example/x")
