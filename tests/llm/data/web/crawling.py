"""Helpers of the crawler's tests: web sites in a thread, and crawls in a process of their own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[4]
TEST_SITE = REPOSITORY / "tests/site/html"
DIGESTED = ("pages-00000.warc.gz", "pages.parquet", "refused.parquet")

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Site:
    """A running test site: its address, and every request that reached it as (time, path)."""

    url: str
    requests: list[tuple[float, str]] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    """The paths that were answered with 304."""

    @property
    def place(self) -> str:
        """ "host:port"."""
        return self.url.removeprefix("http://").rstrip("/")

    def paths(self) -> list[str]:
        """The requested paths without robots.txt and the sitemap that is looked for, in order of arrival."""
        return [path for _, path in self.requests if path not in ("/robots.txt", "/sitemap.xml")]


def html(*links: str, text: str = "page") -> Answer:
    """A page with links."""
    body = f"<p>{text}</p>" + "".join(f'<a href="{link}">x</a>' for link in links)
    return 200, {"Content-Type": "text/html; charset=utf-8"}, body.encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients are killed on purpose


@contextlib.contextmanager
def site(
    answer: Callable[[str], Answer | Callable[[Any], None]], tls: ssl.SSLContext | None = None, *, etags: bool = False
) -> Iterator[Site]:
    """Serves `answer(path)` on a free port of 127.0.0.1: status, headers and body, or a function of the socket file.

    `answer` is asked for robots.txt as well. With `etags`, a page that the client knows is answered with 304.
    """
    running: Site

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            running.requests.append((time.monotonic(), self.path))
            found = answer(self.path)
            if callable(found):
                self.close_connection = True
                with contextlib.suppress(OSError):
                    found(self.wfile)
                return
            status, headers, body = found
            if etags and status == 200:
                headers = {**headers, "ETag": f'"{hashlib.sha256(body).hexdigest()[:16]}"'}
                if self.headers.get("If-None-Match") == headers["ETag"]:
                    running.unchanged.append(self.path)
                    status, headers, body = 304, {"ETag": headers["ETag"]}, b""
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    running = Site(f"http://127.0.0.1:{server.server_port}/")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Crawl:
    """A crawl's folder, and what its last process left."""

    folder: Path
    returncode: int | None = None

    @property
    def out_dir(self) -> Path:
        """The artifact."""
        return self.folder / "out"

    @property
    def counts(self) -> dict[str, Any]:
        """The counts of a crawl that ended well."""
        assert self.returncode == 0, self.stderr()
        return json.loads((self.folder / "work/counts.json").read_bytes())

    @property
    def error(self) -> str:
        """Type and message of a crawl that failed."""
        assert self.returncode == 1, self.stderr()
        found = json.loads((self.folder / "work/error.json").read_bytes())
        return f"{found['kinds'][0]}: {found['message']}"

    def stderr(self) -> str:
        """What all processes of this crawl wrote to stderr."""
        return (self.folder / "stderr").read_text()

    def digest(self) -> dict[str, str]:
        """SHA-256 of each file that must not change."""
        return {name: hashlib.sha256((self.out_dir / name).read_bytes()).hexdigest() for name in DIGESTED}


def start(
    folder: Path, config: dict[str, Any], oddities: dict[str, Any] | None = None, earlier: str | None = None
) -> subprocess.Popen[bytes]:
    """Starts a crawl process in `folder` with an empty output directory, as after a kill."""
    folder.mkdir(exist_ok=True)
    (folder / "work").mkdir(exist_ok=True)
    (folder / "out").mkdir(exist_ok=True)
    for path in (folder / "out").iterdir():
        path.unlink()
    values = {"delay_s": 0, "retry_pause_s": 0, **config}
    job = {"config": values, "work_dir": str(folder / "work"), "out_dir": str(folder / "out"), "earlier": earlier}
    (folder / "job.json").write_text(json.dumps(job))
    script = Path(__file__).with_name("odd_crawl.py")
    command = ["-m", "llm.data.web.crawl"] if oddities is None else [str(script), json.dumps(oddities)]
    with open(folder / "stderr", "ab") as stderr:
        return subprocess.Popen(
            [sys.executable, *command, str(folder / "job.json")],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=stderr,
            stderr=stderr,
        )


def crawl(
    folder: Path, config: dict[str, Any], oddities: dict[str, Any] | None = None, earlier: str | None = None
) -> Crawl:
    """Runs one crawl process to its end; `earlier` is the artifact of an earlier crawl."""
    return Crawl(folder, start(folder, config, oddities, earlier).wait(timeout=120))
