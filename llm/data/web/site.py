"""A web site of one's own to crawl: a folder of HTML on the loopback interface, by default Python's documentation."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import subprocess
import tempfile
import threading
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

from ...files import exclusive_lock, fsync_directory
from .config import PYTHON_DOCS, SiteConfig

INSTALLED_DOCS = Path("/usr/share/doc")
DOWNLOAD_PAGE = "https://docs.python.org/3/download.html"
DOWNLOAD_TIMEOUT_S = 60
MAX_DOCS_BYTES = 500 * 2**20


def resolve_site(config: SiteConfig, cache_dir: Path) -> Path:
    """Returns the folder to serve; raises ValueError when there is none, ConnectionError when it cannot be fetched."""
    if config.folder == PYTHON_DOCS:
        return find_python_docs(cache_dir)
    folder = Path(config.folder).expanduser()
    if not (folder / "index.html").is_file():
        raise ValueError(
            f"site.folder is {config.folder!r}, where there is no index.html; "
            f"allowed: {PYTHON_DOCS!r} or a folder of HTML with an index.html"
        )
    return folder.resolve()


# Finding Python's documentation


def find_python_docs(cache_dir: Path) -> Path:
    """Finds the folder of Python's HTML documentation: of an earlier call, installed, from Debian or python.org.

    What is fetched is kept in `cache_dir / "python-docs"` (about 60 MB), whole or not at all. Raises ConnectionError
    that says what was tried and what to do.
    """
    kept = cache_dir / PYTHON_DOCS
    with exclusive_lock(cache_dir / f"{PYTHON_DOCS}.lock"):
        if kept.is_dir():
            return kept
        if (installed := _html_folder(INSTALLED_DOCS)) is not None:
            return installed
        failures = []
        for fetch in (_fetch_from_debian, _fetch_from_python_org):
            try:
                return _keep(fetch, kept)
            except (OSError, subprocess.SubprocessError, zipfile.BadZipFile) as error:
                failures.append(f"{fetch.__name__.removeprefix('_fetch_').replace('_', ' ')}: {error}")
    raise ConnectionError(
        f"site.folder: Python's documentation is not installed and could not be fetched ({'; '.join(failures)}). "
        "Connect to the Internet, or install the package python3-doc, or set site.folder to a folder of HTML"
    )


def _html_folder(doc_dir: Path) -> Path | None:
    """Returns the newest `python3*/html` with an index in it; Debian has links to it beside it."""
    found = {path.parent.resolve() for path in doc_dir.glob("python3*/html/index.html")}
    return max(found, key=lambda path: [int(digits) for digits in re.findall(r"\d+", path.parent.name)], default=None)


def _keep(fetch: Callable[[Path], Path], kept: Path) -> Path:
    """Runs `fetch` in a temporary folder and moves the folder that it returns to `kept`."""
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=f".{PYTHON_DOCS}-") as temporary:
        os.rename(fetch(Path(temporary)), kept)
    fsync_directory(kept.parent)
    return kept


def _fetch_from_debian(folder: Path) -> Path:
    """Downloads and unpacks the package behind python3-doc, without root and without touching the system's lists."""
    for needed in ("lists/partial", "cache/archives/partial"):
        (folder / needed).mkdir(parents=True)
    _run("apt-get", folder, "update")
    depends = _run("apt-cache", folder, "depends", "python3-doc")
    package = re.search(r"Depends: (python3\.\d+-doc)", depends)
    if package is None:
        raise OSError("the package python3-doc is not known")
    _run("apt-get", folder, "download", package[1])
    archive = next(folder.glob("python3*-doc_*.deb"))
    subprocess.run(["dpkg-deb", "-x", archive.name, "tree"], cwd=folder, check=True, timeout=120)
    html = _html_folder(folder / "tree/usr/share/doc")
    if html is None:
        raise OSError(f"{archive.name} holds no HTML")
    return html


def _run(program: str, folder: Path, *arguments: str) -> str:
    """Runs apt with package lists and cache in `folder`; returns its output."""
    options = {
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Acquire::Retries": 1,
        "Acquire::http::Timeout": 20,
        "APT::Sandbox::User": "",
        "APT::Update::Error-Mode": "any",
    }
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    command = [program, *flags, "-q", *arguments]
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        last_line = (done.stderr.strip() or "no message").splitlines()[-1]
        raise OSError(f"{program} {arguments[0]} failed: {last_line}")
    return done.stdout


def _fetch_from_python_org(folder: Path) -> Path:
    """Downloads and unpacks the HTML archive that docs.python.org offers for the current version."""
    page = _download(DOWNLOAD_PAGE).decode()
    link = re.search(r'href="([^"]*docs-html\.zip)"', page)
    if link is None:
        raise OSError(f"{DOWNLOAD_PAGE} names no HTML archive")
    with zipfile.ZipFile(io.BytesIO(_download(urllib.parse.urljoin(DOWNLOAD_PAGE, link[1])))) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_DOCS_BYTES:
            raise OSError(f"the HTML archive unpacks to more than {MAX_DOCS_BYTES} bytes")
        archive.extractall(folder)  # which drops "..", leading slashes and links
    index = min(folder.rglob("index.html"), key=lambda path: len(path.parts), default=None)
    if index is None:
        raise OSError("the HTML archive holds no index.html")
    return index.parent


def _download(url: str) -> bytes:
    """Returns the content of an https address."""
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as response:
        return bytes(response.read(MAX_DOCS_BYTES))


# Serving a folder


@contextlib.contextmanager
def serve(folder: Path, port: int) -> Iterator[str]:
    """Serves `folder` on 127.0.0.1 in a thread while the block runs; yields the address, such as "http://127.0.0.1:7930/".

    Port 0 takes a free one. Raises OSError when the port is in use.
    """
    try:
        server = _SiteServer(("127.0.0.1", port), partial(_FolderHandler, directory=str(folder.resolve())))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise OSError(
            error.errno, f"site.port: port {port} is in use; choose another, or stop the program that uses it"
        ) from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _SiteServer(ThreadingHTTPServer):
    request_queue_size = 128  # connections that wait to be accepted; the default of 5 drops some of a crawler's 16
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores the error: a client that closes its connection early is no event."""


class _FolderHandler(SimpleHTTPRequestHandler):
    """Files below one folder: no listings, nothing reached through links that lead out, no foreign Host header.

    A web page that a user visits could otherwise read the folder, through a name that resolves to 127.0.0.1.
    """

    protocol_version = "HTTP/1.1"  # keeps connections open
    timeout = 60

    def send_head(self) -> Any:
        """Returns the opened file after its headers were sent, or None after an error was sent."""
        port = cast(_SiteServer, self.server).server_port
        if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            self.send_error(HTTPStatus.FORBIDDEN)
            return None
        if not Path(self.translate_path(self.path)).resolve().is_relative_to(self.directory):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        """Answers with 404: there are no listings."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""
