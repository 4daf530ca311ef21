"""The frontier against a brute-force crawl of made-up webs, in any order of answers and with kills in between."""

import random
import sqlite3
from collections import deque

import pytest

from llm.data import frontier as frontier_module
from llm.data.crawl import CrawlConfig
from llm.data.frontier import FetchedPage, Frontier, Refusal

SEED = "http://a.example/"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(frontier_module, "RETRY_PAUSE_S", 0.0)


def make_web(n, seed):
    """A random web: URL -> (body or None for a missing page, links); some pages redirect (body is a URL)."""
    rng = random.Random(seed)
    urls = [SEED] + [f"http://{rng.choice('abc')}.example/{rng.randrange(10**6)}" for _ in range(n - 1)]
    web = {}
    for number, url in enumerate(urls):
        links = tuple(rng.sample(urls, 3)) + tuple(urls[number + 1 : number + 2])
        kind = rng.random()
        if number and kind < 0.1:
            web[url] = ("missing", ())
        elif number and kind < 0.2:
            web[url] = ("redirect", links[:1])
        else:
            web[url] = (b"x" * rng.randrange(1, 400), links)
    return web


def expected(web, *, max_pages=10**6, max_depth=100, max_total_bytes=10**9):
    """(stored URL -> depth, refused URL -> reason) of a crawl, written down level by level without any database."""
    stored, refused, level, known, n_asked, n_bytes = {}, {}, [SEED], {SEED}, 0, 0
    for depth in range(200):
        level = sorted(level)
        if depth > max_depth:
            return stored, refused | dict.fromkeys(level, "too deep")
        allowed, beyond = level[: max(0, max_pages - n_asked)], level[max(0, max_pages - n_asked) :]
        refused |= dict.fromkeys(beyond, "page budget")
        n_asked += len(level)
        found = []
        for position, url in enumerate(allowed):
            content, links = web[url]
            if content == "missing":
                refused[url] = "http 404"
            elif content == "redirect":
                refused[url] = "redirect"
                found += links
            elif n_bytes + len(content) > max_total_bytes:
                return stored, refused | dict.fromkeys(allowed[position:] + beyond, "byte budget")
            else:
                n_bytes += len(content)
                stored[url] = depth
                found += links
        level = [url for url in dict.fromkeys(found) if url not in known]
        known |= set(level)
        if not level:
            return stored, refused
    raise AssertionError("the web is deeper than 200")


def answer(frontier, row, web):
    """Settles a row as the web would."""
    content, links = web[row.url]
    if content == "missing":
        frontier.refuse(row, Refusal("http 404"))
    elif content == "redirect":
        frontier.refuse(row, Refusal("redirect", f"to {links[0]}", redirect_to=links[0]))
    else:
        frontier.store(FetchedPage(row, 200, (("Content-Type", "text/html"),), content, links, 0))


def run(work_dir, web, config, *, seed=0, kills=0.0, respond=answer):
    """Crawls with answers in random order; with probability `kills` per step the process forgets what it held."""
    rng = random.Random(seed)
    frontier, waiting = Frontier(work_dir, config.seed_urls, config), []
    while not frontier.finished:
        row = frontier.next_row() if len(waiting) < config.n_connections else None
        if row is not None:
            waiting.append(row)
        elif waiting:
            respond(frontier, waiting.pop(rng.randrange(len(waiting))), web)
        if rng.random() < kills:
            frontier.close()
            frontier, waiting = Frontier(work_dir, config.seed_urls, config), []
    frontier.verify_segments()
    stored = {page.url: page.depth for page in frontier.stored()}
    refused = {url: refusal.reason for url, refusal in frontier.refused()}
    assert frontier.n_known == len(stored) + len(refused)
    frontier.close()
    return stored, refused


BUDGETS = [
    {},
    {"max_pages": 37},
    {"max_depth": 2},
    {"max_total_bytes": 9000},
    {"max_pages": 90, "max_total_bytes": 14000},
]


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("kills", [0.0, 0.02], ids=["unbroken", "killed"])
@pytest.mark.parametrize("seed", [1, 2])
def test_any_order_of_answers_gives_the_level_by_level_crawl(tmp_path, budget, kills, seed):
    web = make_web(150, seed)
    config = CrawlConfig(seeds=(SEED,), n_connections=(1, 16)[seed % 2], **budget)
    assert run(tmp_path, web, config, seed=seed, kills=kills) == expected(web, **budget)


def test_a_failure_that_passes_changes_nothing(tmp_path):
    web = make_web(60, 5)
    failures = {url: number % 3 for number, url in enumerate(web)}

    def flaky(frontier, row, web):
        if row.attempts < failures[row.url]:
            frontier.refuse(row, Refusal("failed", "connection refused", transient=True))
        else:
            answer(frontier, row, web)

    config = CrawlConfig(seeds=(SEED,), max_retries=2, max_pages=50)
    assert run(tmp_path, web, config, seed=3, respond=flaky) == expected(web, max_pages=50)


def test_a_lasting_failure_is_refused_after_its_retries_and_tried_again_in_the_next_run(tmp_path):
    tries = []

    def fail(frontier, row, web):
        tries.append(row.attempts)
        frontier.refuse(row, Refusal("failed", "connection refused", transient=True))

    config = CrawlConfig(seeds=(SEED,), max_retries=2)
    assert run(tmp_path, {}, config, respond=fail) == ({}, {SEED: "failed"})
    assert tries == [0, 1, 2]
    assert run(tmp_path, {SEED: (b"x", ())}, config) == ({SEED: 0}, {})


def test_failures_wait_before_they_are_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(frontier_module, "RETRY_PAUSE_S", 60.0)
    config = CrawlConfig(seeds=(SEED,))
    frontier = Frontier(tmp_path, config.seed_urls, config)
    frontier.refuse(frontier.next_row(), Refusal("failed", transient=True))
    assert frontier.next_row() is None
    assert not frontier.finished
    assert 50 < frontier.pause_s() <= 60
    frontier.close()


def test_a_slow_host_leaves_connections_to_the_others(tmp_path):
    seeds = tuple(f"http://{host}.example/{number}" for host in "ab" for number in range(20))
    config = CrawlConfig(seeds=seeds, n_connections=8, delay_s=0)
    frontier = Frontier(tmp_path, config.seed_urls, config)
    web = dict.fromkeys(seeds, (b"x", ()))
    fetched, stuck, waiting = [], [], deque()
    while len(fetched) < 20:  # host a never answers
        row = frontier.next_row() if len(stuck) + len(waiting) < config.n_connections else None
        if row is not None:
            (stuck if row.host == "a.example" else waiting).append(row)
        else:
            fetched.append(waiting[0].url)
            answer(frontier, waiting.popleft(), web)
    assert fetched == sorted(url for url in seeds if "//b." in url)
    frontier.close()


@pytest.mark.parametrize("missing", [0, 1])
def test_the_byte_budget_holds_to_the_byte_and_stops_the_fetching(tmp_path, missing):
    others = tuple(f"{SEED}{number:03d}" for number in range(200))
    web = {SEED: (b"x" * 100, others)} | dict.fromkeys(others, (b"x" * 100, ()))
    fetched = []

    def count(frontier, row, web):
        fetched.append(row.url)
        answer(frontier, row, web)

    config = CrawlConfig(seeds=(SEED,), max_total_bytes=1000 - missing, delay_s=0)
    stored, refused = run(tmp_path, web, config, respond=count)
    assert list(stored) == [SEED, *others[: 9 - missing]]
    assert refused == dict.fromkeys(others[9 - missing :], "byte budget")
    assert len(fetched) < 10 + 2 * frontier_module.BATCH_ROWS + config.n_connections


@pytest.mark.parametrize(("delay_s", "at_once"), [(0, 16), (1, 2)])
def test_a_host_with_a_delay_gets_two_connections(tmp_path, delay_s, at_once):
    config = CrawlConfig(seeds=tuple(f"{SEED}{number}" for number in range(20)), delay_s=delay_s)
    frontier = Frontier(tmp_path, config.seed_urls, config)
    rows = [frontier.next_row() for _ in range(16)]
    assert sum(row is not None for row in rows) == at_once
    frontier.close()


def test_the_time_limit_refuses_what_is_left(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(frontier_module.time, "monotonic", lambda: now[0])

    def slow(frontier, row, web):
        now[0] += 1
        answer(frontier, row, web)

    others = tuple(f"{SEED}{number}" for number in range(9))
    web = {SEED: (b"x", others)} | dict.fromkeys(others, (b"x", ()))
    config = CrawlConfig(seeds=(SEED,), max_seconds=5, n_connections=1)
    stored, refused = run(tmp_path, web, config, respond=slow)
    assert len(stored) == 6
    assert set(refused.values()) == {"time limit"}


def test_start_up_removes_what_no_transaction_names_and_misses_what_one_does(tmp_path):
    config = CrawlConfig(seeds=(SEED,))
    run(tmp_path, {SEED: (b"x", ())}, config)
    orphan = tmp_path / "segments/000001.warc.gz"
    orphan.write_bytes(b"half a segment")
    Frontier(tmp_path, config.seed_urls, config).close()
    assert not orphan.exists()
    (tmp_path / "segments/000000.warc.gz").unlink()
    with pytest.raises(OSError, match=r"000000\.warc\.gz is gone.*crawl again"):
        Frontier(tmp_path, config.seed_urls, config)


def test_a_write_that_fails_names_nothing_and_the_crawl_goes_on_later(tmp_path, monkeypatch):
    config = CrawlConfig(seeds=(SEED,))
    web = {SEED: (b"x", ())}
    frontier = Frontier(tmp_path, config.seed_urls, config)
    row = frontier.next_row()
    with monkeypatch.context() as full:
        full.setattr(
            frontier_module, "encode_record", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left"))
        )
        answer(frontier, row, web)
        with pytest.raises(OSError, match="No space left"):
            frontier.commit()
    assert list((tmp_path / "segments").iterdir()) == []
    assert frontier.stored() == []
    frontier.close()
    assert run(tmp_path, web, config) == ({SEED: 0}, {})


def test_a_flipped_bit_in_the_journal_is_found_before_the_export(tmp_path):
    config = CrawlConfig(seeds=(SEED,))
    run(tmp_path, {SEED: (b"x" * 100, ())}, config)
    segment = tmp_path / "segments/000000.warc.gz"
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    frontier = Frontier(tmp_path, config.seed_urls, config)
    with pytest.raises(OSError, match=r"000000\.warc\.gz: missing or damaged"):
        frontier.verify_segments()
    frontier.close()


def test_the_database_is_durable_to_the_last_commit(tmp_path):
    config = CrawlConfig(seeds=(SEED,))
    frontier = Frontier(tmp_path, config.seed_urls, config)
    frontier.close()
    database = sqlite3.connect(tmp_path / "frontier.db")
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()
