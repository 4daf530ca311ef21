"""A crawl that is killed with SIGKILL, at any moment and again, gives the bytes of an unbroken one."""

import random
import signal
import subprocess
import time

import pytest
from crawling import TEST_SITE, crawl, site, start

from llm.data.frontier import BATCH_ROWS

CONNECTIONS = 8
CRASHES = [("level", 2), ("before_fsync", 2), ("after_rename", 2), ("in_transaction", 2), ("export", 1)]


def answer(path):
    """A file of tests/site, after a few milliseconds, so that kills meet crawls in all states."""
    time.sleep(0.005)
    file = TEST_SITE / path.lstrip("/")
    if not file.is_file():
        return 404, {"Content-Type": "text/html"}, b"no"
    kind = {".html": "text/html", ".txt": "text/plain"}.get(file.suffix, "image/png")
    return 200, {"Content-Type": kind}, file.read_bytes()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The site, the config of its crawl, an unbroken crawl, and how many requests that took."""
    with site(answer) as running:
        config = {
            "seeds": [f"{running.url}index.html"],
            "allow_private": [running.place],
            "n_connections": CONNECTIONS,
        }
        done = crawl(tmp_path_factory.mktemp("unbroken") / "c", config)
        assert done.counts["n_out"] == 76
        yield running, config, done, len(running.paths())


def check(unbroken, folder, n_kills):
    """Finishes a killed crawl and compares; returns how many requests were made twice."""
    running, config, whole, n_requests = unbroken
    done = crawl(folder, config)
    place = f"killed {n_kills} times; database and stderr are kept in {folder}\n"
    assert done.returncode == 0, place + done.stderr()
    assert done.digest() == whole.digest(), place + done.stderr()
    assert done.counts == whole.counts, place + done.stderr()
    n_again = len(running.paths()) - n_requests
    assert 0 <= n_again <= n_kills * (BATCH_ROWS + CONNECTIONS), place
    return n_again


def test_kills_in_the_midst_of_commits_and_of_downloads_lose_and_repeat_nothing(unbroken, tmp_path):
    running, config, _, _ = unbroken
    running.requests.clear()
    for point, times in CRASHES:
        done = crawl(tmp_path / "c", config, {"crash": [point, times]})
        assert done.returncode == -signal.SIGKILL, f"{point} was not reached\n{done.stderr()}"
        if point == "after_rename":
            kill_at_a_request(running, tmp_path / "c", config)
    check(unbroken, tmp_path / "c", len(CRASHES) + 1)


def kill_at_a_request(running, folder, config):
    """Kills a crawl some requests after its start."""
    n_before = len(running.requests)
    process = start(folder, config)
    while len(running.requests) < n_before + 10 and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def kill_after(folder, config, seconds, oddities=None):
    """Runs a crawl and kills it after so many seconds; whether a kill ended it."""
    process = start(folder, config, oddities)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(24))
def test_many_kills(unbroken, tmp_path, seed, record_property):
    running, config, _, _ = unbroken
    running.requests.clear()
    rng, n_kills = random.Random(seed), 0
    for _ in range(rng.choice([1, 2, 3])):
        crash = rng.choice([None, [rng.choice(CRASHES)[0], rng.randint(1, 5)]])
        n_kills += kill_after(tmp_path / "c", config, rng.uniform(0.5, 6.0), crash and {"crash": crash})
    n_again = check(unbroken, tmp_path / "c", n_kills)
    record_property("kills", n_kills)
    record_property("requests_made_again", n_again)
