"""robots.txt is obeyed, also when forty requests wait for it at once."""

import time
from contextlib import ExitStack
from itertools import pairwise

import pyarrow.parquet as pq
import pytest
from protego import Protego

from llm.data.web.robots import MAX_CRAWL_DELAY_S, crawl_delay_s, product_token
from tests.llm.data.web.crawling import crawl, html, site

PAGES = 40


def page_site(robots):
    """A site of pages whose robots.txt is given by `robots()`."""
    return site(lambda path: robots() if path == "/robots.txt" else html())


def text(body, delay_s=0.0):
    """An answer that holds a robots.txt after a while."""

    def answer():
        time.sleep(delay_s)
        return 200, {"Content-Type": "text/plain"}, body

    return answer


@pytest.fixture(scope="module")
def crawled(tmp_path_factory):
    """One crawl of sites that differ in their robots.txt; (sites by name, their refusals by name)."""
    answers = iter([(503, {}, b""), (200, {"Content-Type": "text/plain"}, b"")])
    robots = {
        "closed": text(b"User-agent: *\nDisallow: /\n", delay_s=0.3),
        "partly": text(b"User-agent: *\nDisallow: /page1\nAllow: /page10\n"),
        "broken": lambda: (500, {}, b"User-agent: *\nAllow: /\n"),
        "recovering": lambda: next(answers),
        "absent": lambda: (404, {}, b"User-agent: *\nDisallow: /\n"),
        "slow": text(b"User-agent: *\nCrawl-delay: 0.6\n"),
        "other": text(b"User-agent: somebody\nDisallow: /\nUser-agent: sourdough\nDisallow: /page2\n"),
        "huge": text(b"User-agent: *\nAllow: /\n" + b"#" * 600_000),
        "strange": text(b"\xff\xfe\x00<html>Disallow: /"),
    }
    with ExitStack() as stack:
        sites = {name: stack.enter_context(page_site(answer)) for name, answer in robots.items()}
        n_pages = dict.fromkeys(robots, 3) | {"closed": PAGES, "partly": 12}
        seeds = [f"{sites[name].url}page{n}" for name in robots for n in range(n_pages[name])]
        config = {
            "seeds": seeds,
            "allow_private": [running.place for running in sites.values()],
            "n_connections": 256,
            "max_retries": 1,
        }
        done = crawl(tmp_path_factory.mktemp("robots") / "crawl", config)
        assert done.returncode == 0, done.stderr()
        rows = pq.read_table(done.out_dir / "refused.parquet").to_pylist()
        places = {running.url: name for name, running in sites.items()}
        refused = {name: {} for name in robots}
        for row in rows:
            base, _, path = row["url"].rpartition("/")
            refused[places[base + "/"]][path] = row["reason"]
        yield sites, refused


def test_forty_requests_at_once_to_a_closed_site_fetch_nothing(crawled):
    sites, refused = crawled
    assert sites["closed"].paths() == []
    assert refused["closed"] == {f"page{n}": "robots: disallowed by robots.txt" for n in range(PAGES)}


@pytest.mark.parametrize("name", ["closed", "partly", "absent", "slow", "other", "strange"])
def test_robots_txt_is_fetched_once(crawled, name):
    sites, _ = crawled
    assert [path for _, path in sites[name].requests].count("/robots.txt") == 1


def test_rules_are_followed_page_by_page(crawled):
    sites, refused = crawled
    assert set(refused["partly"]) == {"page1", "page11"}
    assert set(sites["partly"].paths()) == {f"/page{n}" for n in range(12)} - {"/page1", "/page11"}
    assert set(refused["other"]) == {"page2"}


@pytest.mark.parametrize("name", ["broken", "huge"])
def test_rules_that_cannot_be_had_forbid_everything(crawled, name):
    sites, refused = crawled
    assert sites[name].paths() == []
    assert len(refused[name]) == 3
    assert all(reason.startswith("robots: robots.txt") for reason in refused[name].values())


def test_rules_are_asked_for_again_and_then_the_pages_are_fetched(crawled):
    sites, refused = crawled
    assert refused["recovering"] == {}
    assert len(sites["recovering"].paths()) == 3
    assert [path for _, path in sites["recovering"].requests].count("/robots.txt") == 2


@pytest.mark.parametrize("name", ["absent", "strange"])
def test_no_rules_allow_everything(crawled, name):
    sites, refused = crawled
    assert refused[name] == {}
    assert len(sites[name].paths()) == 3


def test_the_crawl_delay_is_kept(crawled):
    sites, _ = crawled
    times = [when for when, path in sites["slow"].requests if path != "/robots.txt"]
    assert len(times) == 4, "three pages and a look for a sitemap"
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert min(gaps) > 0.3, "requests are timed when they arrive, on a busy machine up to 0.2 s late"
    assert sum(gaps) > 1.5


def test_a_host_that_asks_for_an_endless_delay_holds_up_no_other(tmp_path):
    with (
        page_site(text(b"User-agent: *\nCrawl-delay: 1e12\n")) as slow,
        page_site(text(b"User-agent: *\nCrawl-delay: 0.2\n")) as quick,
    ):
        config = {
            "seeds": [f"{running.url}page{n}" for running in (slow, quick) for n in range(6)],
            "allow_private": [slow.place, quick.place],
            "sitemaps": False,
            "n_connections": 2,
            "max_seconds": 4,
        }
        done = crawl(tmp_path / "c", config)
        assert done.counts["dropped"] == {"time limit": 5}
        assert (len(slow.paths()), len(quick.paths())) == (1, 6)
        times = [when for when, path in quick.requests if path != "/robots.txt"]
        assert times[-1] - times[0] < 3


@pytest.mark.parametrize(
    ("line", "delay_s"),
    [
        ("5", 5.0),
        ("0.5", 0.5),
        ("1e12", MAX_CRAWL_DELAY_S),
        ("-3", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("x", 0.0),
    ],
)
def test_crawl_delays_are_clamped(line, delay_s):
    assert crawl_delay_s(Protego.parse(f"User-agent: *\nCrawl-delay: {line}\n"), "sourdough") == delay_s


@pytest.mark.parametrize(
    "agent", ["sourdough/0.1", "sourdough/0.1 (+https://a.example/)", "sourdough", " sourdough (me@a.example)"]
)
def test_robots_txt_knows_the_crawler_by_its_name(agent):
    assert product_token(agent) == "sourdough"
