"""A crawl's durable memory: which URLs are known, what became of each, and where the stored pages lie.

SQLite is the only truth (WAL, synchronous=FULL). Pages go to journal segments (WARC); a segment counts only when the
transaction that names it has been committed, so a process killed at any moment loses at most its open batch, which is
then fetched again. What no transaction names is deleted at the next start.

**What holds, however many connections and kills.** The crawl goes level by level: level d + 1 is opened when every
row of level d is settled, failed ones tried again included. Depth is therefore the breadth-first depth, and the rows
of a level are fixed when it opens. A redirect counts as a link: its target is one deeper. The page budget admits the
first rows of a level in order of URL, whatever will become of them. The byte budget keeps, in order of depth and URL,
the longest run of pages that fits; what was fetched beyond it is dropped, and nothing it links to counts. So the same
site gives the same pages, depths and refusals. Only `max_seconds` makes a result depend on time.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from ..files import atomic_path
from .warc import JournalPage, check_sha256, encode_record

if TYPE_CHECKING:
    from .crawl import CrawlConfig

PENDING, STORED, REFUSED = 0, 1, 2
BATCH_ROWS, BATCH_BYTES, BATCH_SECONDS = 32, 32 * 2**20, 2.0
"""The open batch is committed when it reaches one of these: settled rows, bytes of bodies, seconds."""

RETRY_PAUSE_S = 0.5
"""Pause before a level's failed rows are tried again; it doubles with each attempt."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS urls(
  id INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE, host TEXT NOT NULL, depth INTEGER NOT NULL,
  state INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
  reason TEXT, detail TEXT, transient INTEGER NOT NULL DEFAULT 0,
  status INTEGER, content_type TEXT, segment TEXT, offset INTEGER, n_stored_bytes INTEGER, n_bytes INTEGER, sha256 TEXT,
  fetched_at INTEGER);
CREATE INDEX IF NOT EXISTS pending ON urls(depth, host, url) WHERE state = 0;
CREATE INDEX IF NOT EXISTS level_order ON urls(depth, url);
CREATE TABLE IF NOT EXISTS segments(name TEXT PRIMARY KEY, sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value REAL NOT NULL);
"""


class Row(NamedTuple):
    """A URL handed out to be fetched; `host` has a port where the URL has one, `attempts` counts failed tries."""

    id: int
    url: str
    host: str
    depth: int
    attempts: int


@dataclass(frozen=True)
class Refusal:
    """Why a URL gave no page: a short class, the full story, and whether another try may help.

    `redirect_to` is the target of a redirect that shall be crawled.
    """

    reason: str
    detail: str = ""
    transient: bool = False
    redirect_to: str | None = None

    @property
    def text(self) -> str:
        """Class and story in one line."""
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(frozen=True)
class FetchedPage:
    """A page to be stored; `links` are canonical URLs to be crawled, `fetched_at` is in ms since 1970."""

    row: Row
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    links: tuple[str, ...]
    fetched_at: int

    @property
    def content_type(self) -> str:
        """The Content-Type header, "" if absent."""
        return next((value for name, value in self.headers if name.lower() == "content-type"), "")


@dataclass
class _HostQueue:
    """Rows of one host in the open level that wait to be handed out, read from the database in small portions."""

    host: str
    cursor: str = ""
    rows: deque[Row] = field(default_factory=deque)
    n_in_flight: int = 0


class Frontier:
    """The URLs of one crawl, kept in `work_dir`. One process at a time may open it (the job's lock sees to that)."""

    _WAITING = "state=0 AND depth=? AND (? IS NULL OR url<?)"

    def __init__(self, work_dir: Path, seeds: Iterable[str], budget: CrawlConfig) -> None:
        """Opens or continues the crawl; raises OSError when a journal segment that it names is gone."""
        self.budget = budget
        self.segments_dir = work_dir / "segments"
        self.segments_dir.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(work_dir / "frontier.db", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(SCHEMA)
        self._remove_unnamed_segments()
        self._started, self._seconds_before = time.monotonic(), self._meta("seconds", 0.0)
        self._pages: list[FetchedPage] = []
        self._refusals: list[tuple[Row, Refusal]] = []
        self._last_commit = time.monotonic()
        self._in_flight: dict[int, _HostQueue] = {}
        self._queues: deque[_HostQueue] = deque()
        self._cut: str | None = None
        self._pass_ended: float | None = None
        self.finished = False
        self.n_known = self.n_stored = self.n_bytes = 0
        self.level = int(self._meta("level", -1))
        with self._transaction():
            self._open(seeds)
        self.n_known, self.n_stored, self.n_bytes = self._totals()
        self._cut_if_over_budget()
        self._fill_queues()

    def _open(self, seeds: Iterable[str]) -> None:
        """Starts at the seeds; or gives the failed rows of the deepest level, on which nothing depends, new tries."""
        if self.level < 0:
            self._insert(seeds, depth=0)
            self._open_level(0)
        else:
            where = "WHERE state=? AND transient=1 AND depth=?"
            self._db.execute(f"UPDATE urls SET state=?, attempts=0 {where}", (PENDING, REFUSED, self.level))
            if not self._db.execute("SELECT 1 FROM urls WHERE state<>? LIMIT 1", (REFUSED,)).fetchone():
                # Nothing was stored, so the stage failed for a lasting reason that somebody may have mended since.
                self._db.execute("UPDATE urls SET state=?, attempts=0 WHERE depth=0", (PENDING,))

    def _remove_unnamed_segments(self) -> None:
        named = {name for (name,) in self._db.execute("SELECT name FROM segments")}
        present = {path.name for path in self.segments_dir.iterdir()}
        for name in present - named:
            (self.segments_dir / name).unlink()
        if missing := sorted(named - present):
            raise OSError(
                f"{self.segments_dir / missing[0]} is gone, but the crawl needs it; "
                f"delete {self.segments_dir.parent} and crawl again"
            )

    def _meta(self, key: str, default: float) -> float:
        found = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return found[0] if found else default

    def _totals(self) -> tuple[int, int, int]:
        stored = "SELECT count(*), coalesce(sum(n_bytes), 0) FROM urls WHERE state=?"
        n_known = self._db.execute("SELECT count(*) FROM urls").fetchone()[0]
        return (n_known, *self._db.execute(stored, (STORED,)).fetchone())

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk ends the transaction by itself
                self._db.execute("ROLLBACK")
            raise

    # Handing out

    def next_row(self) -> Row | None:
        """The next URL to fetch, or None: wait for an answer, for `pause_s`, or, when `finished`, for nothing."""
        if self.finished:
            return None
        row = self._take()
        while row is None and not self._in_flight and self._advance():
            row = self._take()
        return row

    def _take(self) -> Row | None:
        """A row of the open level: hosts in turn, each with its share of the connections and in order of URL.

        Without the share, one slow host would in time hold all connections.
        """
        if self._time_is_up():
            return None
        for _ in range(len(self._queues)):
            queue = self._queues.popleft()
            if not self._refill(queue):
                continue  # nothing left: the other hosts share its connections
            self._queues.append(queue)
            share = max(1, self.budget.n_connections // len(self._queues))
            if queue.n_in_flight < min(share, self.budget.max_connections_per_host):
                row = queue.rows.popleft()
                queue.n_in_flight += 1
                self._in_flight[row.id] = queue
                return row
        return None

    def _refill(self, queue: _HostQueue) -> bool:
        """Whether the queue has a row to hand out, after reading on where it was empty."""
        if not queue.rows:
            query = """SELECT id, url, host, depth, attempts FROM urls
              WHERE state=0 AND depth=? AND host=? AND url>? ORDER BY url LIMIT 64"""
            queue.rows.extend(Row(*row) for row in self._db.execute(query, (self.level, queue.host, queue.cursor)))
        while queue.rows and self._cut is not None and queue.rows[0].url >= self._cut:
            queue.cursor = queue.rows.popleft().url
        if queue.rows:
            queue.cursor = queue.rows[0].url
        return bool(queue.rows)

    def _time_is_up(self) -> bool:
        limit = self.budget.max_seconds
        return limit is not None and self.seconds() > limit

    def seconds(self) -> float:
        """How long the crawl has been running, earlier processes included."""
        return self._seconds_before + time.monotonic() - self._started

    def pause_s(self) -> float:
        """Seconds until failed rows are tried again; 0 when no pause is under way."""
        if self._pass_ended is None:
            return 0.0
        attempts = self._db.execute(f"SELECT max(attempts) FROM urls WHERE {self._WAITING}", self._waiting()).fetchone()
        pause = RETRY_PAUSE_S * 2 ** (max(1, attempts[0] or 1) - 1)
        return max(0.0, self._pass_ended + pause - time.monotonic())

    def _waiting(self) -> tuple[int, str | None, str | None]:
        return self.level, self._cut, self._cut

    def _advance(self) -> bool:
        """Called when every row that could be handed out is settled: another try, the next level, or the end."""
        self.commit()
        if self._time_is_up():
            with self._transaction():
                self._refuse("time limit", "state=0")
            self.finished = True
            return False
        if self._db.execute(f"SELECT 1 FROM urls WHERE {self._WAITING} LIMIT 1", self._waiting()).fetchone():
            self._pass_ended = self._pass_ended or time.monotonic()
            if self.pause_s() > 0:
                return False
            self._pass_ended = None
        else:
            self._next_level()
        self._fill_queues()
        return not self.finished

    def _fill_queues(self) -> None:
        hosts = self._db.execute("SELECT DISTINCT host FROM urls WHERE state=0 AND depth=?", (self.level,))
        self._queues = deque(_HostQueue(host) for (host,) in sorted(hosts))

    # Levels and budgets

    def _next_level(self) -> None:
        with self._transaction():
            self._close_level()
            deeper = self._db.execute("SELECT 1 FROM urls WHERE depth>? LIMIT 1", (self.level,)).fetchone()
            if deeper:
                self._open_level(self.level + 1)
        self.n_known, self.n_stored, self.n_bytes = self._totals()
        self.finished = not deeper

    def _close_level(self) -> None:
        """Cuts a level that is too large for the byte budget; rows one deeper then came from pages beyond the cut."""
        cut = self._byte_cut()
        if cut is not None:
            self._refuse("byte budget", "depth=? AND url>=?", self.level, cut)
            self._db.execute("DELETE FROM urls WHERE depth>?", (self.level,))

    def _cut_if_over_budget(self) -> None:
        """Keeps rows that surely lie beyond the byte budget from being fetched."""
        if self.n_bytes > self.budget.max_total_bytes:
            self._cut = self._byte_cut()

    def _byte_cut(self) -> str | None:
        """The first URL of the open level at which the stored bytes of the crawl exceed their budget."""
        before = "SELECT coalesce(sum(n_bytes), 0) FROM urls WHERE state=1 AND depth<?"
        left = self.budget.max_total_bytes - self._db.execute(before, (self.level,)).fetchone()[0]
        running = """SELECT url, sum(CASE state WHEN 1 THEN n_bytes ELSE 0 END) OVER (ORDER BY url) AS total
          FROM urls WHERE depth=?"""
        query = f"SELECT url FROM ({running}) WHERE total>? ORDER BY url LIMIT 1"
        found = self._db.execute(query, (self.level, left)).fetchone()
        return found[0] if found else None

    def _open_level(self, level: int) -> None:
        """Applies depth and page budget to the rows of a level, of which there will be no more."""
        self.level, self._cut = level, None
        self._db.execute("INSERT OR REPLACE INTO meta VALUES('level', ?)", (level,))
        if level > self.budget.max_depth:
            self._refuse("too deep", "depth=?", level)
            return
        earlier = self._db.execute("SELECT count(*) FROM urls WHERE depth<?", (level,)).fetchone()[0]
        left = max(0, self.budget.max_pages - earlier)
        query = "SELECT url FROM urls WHERE depth=? ORDER BY url LIMIT 1 OFFSET ?"
        if first_beyond := self._db.execute(query, (level, left)).fetchone():
            self._refuse("page budget", "depth=? AND url>=?", level, first_beyond[0])

    def _refuse(self, reason: str, where: str, *values: object) -> None:
        query = f"UPDATE urls SET state=?, reason=?, detail='', transient=0 WHERE {where}"
        self._db.execute(query, (REFUSED, reason, *values))

    # Settling

    def store(self, page: FetchedPage) -> None:
        """Takes a fetched page into the open batch."""
        self._leave_flight(page.row)
        self._pages.append(page)
        self._commit_if_full()

    def refuse(self, row: Row, refusal: Refusal) -> None:
        """Takes a failure into the open batch; a transient one is tried again, up to `max_retries` times."""
        self._leave_flight(row)
        self._refusals.append((row, refusal))
        self._commit_if_full()

    def in_flight(self, row: Row) -> bool:
        """Whether the row has been handed out and is not settled."""
        return row.id in self._in_flight

    def _leave_flight(self, row: Row) -> None:
        self._in_flight.pop(row.id).n_in_flight -= 1

    def _commit_if_full(self) -> None:
        if (
            len(self._pages) + len(self._refusals) >= BATCH_ROWS
            or sum(len(page.body) for page in self._pages) >= BATCH_BYTES
            or time.monotonic() - self._last_commit >= BATCH_SECONDS
        ):
            self.commit()

    def commit(self) -> None:
        """Makes the open batch durable: the segment first, then the transaction that names it."""
        if self._pages or self._refusals:
            segment = self._write_segment() if self._pages else None
            with self._transaction():
                if segment is not None:
                    self._name_segment(*segment)
                self._write_refusals()
                self._insert(self._targets(), self.level + 1)
                self._db.execute("INSERT OR REPLACE INTO meta VALUES('seconds', ?)", (self.seconds(),))
            self.n_stored += len(self._pages)
            self.n_bytes += sum(len(page.body) for page in self._pages)
            self._pages, self._refusals = [], []
            self._cut_if_over_budget()
        self._last_commit = time.monotonic()

    def _write_segment(self) -> tuple[str, str, list[tuple[int, int]]]:
        """Writes the batch's records; returns name, SHA-256 and each record's (offset, length)."""
        n_segments = self._db.execute("SELECT count(*) FROM segments").fetchone()[0]
        name = f"{n_segments:06d}.warc.gz"
        records = [encode_record(page.row.url, page.status, page.headers, page.body) for page in self._pages]
        places, offset = [], 0
        for record in records:
            places.append((offset, len(record)))
            offset += len(record)
        content = b"".join(records)
        with atomic_path(self.segments_dir / name) as temporary:
            temporary.write_bytes(content)
        return name, hashlib.sha256(content).hexdigest(), places

    def _name_segment(self, name: str, sha256: str, places: list[tuple[int, int]]) -> None:
        self._db.execute("INSERT INTO segments VALUES(?, ?)", (name, sha256))
        for page, (offset, length) in zip(self._pages, places, strict=True):
            body_sha256 = hashlib.sha256(page.body).hexdigest()
            place = (name, offset, length, len(page.body), body_sha256, page.fetched_at)
            self._db.execute(
                """UPDATE urls SET state=1, reason=NULL, detail=NULL, transient=0, status=?, content_type=?, segment=?,
                  offset=?, n_stored_bytes=?, n_bytes=?, sha256=?, fetched_at=? WHERE id=? AND state=0""",
                (page.status, page.content_type, *place, page.row.id),
            )

    def _write_refusals(self) -> None:
        for row, refusal in self._refusals:
            again = refusal.transient and row.attempts < self.budget.max_retries
            state, why = PENDING if again else REFUSED, (refusal.reason, refusal.detail, refusal.transient)
            self._db.execute(
                "UPDATE urls SET state=?, attempts=?, reason=?, detail=?, transient=? WHERE id=? AND state=0",
                (state, row.attempts + 1, *why, row.id),
            )

    def _targets(self) -> dict[str, None]:
        """Where the batch's pages and redirects lead, each URL once; a batch never spans two levels."""
        links = dict.fromkeys(link for page in self._pages for link in page.links)
        return links | {refusal.redirect_to: None for _, refusal in self._refusals if refusal.redirect_to is not None}

    def _insert(self, urls: Iterable[str], depth: int) -> None:
        """Adds URLs that are not known yet."""
        rows = [(url, urlsplit(url).netloc, depth) for url in urls]
        added = self._db.executemany("INSERT OR IGNORE INTO urls(url, host, depth) VALUES(?, ?, ?)", rows)
        self.n_known += max(0, added.rowcount)

    # Results

    def close(self) -> None:
        """Closes the database; what was committed stays."""
        self._db.close()

    def verify_segments(self) -> None:
        """Raises OSError when a journal segment is not what was written."""
        for name, sha256 in self._db.execute("SELECT name, sha256 FROM segments ORDER BY name"):
            check_sha256(self.segments_dir / name, sha256)

    def stored(self) -> list[JournalPage]:
        """The stored pages in order of URL."""
        query = """SELECT url, status, content_type, segment, offset, n_stored_bytes, n_bytes, sha256, depth, fetched_at
          FROM urls WHERE state=1 ORDER BY url"""
        rows = self._db.execute(query)
        return [
            JournalPage(url, status, content_type, self.segments_dir / segment, *rest)
            for url, status, content_type, segment, *rest in rows
        ]

    def refused(self) -> list[tuple[str, Refusal]]:
        """The refused URLs in order, each with its reason."""
        query = "SELECT url, reason, detail, transient FROM urls WHERE state=2 ORDER BY url"
        return [(url, Refusal(reason, detail, bool(again))) for url, reason, detail, again in self._db.execute(query)]
