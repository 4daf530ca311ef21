"""Whether a slow host holds up a fast one in the same crawl: `python -m benchmarks.crawl_fairness`.

The fast host has 300 pages, six links deep at most; the slow one has 8 pages in a chain and asks for a Crawl-delay of
one second. Printed is the time from the first to the last request for a page of the fast host, when it is crawled alone
and when both are, in turn; and the same for the slow host.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

N_FAST, N_SLOW, N_RUNS = 300, 8, 3


def fast_page(path: str) -> str:
    """A tree with three branches at each page."""
    number = int(path.strip("/") or 0)
    children = [3 * number + 1, 3 * number + 2, 3 * number + 3]
    return "".join(f"<a href=/{child}>x</a>" for child in children if child < N_FAST) + "<p>words</p>" * 200


def slow_page(path: str) -> str:
    """A chain."""
    number = int(path.strip("/") or 0)
    return f"<a href=/{number + 1}>x</a>" if number + 1 < N_SLOW else "end"


@contextlib.contextmanager
def site(page: Callable[[str], str], robots: str) -> Iterator[tuple[str, list[float]]]:
    """Serves pages; yields "host:port" and the times at which pages were asked for."""
    times: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            is_page = self.path.strip("/").isdecimal() or self.path == "/"
            if is_page:
                times.append(time.monotonic())
            body = (robots if self.path == "/robots.txt" else page(self.path) if is_page else "").encode()
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", times
    server.shutdown()


def crawl(places: list[str]) -> None:
    """Crawls the sites with 16 connections and no delay of our own."""
    config = {"seeds": [f"http://{place}/" for place in places], "allow_private": places, "delay_s": 0}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("work", "out"):
            (Path(folder) / name).mkdir()
        job = {"config": config, "work_dir": f"{folder}/work", "out_dir": f"{folder}/out"}
        (Path(folder) / "job.json").write_text(json.dumps(job))
        command = [sys.executable, "-m", "llm.data.web.crawl", f"{folder}/job.json"]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)


def main() -> None:
    """Prints medians of three runs."""
    alone, together, slow = [], [], []
    with (
        site(fast_page, "User-agent: *\n") as fast_site,
        site(slow_page, "User-agent: *\nCrawl-delay: 1\n") as slow_site,
    ):
        for _ in range(N_RUNS):
            for places, results in (([fast_site[0]], alone), ([fast_site[0], slow_site[0]], together)):
                fast_site[1].clear()
                slow_site[1].clear()
                crawl(places)
                assert len(fast_site[1]) == N_FAST
                results.append(fast_site[1][-1] - fast_site[1][0])
            slow.append(slow_site[1][-1] - slow_site[1][0])
    print(f"fast host, {N_FAST} pages: alone {statistics.median(alone):.2f} s, beside the slow one", end=" ")
    print(f"{statistics.median(together):.2f} s; slow host, {N_SLOW} pages: {statistics.median(slow):.2f} s")


if __name__ == "__main__":
    main()
