"""A small HTTP server for files, with byte ranges and with the faults of real servers."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What the server has and how it behaves; a test changes it while the server runs."""

    files: dict[str, bytes]
    url: str = ""
    ranges: bool = True
    etags: bool = True
    s3: bool = False
    """Call itself S3, whose ETag is the MD5 of the file."""
    break_after: list[int] = field(default_factory=list)
    """Send only so many bytes in each of the next answers, then close the connection."""
    statuses: list[int] = field(default_factory=list)
    """Answer the next requests with these statuses."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers sent with those statuses."""
    announced: int | None = None
    """The Content-Length to announce, whatever comes."""
    chunked: bool = False
    opens: Callable[[str, Message], bool] = lambda path, headers: True
    """Whether a request for a path with its query, and with these headers, is let in; others are answered 403."""
    always: dict[str, str] = field(default_factory=dict)
    """Headers sent with every answer."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range of each request."""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Site]:
    """The site of a server that runs for the length of the block."""
    site = Site(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with suppress(ConnectionError):  # a client may hang up
                answer(self, site)

        do_HEAD = do_GET

        def log_message(self, *parts: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(handler: BaseHTTPRequestHandler, site: Site) -> None:
    """Answers one GET or HEAD request."""
    wanted = handler.headers.get("Range")
    site.requests.append((handler.path, wanted))
    handler.close_connection = True
    content = site.files.get(handler.path.partition("?")[0].lstrip("/"))
    is_open = site.opens(handler.path, handler.headers)
    if site.statuses or content is None or not is_open:
        handler.send_response(site.statuses.pop(0) if site.statuses else 404 if is_open else 403)
        for name, value in {"Content-Length": "8", **site.headers, **site.always, "Connection": "close"}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(b"SlowDown")
        return
    etag = f'"{hashlib.md5(content).hexdigest()}"'
    unchanged = handler.headers.get("If-Range") in (None, etag)
    start, stop = 0, len(content)
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
    partial = bool(found) and site.ranges and unchanged
    if found and partial:
        start, stop = int(found[1]), min(int(found[2] or len(content)) + 1, len(content)) if found[2] else len(content)
    if start >= len(content) > 0:
        handler.send_error(416)
        return
    handler.send_response(206 if partial else 200)
    if partial:
        handler.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
    if site.etags:
        handler.send_header("ETag", etag)
    for name, value in {**site.always, "Connection": "close"}.items():
        handler.send_header(name, value)
    if site.s3:
        handler.send_header("x-amz-request-id", "1")
    if not site.chunked:
        handler.send_header("Content-Length", str(stop - start if site.announced is None else site.announced))
    handler.end_headers()
    n_bytes = site.break_after.pop(0) if site.break_after else stop - start
    if handler.command == "GET":
        handler.wfile.write(content[start : min(stop, start + n_bytes)])
