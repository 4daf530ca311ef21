"""A crawl that is killed with SIGKILL, at any moment and again, gives the bytes of an unbroken one.

An early prototype once lost 55 of 526 pages, and nobody kept what would have told why. What could do so here, and what
rules it out: a second process on the same folder, which deletes the first one's open segment or takes its number (the
lock: `test_two_processes_at_once`); an end that is taken for the whole (`run_spider` returns, but the process only
exports when the ledger says that nothing is left); a segment that was written and not entered, or entered and not
written (the crash points). Should it happen all the same, ledger, segments and log of the trial are kept.
"""

import itertools
import json
import logging
import random
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack

import pytest

from llm.data.web.frontier import BATCH_ROWS
from tests.llm.data.web.crawling import REPOSITORY, Crawl, crawl, html, site, start

CONNECTIONS = 8
CRASHES = ["level", "before_fsync", "after_rename", "in_transaction", "before_commit", "round"]


def page_of(number, n_pages, places):
    """A page of the made-up web: a tree, with links across, to the other site, and to what is not there."""
    rng = random.Random(number)
    children = [child for child in (3 * number + 1, 3 * number + 2, 3 * number + 3) if child < n_pages]
    links = [f"/{other}" for other in (*children, *(rng.randrange(n_pages) for _ in range(5)))]
    links += [f"http://{rng.choice(places)}/{rng.randrange(n_pages)}"]
    links += [f"/missing{number}"] if number % 40 == 0 else []
    return html(*links, text=f"page {number} " + " ".join(str(rng.random()) for _ in range(rng.randrange(200))))


def web(n_pages, places):
    """Answers of a site; `places` is filled later with the "host:port" of all sites."""

    def answer(path):
        time.sleep(0.003)  # so that kills meet crawls in all states
        number = path.lstrip("/")
        known = number.isdecimal() and int(number) < n_pages
        return page_of(int(number), n_pages, places) if known else (404, {"Content-Type": "text/html"}, b"no")

    return answer


class World:
    """Two sites, the config of their crawl, an unbroken crawl of them, and how many requests that took."""

    def __init__(self, sites, folder, n_pages):
        self.sites = sites
        self.config = {
            "seeds": [f"{running.url}0" for running in sites],
            "allow_private": [running.place for running in sites],
            "n_connections": CONNECTIONS,
        }
        self.unbroken = crawl(folder / "unbroken", self.config)
        assert self.unbroken.counts["n_out"] == 2 * n_pages
        self.n_requests = self.count()

    def count(self):
        """Requests for pages so far."""
        return sum(len(running.paths()) for running in self.sites)

    def restart(self):
        """Forgets the requests so far."""
        for running in self.sites:
            running.requests.clear()

    def kill_after_requests(self, folder, n):
        """Runs a crawl until so many requests have come, or its end, and kills it; whether a kill ended it."""
        n_before = sum(len(running.requests) for running in self.sites)
        process = start(folder, self.config)
        while sum(len(running.requests) for running in self.sites) < n_before + n and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        return process.wait() == -signal.SIGKILL

    def kill_at(self, folder, point, times):
        """Runs a crawl that kills itself at the n-th pass of a point, or ends; whether it did."""
        process = start(folder, self.config, {"crash": [point, times]})
        return process.wait(timeout=120) == -signal.SIGKILL

    def check(self, folder, n_kills):
        """Finishes a killed crawl and compares; returns how many requests were made twice."""
        done = crawl(folder, self.config)
        try:
            assert done.returncode == 0, done.stderr()
            assert done.digest() == self.unbroken.digest()
            assert done.counts == self.unbroken.counts
            n_again = self.count() - self.n_requests
            assert 0 <= n_again <= n_kills * (BATCH_ROWS + CONNECTIONS)
        except AssertionError as error:
            kept = tempfile.mkdtemp(prefix="sourdough-killed-crawl-")
            shutil.copytree(folder, kept, dirs_exist_ok=True)
            raise AssertionError(f"killed {n_kills} times; ledger, segments and stderr are kept in {kept}") from error
        return n_again


def make_world(stack, folder, n_pages):
    """Starts two sites of so many pages each, and crawls them once."""
    places = []
    sites = [stack.enter_context(site(web(n_pages, places))) for _ in range(2)]
    places += [running.place for running in sites]
    return World(sites, folder, n_pages)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A world of 80 pages."""
    with ExitStack() as stack:
        yield make_world(stack, tmp_path_factory.mktemp("small"), 40)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A world of 500 pages."""
    with ExitStack() as stack:
        yield make_world(stack, tmp_path_factory.mktemp("large"), 250)


def test_kills_in_the_midst_of_commits_and_of_downloads_lose_and_repeat_nothing(small, tmp_path):
    small.restart()
    for point in (*CRASHES, "export"):
        times = 1 if point in ("round", "export") else 2
        assert small.kill_at(tmp_path / "c", point, times), f"{point} was not reached"
        if point == "after_rename":
            assert small.kill_after_requests(tmp_path / "c", 5)
    small.check(tmp_path / "c", len(CRASHES) + 2)


def test_two_processes_at_once_wait_for_each_other(small, tmp_path):
    small.restart()
    first = start(tmp_path / "c", small.config)
    job = json.loads((tmp_path / "c/job.json").read_text())
    other = tmp_path / "other/out"
    other.mkdir(parents=True)
    (tmp_path / "job.json").write_text(json.dumps({**job, "out_dir": str(other)}))
    second = subprocess.Popen([*first.args[:-1], str(tmp_path / "job.json")], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    assert (first.wait(timeout=60), second.wait(timeout=60)) == (0, 0)
    assert small.count() == small.n_requests, "the second found the finished work of the first"
    for folder in (tmp_path / "c", tmp_path / "other"):
        assert Crawl(folder).digest() == small.unbroken.digest()


def trial(world, folder, rng):
    """Kills one crawl up to five times and checks what it gives; returns the kills, and the requests made again."""
    world.restart()
    n_kills = 0
    for _ in range(5):
        if rng.random() < 0.4:
            point = rng.choice(CRASHES)
            n_kills += world.kill_at(folder, point, 1 if point == "round" else rng.randint(1, 4))
        else:
            n_kills += world.kill_after_requests(folder, rng.randint(1, 120))
    return n_kills, world.check(folder, n_kills)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_hundred_kills_at_random_moments(large, tmp_path):
    rng, n_kills, n_again = random.Random(20), 0, 0
    for number in itertools.count():
        killed, again = trial(large, tmp_path / f"{number}", rng)
        n_kills, n_again = n_kills + killed, n_again + again
        logging.getLogger(__name__).info(
            "%d trials, %d kills, %.1f requests made again per kill", number + 1, n_kills, n_again / max(1, n_kills)
        )
        if n_kills >= 200:
            return
