"""A second crawl takes pages that have not changed from the first, and gives what a full crawl gives."""

import shutil

import pyarrow.parquet as pq
import pytest

from llm.data.web.crawl import earlier_crawl
from llm.data.web.revisit import EarlierCrawl
from llm.data.web.site import serve
from tests.llm.data.web.crawling import TEST_SITE, crawl, html, site


class Web:
    """A site whose pages can be changed: path -> (text, links)."""

    def __init__(self):
        self.pages = {"/": ("home", ("/same", "/edited", "/removed", "/odd"))}
        self.pages |= {f"/{name}": (name, ()) for name in ("same", "edited", "removed", "odd")}

    def edit(self):
        """One page changes and links to a new one, one goes."""
        self.pages["/edited"] = ("edited since", ("/new",))
        self.pages["/new"] = ("new", ("/same",))
        del self.pages["/removed"]

    def __call__(self, path):
        if path not in self.pages:
            return 404, {"Content-Type": "text/html"}, b"no"
        text, links = self.pages[path]
        status, headers, body = html(*links, text=text)
        odd = {"Content-Type": "text/html; charset=\xe9\xff", "Content-Language": "de", "X-Robots-Tag": "noarchive"}
        return status, {**headers, **odd} if path == "/odd" else headers, body


def config_for(running):
    """The crawl of one site."""
    return {"seeds": [running.url], "allow_private": [running.place]}


@pytest.fixture(scope="module")
def visited(tmp_path_factory):
    """A site that answers 304, crawled once and then edited; (site, artifact of the crawl)."""
    content = Web()
    with site(content, etags=True) as running:
        first = crawl(tmp_path_factory.mktemp("visited") / "1", config_for(running))
        assert first.counts["n_out"] == 5
        assert running.unchanged == []
        content.edit()
        yield running, first


@pytest.fixture(scope="module")
def full(visited, tmp_path_factory):
    """A full crawl of the edited site."""
    running, _ = visited
    return crawl(tmp_path_factory.mktemp("full") / "c", config_for(running))


def test_a_second_crawl_fetches_what_has_changed_and_equals_a_full_one(visited, full, tmp_path):
    running, first = visited
    running.unchanged.clear()
    again = crawl(tmp_path / "c", config_for(running), earlier=str(first.out_dir))
    assert sorted(running.unchanged) == ["/", "/odd", "/same"]
    assert again.counts == full.counts
    assert again.digest() == full.digest() != first.digest()
    rows = pq.read_table(again.out_dir / "fetched.parquet").to_pylist()
    reused = {"/" + row["url"].removeprefix(running.url) for row in rows if row["reused"]}
    assert reused == {"/", "/odd", "/same"}
    assert all(row["etag"] for row in rows)


def test_an_earlier_page_that_is_damaged_is_fetched_anew(visited, full, tmp_path):
    running, first = visited
    shutil.copytree(first.out_dir, tmp_path / "first")
    archive = tmp_path / "first/pages-00000.warc.gz"
    archive.write_bytes(archive.read_bytes()[:-60])
    again = crawl(tmp_path / "c", config_for(running), earlier=str(tmp_path / "first"))
    assert again.digest() == full.digest()
    assert "is missing or damaged" in again.stderr()


@pytest.mark.parametrize("name", ["fetched.parquet", "pages.parquet"])
@pytest.mark.parametrize("content", [None, b"no table"])
def test_an_artifact_that_cannot_be_read_costs_time_and_nothing_else(visited, tmp_path, caplog, name, content):
    shutil.copytree(visited[1].out_dir, tmp_path / "first")
    (tmp_path / "first" / name).unlink()
    if content is not None:
        (tmp_path / "first" / name).write_bytes(content)
    assert earlier_crawl(str(tmp_path / "first")) is None
    assert "all pages are fetched anew" in caplog.text
    assert earlier_crawl(None) is None


def test_unknown_pages_have_no_conditions(visited):
    running, first = visited
    earlier = EarlierCrawl(first.out_dir)
    assert set(earlier.conditions(f"{running.url}same")) == {"If-None-Match"}
    assert earlier.conditions(f"{running.url}other") == {}
    assert earlier.page(f"{running.url}other") is None
    assert earlier.page(running.url).body.startswith(b"<p>home")


@pytest.mark.slow
def test_last_modified_serves_as_well(tmp_path):
    folder = tmp_path / "site"
    shutil.copytree(TEST_SITE, folder)
    with serve(folder, 0) as url:
        config = {"seeds": [f"{url}index.html"], "allow_private": [url.removeprefix("http://").rstrip("/")]}
        first = crawl(tmp_path / "1", config)
        again = crawl(tmp_path / "2", config, earlier=str(first.out_dir))
    assert again.digest() == first.digest()
    assert sum(pq.read_table(again.out_dir / "fetched.parquet")["reused"].to_pylist()) == again.counts["n_out"] == 76
