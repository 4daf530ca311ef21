"""The frontier against a brute-force crawl of made-up webs, in any order of answers and with kills in between."""

import random
import sqlite3
from collections import deque
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from llm.data.web import frontier as frontier_module
from llm.data.web import journal as journal_module
from llm.data.web.config import CrawlConfig
from llm.data.web.frontier import Frontier
from llm.data.web.outcome import FetchedPage, Refusal

SEED = "http://a.example/"


def make_config(**fields):
    """A config for sites that only exist here."""
    polite = {"user_agent": "test (me@a.example)", "sitemaps": False, "delay_s": 0, "retry_pause_s": 0}
    return CrawlConfig(**{"seeds": (SEED,), **polite, **fields})


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


def expected(web, seeds=(SEED,), *, max_pages=10**6, max_depth=100, max_total_bytes=10**9, max_pages_per_host=10**6):
    """(stored URL -> depth, refused URL -> reason) of a crawl, written down round by round without any database."""
    hosts = [f"{name}.example" for name in "abc"]
    ledgers = {host: Ledger({}, {}, {}, set(), 0, 0, False) for host in hosts}
    cross_host = [(seed, 0) for seed in seeds]
    while True:
        for url, depth in sorted(cross_host, key=lambda found: found[1]):
            ledgers[urlsplit(url).netloc].waiting.setdefault(url, depth)
        waiting = [host for host in hosts if ledgers[host].left() and not ledgers[host].is_full]
        waiting = [host for host in waiting if ledgers[host].n_asked < max_pages_per_host]
        n_left = max_pages - sum(ledger.n_asked for ledger in ledgers.values())
        if not waiting or n_left <= 0:
            break
        n_bytes = (max_total_bytes - sum(ledger.n_bytes for ledger in ledgers.values())) // len(waiting)
        cross_host = []
        for place, host in enumerate(waiting):
            share = n_left // len(waiting) + (place < n_left % len(waiting))
            share = min(share, max_pages_per_host - ledgers[host].n_asked)
            cross_host += ledgers[host].crawl(web, share, ledgers[host].n_bytes + n_bytes, max_depth)
    for ledger in ledgers.values():
        if ledger.is_full:
            reason = "byte budget"
        else:
            reason = "host budget" if ledger.n_asked >= max_pages_per_host else "page budget"
        ledger.refused |= dict.fromkeys(ledger.left(), reason)
    return {u: d for ledger in ledgers.values() for u, d in ledger.stored.items()}, {
        u: r for ledger in ledgers.values() for u, r in ledger.refused.items()
    }


@dataclass
class Ledger:
    """One host of the brute-force crawl."""

    waiting: dict
    stored: dict
    refused: dict
    asked: set
    n_asked: int
    n_bytes: int
    is_full: bool

    def left(self):
        """URLs that wait to be fetched."""
        return [url for url in self.waiting if url not in self.asked and url not in self.refused]

    def crawl(self, web, n_pages, max_bytes, max_depth):
        """Goes through the host level by level; returns the links to other hosts."""
        cross_host = []
        while left := self.left():
            depth = min(self.waiting[url] for url in left)
            level = sorted(url for url in left if self.waiting[url] == depth)
            if depth > max_depth:
                self.refused |= dict.fromkeys(level, "too deep")
                continue
            level = level[:n_pages]
            if not level:
                break
            n_pages -= len(level)
            self.n_asked += len(level)
            found, cut = self.fetch(web, level, max_bytes)
            if cut is not None:
                self.waiting = {url: d for url, d in self.waiting.items() if d <= depth or url in self.asked}
                beyond = [url for url, d in self.waiting.items() if d == depth and url >= cut]
                earlier = self.asked - set(level)
                self.refused |= {url: "byte budget" for url in beyond if url not in earlier}
                self.is_full = True
                break
            for url in found:
                if urlsplit(url).netloc == urlsplit(level[0]).netloc:
                    self.waiting.setdefault(url, depth + 1)
                else:
                    cross_host.append((url, depth + 1))
        return cross_host

    def fetch(self, web, level, max_bytes):
        """Fetches the pages of a level; returns their links, and the page at which the bytes are used up."""
        found = []
        self.asked |= set(level)
        for url in level:
            content, links = web[url]
            if content == "missing":
                self.refused[url] = "http 404"
            elif content == "redirect":
                self.refused[url] = "redirect"
                found += links
            elif self.n_bytes + len(content) > max_bytes:
                return [], url
            else:
                self.n_bytes += len(content)
                self.stored[url] = self.waiting[url]
                found += links
        return found, None


def answer(frontier, row, web):
    """Settles a row as the web would."""
    content, links = web[row.url]
    if content == "missing":
        frontier.refuse(row, Refusal("http 404"))
    elif content == "redirect":
        frontier.refuse(row, Refusal("redirect", f"to {links[0]}", links=links[:1]))
    else:
        frontier.store(FetchedPage(row, 200, (("Content-Type", "text/html"),), content, links, 0))


def run(work_dir, web, config, *, seed=0, kills=0.0, respond=answer):
    """Crawls with answers in random order; with probability `kills` per step the process forgets what it held."""
    rng = random.Random(seed)
    frontier, waiting = Frontier(work_dir, config.seed_urls, config), []
    while not frontier.finished:
        row = frontier.next_row() if len(waiting) < config.n_connections else None
        if row is not None:
            frontier.set_pace(row.host, 0)
            waiting.append(row)
        elif waiting:
            respond(frontier, waiting.pop(rng.randrange(len(waiting))), web)
        if rng.random() < kills:
            frontier.close()
            frontier, waiting = Frontier(work_dir, config.seed_urls, config), []
    frontier.ledger.verify_segments()
    stored = {page.url: page.depth for page in frontier.ledger.stored()}
    refused = {url: refusal.reason for url, refusal in frontier.ledger.refused()}
    assert frontier.totals.n_known == len(stored) + len(refused)
    frontier.close()
    return stored, refused


BUDGETS = [
    {},
    {"max_pages": 37},
    {"max_depth": 2},
    {"max_total_bytes": 9000},
    {"max_pages": 90, "max_total_bytes": 14000},
    {"max_pages": 100, "max_pages_per_host": 40},
]
SEEDS = (SEED, "http://b.example/1", "http://b.example/2", "http://c.example/1")


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("kills", [0.0, 0.02], ids=["unbroken", "killed"])
@pytest.mark.parametrize("seeds", [(SEED,), SEEDS], ids=["one seed", "three hosts"])
@pytest.mark.parametrize("seed", [1, 2])
def test_any_order_of_answers_gives_the_crawl_of_each_host_for_itself(tmp_path, budget, kills, seeds, seed):
    web = make_web(150, seed)
    web |= {url: (b"x" * 50, tuple(web)[number::9]) for number, url in enumerate(SEEDS[1:])}
    config = make_config(seeds=seeds, n_connections=(1, 16)[seed % 2], **budget)
    assert run(tmp_path, web, config, seed=seed, kills=kills) == expected(web, seeds, **budget)


def test_a_failure_that_passes_changes_nothing(tmp_path):
    web = make_web(60, 5)
    failures = {url: number % 3 for number, url in enumerate(web)}

    def flaky(frontier, row, web):
        if row.attempts < failures[row.url]:
            frontier.refuse(row, Refusal("failed", "connection refused", transient=True))
        else:
            answer(frontier, row, web)

    config = make_config(max_retries=2, max_pages=50)
    assert run(tmp_path, web, config, seed=3, respond=flaky) == expected(web, max_pages=50)


def test_a_lasting_failure_is_refused_after_its_retries_and_tried_again_in_the_next_run(tmp_path):
    tries = []

    def fail(frontier, row, web):
        tries.append(row.attempts)
        frontier.refuse(row, Refusal("failed", "connection refused", transient=True))

    config = make_config(max_retries=2)
    assert run(tmp_path, {}, config, respond=fail) == ({}, {SEED: "failed"})
    assert tries == [0, 1, 2]
    assert run(tmp_path, {SEED: (b"x", ())}, config) == ({SEED: 0}, {})


def test_failures_wait_before_they_are_tried_again_and_hold_up_no_other_host(tmp_path):
    config = make_config(seeds=(SEED, "http://b.example/"), retry_pause_s=60)
    frontier = Frontier(tmp_path, config.seed_urls, config)
    first, second = frontier.next_row(), frontier.next_row()
    frontier.refuse(first, Refusal("failed", transient=True))
    frontier.store(FetchedPage(second, 200, (), b"x", ("http://b.example/2",), 0))
    following = frontier.next_row()
    assert (following.host, following.depth) == ("b.example", 1)
    answer(frontier, following, {following.url: (b"y", ())})
    assert frontier.next_row() is None
    assert not frontier.finished
    assert 50 < frontier.pause_s() <= 60
    frontier.close()


def test_a_second_failure_waits_twice_as_long(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(frontier_module.time, "monotonic", lambda: now[0])
    config = make_config(retry_pause_s=60, max_retries=2)
    frontier = Frontier(tmp_path, config.seed_urls, config)
    pauses = []
    while not frontier.finished:
        if (row := frontier.next_row()) is not None:
            frontier.refuse(row, Refusal("robots", transient=True))
        elif not frontier.finished:
            pauses.append(frontier.pause_s())
            now[0] += pauses[-1]
    assert pauses == [60, 120]
    frontier.close()


def test_a_slow_host_leaves_connections_to_the_others_through_all_their_levels(tmp_path):
    slow = [f"http://a.example/{number}" for number in range(20)]
    fast = [f"http://b.example/{number:02d}" for number in range(20)]
    config = make_config(seeds=(*slow, fast[0]), n_connections=8)
    frontier = Frontier(tmp_path, config.seed_urls, config)
    for host in ("a.example", "b.example"):
        frontier.set_pace(host, 0)
    web = {url: (b"x", tuple(fast[place + 1 : place + 2])) for place, url in enumerate(fast)}
    fetched, stuck, waiting = [], [], deque()
    while len(fetched) < 20:  # host a never answers, and host b is twenty levels deep
        row = frontier.next_row() if len(stuck) + len(waiting) < config.n_connections else None
        if row is not None:
            (stuck if row.host == "a.example" else waiting).append(row)
        else:
            fetched.append(waiting[0].url)
            answer(frontier, waiting.popleft(), web)
    assert fetched == fast
    assert len(stuck) == 7
    frontier.close()


def test_delays_run_for_each_host_and_a_waiting_host_holds_no_connection(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(frontier_module.time, "monotonic", lambda: now[0])
    seeds = tuple(f"http://{host}.example/{number}" for host in ("a", "b", "c") for number in range(4))
    config = make_config(seeds=seeds, n_connections=2, delay_s=1)
    frontier = Frontier(tmp_path, config.seed_urls, config)
    for host, pace in {"a": 10.0, "b": 0.0, "c": 3.0}.items():
        frontier.set_pace(f"{host}.example", pace)
    times = {host: [] for host in "abc"}
    while not frontier.finished:
        if (row := frontier.next_row()) is not None:
            times[row.host[0]].append(now[0])
            answer(frontier, row, dict.fromkeys(seeds, (b"x", ())))
        else:
            now[0] += frontier.pause_s()
    assert times == {"a": [0, 10, 20, 30], "b": [0, 1, 2, 3], "c": [0, 3, 6, 9]}
    frontier.close()


def test_before_robots_txt_is_read_a_host_gets_one_request(tmp_path):
    seeds = tuple(f"http://{host}.example/{number}" for host in "ab" for number in range(4))
    config = make_config(seeds=seeds)
    frontier = Frontier(tmp_path, config.seed_urls, config)
    assert [row and row.host for row in (frontier.next_row() for _ in range(3))] == ["a.example", "b.example", None]
    frontier.set_pace("a.example", 0)
    assert frontier.next_row().host == "a.example"
    frontier.close()


@pytest.mark.parametrize("missing", [0, 1])
def test_the_byte_budget_holds_to_the_byte_and_stops_the_fetching(tmp_path, missing):
    others = tuple(f"{SEED}{number:03d}" for number in range(200))
    web = {SEED: (b"x" * 100, others)} | dict.fromkeys(others, (b"x" * 100, ()))
    fetched = []

    def count(frontier, row, web):
        fetched.append(row.url)
        answer(frontier, row, web)

    config = make_config(max_total_bytes=1000 - missing, delay_s=0)
    stored, refused = run(tmp_path, web, config, respond=count)
    assert list(stored) == [SEED, *others[: 9 - missing]]
    assert refused == dict.fromkeys(others[9 - missing :], "byte budget")
    assert len(fetched) < 10 + 2 * frontier_module.BATCH_ROWS + config.n_connections


@pytest.mark.parametrize(("delay_s", "crawl_delay_s", "at_once"), [(0, 0, 16), (1, 0, 2), (0, 5, 1), (9, 5, 2)])
def test_a_host_with_a_delay_gets_two_connections_and_one_that_asks_for_it_one(
    tmp_path, monkeypatch, delay_s, crawl_delay_s, at_once
):
    now = [0.0]
    monkeypatch.setattr(frontier_module.time, "monotonic", lambda: now[0])
    config = make_config(seeds=tuple(f"{SEED}{number}" for number in range(20)), delay_s=delay_s)
    frontier = Frontier(tmp_path, config.seed_urls, config)
    frontier.set_pace("a.example", crawl_delay_s)
    rows = []
    for _ in range(16):
        rows.append(frontier.next_row())
        now[0] += 10
    assert sum(row is not None for row in rows) == at_once
    frontier.close()


TRAPS = {
    "http://a.example/a/b/a/b/a/b/a/b": "trap: a part of the path comes more than 3 times in a row",
    "http://a.example/" + "x/" * 25: "trap: the path has more than 20 parts",
    "http://a.example/private/x": "denied: by the pattern /private/",
    "http://a.example/other.php": "not allowed: by any pattern",
    "http://a.example/" + "x" * 2066 + "#": "url too long: more than 2083 characters",
    "http://a.example/d.html": "too deep",
    "http://a.example/q.html?n=3": "trap: more than 3 addresses that differ in their query only",
}


def test_every_refused_link_has_its_reason(tmp_path):
    variants = tuple(f"http://a.example/q.html?n={n}" for n in range(4))
    good = ("http://a.example/c.html", "http://a.example/a/b/a/b/a/b.html")
    web = {SEED: (b"x", (*TRAPS, *variants, *good)), good[0]: (b"x", ("http://a.example/d.html",))}
    web[SEED] = (b"x", tuple(url for url in web[SEED][1] if url != "http://a.example/d.html"))
    web |= dict.fromkeys((*variants, good[1]), (b"x", ()))
    rules = {"allow": ("html", "/$", "/b$", "/x", "private"), "deny": ("/private/",), "max_query_variants": 3}
    config = make_config(max_depth=1, **rules)
    stored, _ = run(tmp_path, web, config)
    assert set(stored) == {SEED, *good, *variants[:3]}
    frontier = Frontier(tmp_path, config.seed_urls, config)
    assert {url: refusal.text for url, refusal in frontier.ledger.refused()} == TRAPS
    frontier.close()


def canonical_crawl(work_dir, names):
    """Crawls pages that call themselves something else (URL path -> path); returns the paths that are stored."""
    web = {SEED: (b"x", tuple(SEED + path for path in names))}

    def respond(frontier, row, web):
        if row.url == SEED:
            answer(frontier, row, web)
        elif (canonical := names[row.url.removeprefix(SEED)]) == "missing":
            frontier.refuse(row, Refusal("http 404"))
        else:
            page = FetchedPage(row, 200, (), b"x", (), 0, canonical and SEED + canonical)
            frontier.store(page)

    stored, refused = run(work_dir, web, make_config(), respond=respond)
    assert set(refused.values()) <= {"not canonical", "http 404"}
    return {url.removeprefix(SEED) for url in stored} - {""}


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        ({"a": "b", "b": None}, {"b"}),
        ({"a": "b", "b": "c", "c": None}, {"c"}),
        ({"a": "b", "b": "a"}, {"a", "b"}),
        ({"a": "b", "b": "c", "c": "b"}, {"a", "b", "c"}),
        ({"a": "b", "b": "missing"}, {"a"}),
        ({"a": "nowhere"}, {"a"}),
        ({"a": "b", "b": "c", "c": "missing"}, {"b"}),
    ],
)
def test_a_page_gives_way_to_the_one_it_names_if_that_is_there(tmp_path, names, kept):
    assert canonical_crawl(tmp_path, names) == kept


def test_the_time_limit_refuses_what_is_left(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(frontier_module.time, "monotonic", lambda: now[0])

    def slow(frontier, row, web):
        now[0] += 1
        answer(frontier, row, web)

    others = tuple(f"{SEED}{number}" for number in range(9))
    web = {SEED: (b"x", others)} | dict.fromkeys(others, (b"x", ()))
    config = make_config(max_seconds=5, n_connections=1)
    stored, refused = run(tmp_path, web, config, respond=slow)
    assert len(stored) == 6
    assert set(refused.values()) == {"time limit"}


def test_start_up_removes_what_no_transaction_names_and_misses_what_one_does(tmp_path):
    config = make_config()
    run(tmp_path, {SEED: (b"x", ())}, config)
    orphan = tmp_path / "segments/000001.warc.gz"
    orphan.write_bytes(b"half a segment")
    Frontier(tmp_path, config.seed_urls, config).close()
    assert not orphan.exists()
    (tmp_path / "segments/000000.warc.gz").unlink()
    with pytest.raises(OSError, match=r"000000\.warc\.gz is gone.*crawl again"):
        Frontier(tmp_path, config.seed_urls, config)


def test_a_write_that_fails_names_nothing_and_the_crawl_goes_on_later(tmp_path, monkeypatch):
    config = make_config()
    web = {SEED: (b"x", ())}
    frontier = Frontier(tmp_path, config.seed_urls, config)
    row = frontier.next_row()
    with monkeypatch.context() as full:
        full.setattr(journal_module, "encode_record", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left")))
        answer(frontier, row, web)
        with pytest.raises(OSError, match="No space left"):
            frontier.commit()
    assert list((tmp_path / "segments").iterdir()) == []
    assert frontier.ledger.stored() == []
    frontier.close()
    assert run(tmp_path, web, config) == ({SEED: 0}, {})


def test_a_flipped_bit_in_the_journal_is_found_before_the_export(tmp_path):
    config = make_config()
    run(tmp_path, {SEED: (b"x" * 100, ())}, config)
    segment = tmp_path / "segments/000000.warc.gz"
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    frontier = Frontier(tmp_path, config.seed_urls, config)
    with pytest.raises(OSError, match=r"000000\.warc\.gz: missing or damaged"):
        frontier.ledger.verify_segments()
    frontier.close()


def test_the_database_is_durable_to_the_last_commit(tmp_path):
    config = make_config()
    frontier = Frontier(tmp_path, config.seed_urls, config)
    frontier.close()
    database = sqlite3.connect(tmp_path / "frontier.db")
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()
