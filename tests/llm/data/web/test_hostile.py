"""Answers that are made to hurt: each is refused with its reason, in time, and without much memory."""

import functools
import gzip
import itertools
import logging
import os
import time
import zlib

import pyarrow.parquet as pq
import pytest

from llm.data.common.warc_read import read_pages
from tests.llm.data.web.crawling import html, site, start

HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
BROTLI_BOMB = bytes.fromhex(
    "cbffff3ff82700e2b14020f7fe8fffff7ff04f00c4611180eefd1fffffffe09f0088c30200ddfb3ffeffffc13f0110870500baf77ffcffff837f02200e0b0074effff8ffff07ff04401c1600e8deffe5ffff07fe0980382c00d0bdff00"
)
"""50 MiB of zeros."""

ZSTD_BOMB = b"\x28\xb5\x2f\xfd\x00\x58" + b"\x02\x00\x10\x00" * 400 + b"\x03\x00\x10\x00"
"""Frame header (window of 2 MiB), then run-length blocks of 128 KiB of zeros each (RFC 8878, 3.1.1.2)."""


@functools.cache
def bomb(n_bytes, n_times=1, wbits=31):
    """Zeros, compressed once or several times over."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, wbits)
    zeros = bytes(2**20)
    packed = b"".join(compressor.compress(zeros) for _ in range(n_bytes // 2**20)) + compressor.flush()
    for _ in range(n_times - 1):
        packed = gzip.compress(packed)
    return packed


def encoded(encoding, body):
    """An answer with a Content-Encoding."""
    return 200, {"Content-Type": "text/html", "Content-Encoding": encoding}, body


def raw(*parts, pause_s=0.0, last_pause_s=0.0):
    """An answer written piece by piece; one callable part gives the pieces."""

    def answer(out):
        for part in parts[0]() if callable(parts[0]) else parts:
            out.write(part)
            out.flush()
            time.sleep(pause_s)
        time.sleep(last_pause_s)

    return answer


def first(head, part):
    """`head`, then `part` for ever, anew at each call."""
    return lambda: itertools.chain([head], itertools.repeat(part))


CHUNKED = HTML + b"Transfer-Encoding: chunked\r\n\r\n"
LATE = "failed: no complete answer in time"
LOST = "failed: connection lost before the page was complete"
BROKEN = "failed: connection failed"
TOO_LARGE = "too large"


def hostile(n_bytes):
    """Path -> (answer, beginning of the reason); bombs unpack to `n_bytes`."""
    return {
        "/gzip": (encoded("gzip", bomb(n_bytes)), TOO_LARGE),
        "/gzip-gzip": (encoded("gzip, gzip", bomb(n_bytes, 2)), TOO_LARGE),
        "/gzip-thrice": (encoded("gzip, gzip, gzip", bomb(n_bytes, 3)), TOO_LARGE),
        "/deflate": (encoded("deflate", bomb(n_bytes, 1, 15)), TOO_LARGE),
        "/brotli": (encoded("br", BROTLI_BOMB), ("too large", "failed: a content encoding that cannot be decoded")),
        "/zstd": (encoded("zstd", ZSTD_BOMB), ("too large", "failed: a content encoding that cannot be decoded")),
        "/unknown-encoding": (encoded("lzma", b"x"), "failed: a content encoding that cannot be decoded"),
        "/bad-gzip": (encoded("gzip", b"this is not gzip"), "failed: BadGzipFile"),
        "/endless": (raw(first(HTML + b"\r\n", bytes(65536))), TOO_LARGE),
        "/endless-chunks": (raw(first(CHUNKED, b"10000\r\n" + bytes(65536) + b"\r\n")), TOO_LARGE),
        "/endless-headers": (raw(first(HTML, b"X-Filler: " + b"x" * 8000 + b"\r\n")), "too large: headers"),
        "/endless-header": (raw(first(HTML + b"X-Filler: ", b"x" * 65536)), BROKEN),
        "/endless-status": (raw(first(b"HTTP/1.1 200 ", b"x" * 65536)), BROKEN),
        "/many-100s": (
            raw(first(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), pause_s=0.01),
            (LATE, "too large: headers"),
        ),
        "/drip": (raw(first(HTML + b"\r\n", b"x"), pause_s=0.05), LATE),
        "/drip-headers": (raw(first(HTML, b"A: b\r\n"), pause_s=0.05), LATE),
        "/silent": (raw(HTML, last_pause_s=60), LATE),
        "/lying-length": (raw(HTML + b"Content-Length: 99999999999\r\n\r\nab"), TOO_LARGE),
        "/negative-length": (raw(HTML + b"Content-Length: -5\r\n\r\nab"), BROKEN),
        "/two-lengths": (raw(HTML + b"Content-Length: 2\r\nContent-Length: 20\r\n\r\nab"), BROKEN),
        "/short": (raw(HTML + b"Content-Length: 500\r\n\r\nab"), LOST),
        "/chunk-garbage": (raw(CHUNKED + b"zzz\r\nnot a chunk\r\n"), (BROKEN, LOST)),
        "/chunk-too-long": (raw(CHUNKED + b"fffffffffffffffffff\r\nab"), (BROKEN, LOST, TOO_LARGE)),
        "/chunk-cut": (raw(CHUNKED + b"50\r\nab"), LOST),
        "/no-http": (raw(b"220 mail.example ESMTP ready\r\n"), (BROKEN, LOST)),
        "/nothing": (raw(b""), (BROKEN, LOST)),
        "/loop-1": ((302, {"Location": "/loop-2"}, b""), "redirect: to {url}loop-2"),
        "/loop-2": ((302, {"Location": "/loop-1"}, b""), "redirect: to {url}loop-1"),
        "/self": ((302, {"Location": "/self"}, b""), "redirect: to {url}self"),
        "/chain0": ((302, {"Location": "/chain1"}, b""), "redirect: to {url}chain1"),
        "/chain5": ((302, {"Location": "/chain6"}, b""), "too deep"),
        "/refresh-loop": ((*html()[:2], b"<meta http-equiv=refresh content='0;/refresh-loop-2'>"), "redirect: to"),
        "/refresh-loop-2": ((*html()[:2], b"<meta http-equiv=refresh content='0;/refresh-loop'>"), "redirect: to"),
        "/png": ((*html()[:2], b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 9), "not html: a binary file"),
        "/zeros": ((*html()[:2], bytes(1000)), "not html: a binary file"),
        "/teapot": ((418, {}, b""), "http 418"),
    }


def answers(bodies):
    """The site: the hostile pages, each linked from the first, a longer chain of redirects, and a good page."""

    def answer(path):
        if path in bodies:
            return bodies[path][0]
        if path.startswith("/chain"):
            return 302, {"Location": f"/chain{int(path[6:]) + 1}"}, b""
        return html(*(set(bodies) - {"/chain5"})) if path == "/" else html() if path == "/good" else (404, {}, b"")

    return answer


def peak_mb(folder, config):
    """Crawls in a process of its own; its largest resident memory in MB."""
    process = start(folder, config)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (folder / "stderr").read_text()
    return usage.ru_maxrss / 1024


def config_for(running, **fields):
    """A crawl of a hostile site."""
    config = {"seeds": [running.url, f"{running.url}good"], "allow_private": [running.place], "max_retries": 0}
    return {**config, "max_depth": 5, "sitemaps": False, **fields}


def attack(tmp_path, bodies, **fields):
    """Crawls the site; returns path -> reason, paths of stored pages, seconds, and MB beyond a good site's crawl."""
    with site(lambda path: html()) as good:
        quiet = peak_mb(tmp_path / "good", config_for(good))
    with site(answers(bodies)) as running:
        started = time.monotonic()
        peak = peak_mb(tmp_path / "bad", config_for(running, **fields))
        seconds = time.monotonic() - started
        rows = pq.read_table(tmp_path / "bad/out/refused.parquet").to_pylist()
        stored = {"/" + page.url.removeprefix(running.url) for page in read_pages(tmp_path / "bad/out", 0, 99)}
        reasons = {
            "/" + row["url"].removeprefix(running.url): row["reason"].replace(running.url, "{url}") for row in rows
        }
        return reasons, stored, seconds, peak - quiet


def check(bodies, reasons, stored):
    """Every hostile page is refused for the expected reason, and the good one is kept."""
    assert stored == {"/", "/good"}
    wrong = {path: reasons.get(path) for path in bodies if not (reasons.get(path) or "").startswith(bodies[path][1])}
    assert wrong == {}


def test_every_hostile_answer_is_refused_in_time_and_without_much_memory(tmp_path):
    bodies = hostile(50 * 2**20)
    reasons, stored, seconds, growth_mb = attack(tmp_path, bodies, max_page_bytes=200_000, timeout_s=2)
    check(bodies, reasons, stored)
    assert len(bodies) >= 30
    assert growth_mb < 80
    assert seconds < 40, "three levels of at most two seconds, and the process"


@pytest.mark.slow
def test_large_bombs_by_the_dozen_at_the_default_limits(tmp_path):
    bodies = hostile(300 * 2**20)
    copies = {
        f"{path}?{number}": body
        for path, body in bodies.items()
        for number in range(4)
        if "loop" not in path and "chain" not in path and path != "/self"
    }
    # With a delay a host gets two connections, as every host does that is not one's own.
    reasons, stored, _, growth_mb = attack(tmp_path, {**bodies, **copies}, timeout_s=5, delay_s=0.01)
    logging.getLogger(__name__).info("memory grew by %.0f MB", growth_mb)
    check({**bodies, **copies}, reasons, stored)
    assert growth_mb < 80
