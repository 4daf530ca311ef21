"""Files and byte ranges over HTTP: a broken transfer goes on where it was; a file is whole and checked, or absent."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import socket
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ...files import exclusive_lock, fsync_directory, fsync_file, read_json, remove, sha256_file, write_json
from ...redact import public_url
from ..common.addresses import private_kind
from ..common.credential import PUBLIC, Access

TRIES = 6
"""So many attempts in a row may gain no byte; the wait before the next one doubles each time."""
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
SILENCE_S = 30.0
"""An attempt ends when no byte comes for so long."""
READ_BYTES = 256 * 1024
USER_AGENT = "sourdough/0.1"
BUSY = (403, 408, 425, 429, 500, 502, 503, 504)
"""Answers after which a later attempt may go well. Common Crawl says 403 and 503 to who asks too often."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True)
class Download:
    """A file on this disk that came over HTTP, with the SHA-256 of its content."""

    path: Path
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class _Version:
    """Which version of a file the server has; `n_bytes` of the whole file, `md5` hexadecimal, "" where unknown."""

    etag: str
    last_modified: str
    n_bytes: int
    md5: str = ""

    @property
    def validator(self) -> str:
        """What If-Range needs: without it a part may not be continued, for the file may have changed since."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


class _Denied(ValueError):
    """The server does not let in who asks, whatever is asked for."""


class _Retry(Exception):
    """This attempt failed, a later one may not; `wait_s` is how long the server asks to wait."""

    def __init__(self, message: str, wait_s: float = 0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True)
class _Wanted:
    """What to fetch: a public address, the bytes of it (None: all), and what opens it."""

    url: str
    span: tuple[int, int] | None
    access: Access

    def request(self, headers: dict[str, str]) -> urllib.request.Request:
        """Returns the request; the credential goes to this server alone, not to where it redirects."""
        request = urllib.request.Request(self.access.url(self.url), headers=headers)
        for name, value in self.access.headers.items():
            request.add_unredirected_header(name, value)
        return request


def download(url: str, folder: Path, span: tuple[int, int] | None = None, access: Access = PUBLIC) -> Download:
    """Returns the file at `url`, or its bytes from `span[0]` to `span[1]` (exclusive), in `folder`.

    What is there already is hashed and taken; what is there in part is continued. Raises ValueError for an address at
    which there is no such file, or none for this `access`, ConnectionError when the server stays away or breaks off
    every time, and OSError when the disk is full. After either of the last two the next call goes on. What it writes,
    logs and raises holds the public form of the address only.
    """
    wanted, url = _Wanted(url, span, access), public_url(url)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(url, span)
    note = path.with_name(f"{path.name}.json")
    with exclusive_lock(path.with_name(f".{path.name}.lock")):
        if path.exists() and note.exists():
            known = read_json(note)
            if path.stat().st_size == known["n_bytes"] and sha256_file(path) == known["sha256"]:
                return Download(path, known["n_bytes"], known["sha256"])
            logging.getLogger(__name__).warning("%s is damaged; it is fetched again", path)
            remove(path)
        part = path.with_name(f"{path.name}.part")
        _transfer(wanted, part)
        made = Download(path, part.stat().st_size, sha256_file(part))
        write_json(note, {"url": url, "n_bytes": made.n_bytes, "sha256": made.sha256})
        os.replace(part, path)
        fsync_directory(folder)
        remove(_note_of(part))
        return made


def file_name(url: str, span: tuple[int, int] | None = None) -> str:
    """Returns the name of a download: it differs for each address and span, and ends as the file's own name does.

    A signature in the address makes no difference.
    """
    key = hashlib.sha256(public_url(url).encode()).hexdigest()[:16]
    base = re.sub(r"[^A-Za-z0-9._-]", "_", urlsplit(url).path.rpartition("/")[2])[-80:]
    part = f"-{span[0]}-{span[1]}" if span else ""
    return f"{key}{part}-{base}"


def _note_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _transfer(wanted: _Wanted, part: Path) -> None:
    """Fetches until `part` is whole; raises ConnectionError after `TRIES` attempts that gained nothing."""
    n_failed = 0
    most = _size(part)
    while True:
        try:
            _attempt(wanted, part)
            fsync_file(part)
            return
        except _Retry as failure:
            n_failed = 0 if _size(part) > most else n_failed + 1
            most = max(most, _size(part))
            if n_failed >= TRIES:
                raise ConnectionError(
                    f"{public_url(wanted.url)}: {failure}, {TRIES} times in a row; {_size(part):,} bytes are kept, "
                    "run again to go on"
                ) from failure
            wait_s = min(max(FIRST_WAIT_S * 2 ** max(n_failed - 1, 0), failure.wait_s), LONGEST_WAIT_S)
            where = public_url(wanted.url)
            logging.getLogger(__name__).info("%s: %s; next attempt in %.0f s", where, failure, wait_s)
            time.sleep(wait_s)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _attempt(wanted: _Wanted, part: Path) -> None:
    """Fetches what is missing of `part`; raises _Retry when it is not whole and right at the end."""
    span = wanted.span
    version = _Version(**read_json(_note_of(part))) if _note_of(part).exists() else None
    first, stop = span or (0, version.n_bytes if version else 0)
    n_have = _size(part) if version and version.validator else 0
    if version is None or n_have == 0 or n_have != stop - first:
        version = _fetch(wanted, part, version if 0 < n_have < stop - first else None)
    n_wanted = stop - first if span else version.n_bytes
    if _size(part) < n_wanted:
        raise _Retry(f"the transfer ended after {_size(part):,} of {n_wanted:,} bytes")
    if _size(part) > n_wanted or (not span and version.md5 and _md5(part) != version.md5):
        remove(part)
        raise _Retry("what came is not what the server says of it (length or MD5)")


def _fetch(wanted: _Wanted, part: Path, version: _Version | None) -> _Version:
    """Appends to `part`, which holds the beginning of that version, or (None) begins it anew; until the answer ends."""
    span = wanted.span
    n_have = _size(part) if version else 0
    start = (span[0] if span else 0) + n_have
    try:
        answer = _answer(wanted, version, start)
    except ValueError as error:
        if version is None or isinstance(error, _Denied):
            raise
        remove(part)
        raise _Retry("the server refuses to go on; it is asked for the whole again") from None
    with answer as response:
        found, begin = _described(public_url(wanted.url), response, span)
        if version and begin == 0 and start > 0 and not span:
            start = n_have = 0  # the file has changed, or the server sends whole files only: it begins anew
        elif begin != start or (version and found != version):
            remove(part)
            raise _Retry("the server sent other bytes than those asked for, or the file has changed")
        write_json(_note_of(part), asdict(found))
        with open(part, "r+b" if n_have else "wb") as file:
            file.seek(n_have)
            while piece := _piece(response):
                file.write(piece)
    return found


def _answer(wanted: _Wanted, version: _Version | None, start: int) -> Any:
    """Returns the server's answer to a request for bytes from `start` on; raises _Retry or ValueError without.

    Errors of the libraries are not chained: they show the address as it was asked for, signature and all.
    """
    span, where = wanted.span, public_url(wanted.url)
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if span or version:
        headers["Range"] = f"bytes={start}-{span[1] - 1 if span else ''}"
    if version:
        headers["If-Range"] = version.validator
    request = wanted.request(headers)
    try:
        return _opener().open(request, timeout=SILENCE_S)
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(wanted, error) from None
    except (http.client.InvalidURL, ValueError) as error:
        raise ValueError(f"{where}: {wanted.access.redacted(error)}; check the address") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Retry(f"no answer ({wanted.access.redacted(error)})") from None


def _refused(wanted: _Wanted, error: urllib.error.HTTPError) -> Exception:
    """Returns what an answer that is no success means: whether to try again, or what to do instead."""
    said = f"the server answers {error.code} {wanted.access.redacted(error.reason)}"
    where = public_url(wanted.url) + (f" (bytes {wanted.span[0]} to {wanted.span[1]})" if wanted.span else "")
    if error.code in (401, 403) and wanted.access is not PUBLIC:
        return _Denied(
            f"{where}: {said}; check what the environment holds as {wanted.access.name}: it may be wrong or expired"
        )
    if error.code == 401:
        return _Denied(f"{where}: {said}; check the address, or name what opens it as credential.env")
    if error.code not in BUSY:
        return ValueError(f"{where}: {said}; check the address")
    wait = error.headers.get("Retry-After") or ""
    return _Retry(said, int(wait) if wait.isdigit() else 0)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; the credential goes along within one server only, and nobody leads from outside to inside."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Returns the request for where an answer redirects; raises ValueError for a private address that a public
        server names: what only this machine can reach would become a document."""
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is None:
            return None
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if (before.scheme, before.netloc) == (after.scheme, after.netloc):
            made.unredirected_hdrs.update(req.unredirected_hdrs)
        elif (kind := _private(after)) and not _private(before):
            raise ValueError(f"it redirects to {public_url(newurl)}, {kind} address, which only this machine can reach")
        return made


def _private(place: SplitResult) -> str | None:
    """Returns what makes the host of an address private; None for a public one, or where names are not resolved here
    (behind a proxy)."""
    try:
        found = socket.getaddrinfo(place.hostname, place.port, type=socket.SOCK_STREAM)
    except OSError:
        return None
    return next(filter(None, (private_kind(str(address[0])) for *_, address in found)), None)


def _opener() -> urllib.request.OpenerDirector:
    """Returns an opener that knows http and https only: a redirect cannot lead to file: or ftp:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        _Redirects,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _described(url: str, response: Any, span: tuple[int, int] | None) -> tuple[_Version, int]:
    """Returns which version of the file the answer holds, and its first byte's position in it."""
    headers = response.headers
    begin = 0
    if response.status == 206:
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range") or "")
        if not found:
            raise _Retry("the server does not say which bytes it sent")
        begin, n_bytes = int(found[1]), int(found[3])
    elif span:
        raise ValueError(f"{url}: the server sends no byte ranges; give its whole files in path_list or paths instead")
    elif not (headers.get("Content-Length") or "").isdigit():
        raise ValueError(
            f"{url}: the server does not say how long the file is, so nobody could tell a part from the whole; "
            "download it by other means and give the path of the file"
        )
    else:
        n_bytes = int(headers["Content-Length"])
    etag = headers.get("ETag") or ""
    return _Version(etag, headers.get("Last-Modified") or "", n_bytes, _s3_md5(headers, etag)), begin


def _s3_md5(headers: Any, etag: str) -> str:
    """Returns the MD5 of the whole file, where the server names it: S3 does, as the ETag of a simple upload."""
    is_s3 = "AmazonS3" in (headers.get("Server") or "") or "x-amz-request-id" in headers
    return etag.strip('"') if is_s3 and re.fullmatch(r'"[0-9a-f]{32}"', etag) else ""


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _piece(response: Any) -> bytes:
    try:
        return response.read(READ_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _Retry(f"the transfer broke off ({error})") from error
