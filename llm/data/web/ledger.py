"""The ledger of a crawl in SQLite: every URL that is known, what became of it, and where the stored pages lie.

SQLite is the only truth (WAL, synchronous=FULL). Pages go to journal segments (WARC); a segment counts only when the
transaction that names it has been committed. What no transaction names is deleted at the next start. What the rows
mean, and when they change, is the frontier's business (see frontier.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..common.warc_write import JournalPage
from .journal import Journal, Segment
from .links import host_of
from .outcome import GUESSED_SITEMAP, PAGE, READ, FetchedPage, Refusal, Row

PENDING, STORED, REFUSED = 0, 1, 2

SCHEMA = """
CREATE TABLE IF NOT EXISTS urls(
  id INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE, host TEXT NOT NULL, depth INTEGER NOT NULL,
  kind INTEGER NOT NULL DEFAULT 0, path TEXT, level INTEGER,
  state INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
  reason TEXT, detail TEXT, transient INTEGER NOT NULL DEFAULT 0,
  status INTEGER, content_type TEXT, segment TEXT, offset INTEGER, n_stored_bytes INTEGER, n_bytes INTEGER, sha256 TEXT,
  fetched_at INTEGER, etag TEXT, last_modified TEXT, reused INTEGER, canonical TEXT);
CREATE INDEX IF NOT EXISTS found ON urls(host, depth, url) WHERE state = 0 AND level IS NULL;
CREATE INDEX IF NOT EXISTS levels ON urls(host, level, url);
CREATE INDEX IF NOT EXISTS variants ON urls(path) WHERE path IS NOT NULL;
CREATE TABLE IF NOT EXISTS cross_host_links(
  url TEXT NOT NULL, from_host TEXT NOT NULL, level INTEGER NOT NULL, depth INTEGER NOT NULL, kind INTEGER NOT NULL,
  PRIMARY KEY(url, from_host)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hosts(
  host TEXT PRIMARY KEY, level INTEGER NOT NULL, max_pages INTEGER NOT NULL, max_bytes INTEGER NOT NULL,
  ended INTEGER NOT NULL, is_full INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS segments(name TEXT PRIMARY KEY, sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value REAL NOT NULL);
"""
"""`level`: the number of the portion of its host's URLs in which a URL was admitted to be fetched, NULL before that.
`path`: the URL without its query, where it has one. `cross_host_links` are kept for the next round."""

RejectionRule = Callable[[str], tuple[str, str] | None]
"""Reason and detail of the refusal of a URL, None for one that may be fetched."""

_WAITING = "state=0 AND level IS NULL AND host=?"
_COUNTED = f"kind<>{GUESSED_SITEMAP} AND (reason IS NULL OR reason<>'{READ}')"


class HostState(NamedTuple):
    """How far a host is: its last level, its budgets (pages asked for and bytes stored, in all), whether it has no more
    to do in this round, and whether its bytes have reached the budget for good."""

    host: str
    level: int
    max_pages: int
    max_bytes: int
    ended: bool
    is_full: bool


class Totals(NamedTuple):
    """URLs known, pages stored, bytes of their bodies."""

    n_known: int
    n_stored: int
    n_bytes: int


class Ledger:
    """The tables of one crawl and its journal, kept in `work_dir`."""

    def __init__(self, work_dir: Path) -> None:
        """Opens the ledger; raises OSError when a journal segment that they name is gone."""
        self.journal = Journal(work_dir)
        self._db = sqlite3.connect(work_dir / "frontier.db", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(SCHEMA)
        self.journal.keep_only({name for (name,) in self._db.execute("SELECT name FROM segments")})

    def close(self) -> None:
        """Closes the database; what was committed stays."""
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything in the block is written, durably, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk ends the transaction by itself
                self._db.execute("ROLLBACK")
            raise

    def _number(self, query: str, *values: object) -> int:
        """The single number that a query gives; 0 for NULL."""
        return self._db.execute(query, values).fetchone()[0] or 0

    def _text(self, query: str, *values: object) -> str | None:
        found = self._db.execute(query, values).fetchone()
        return found[0] if found else None

    # Crawl and hosts

    @property
    def seconds(self) -> float:
        """How long the crawl had been running when `set_seconds` was last called."""
        found = self._db.execute("SELECT value FROM meta WHERE key='seconds'").fetchone()
        return found[0] if found else 0.0

    def set_seconds(self, seconds: float) -> None:
        """Notes how long the crawl has been running."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES('seconds', ?)", (seconds,))

    def totals(self) -> Totals:
        """Returns what the ledger hold now."""
        n_known = self._number(f"SELECT count(*) FROM urls WHERE {_COUNTED}")
        stored = self._db.execute("SELECT count(*), coalesce(sum(n_bytes), 0) FROM urls WHERE state=1").fetchone()
        return Totals(n_known, *stored)

    def hosts(self) -> list[HostState]:
        """Returns all hosts that have had a turn, by name."""
        rows = self._db.execute("SELECT host, level, max_pages, max_bytes, ended, is_full FROM hosts ORDER BY host")
        return [HostState(*row)._replace(ended=bool(row[4]), is_full=bool(row[5])) for row in rows]

    def save_host(self, state: HostState) -> None:
        """Notes how far a host is."""
        self._db.execute("INSERT OR REPLACE INTO hosts VALUES(?, ?, ?, ?, ?, ?)", state)

    def waiting_hosts(self) -> list[str]:
        """Hosts with URLs that wait to be admitted, by name."""
        rows = self._db.execute("SELECT DISTINCT host FROM urls WHERE state=0 AND level IS NULL ORDER BY host")
        return [host for (host,) in rows]

    def asked(self, host: str) -> int:
        """Returns how many pages of a host have been admitted."""
        return self._number("SELECT count(*) FROM urls WHERE host=? AND level IS NOT NULL AND kind=0", host)

    def host_bytes(self, host: str) -> int:
        """Returns the bytes of the stored pages of a host."""
        return self._number("SELECT sum(n_bytes) FROM urls WHERE host=? AND level IS NOT NULL AND state=1", host)

    # URLs come in

    def add(self, urls: Mapping[str, int], depth: int, rejection_reason: RejectionRule = lambda url: None) -> int:
        """Adds URLs (-> kind) that are not known yet, refused at once where there is a reason; returns how many.

        A URL that is known as a page but has not been admitted becomes a sitemap if it is called one: a page and a
        sitemap may name it in either order.
        """
        n_before = self._db.total_changes
        pages = [_new_row(url, depth, rejection_reason) for url, kind in urls.items() if kind == PAGE]
        columns = "urls(url, host, depth, path, state, reason, detail)"
        self._db.executemany(f"INSERT OR IGNORE INTO {columns} VALUES(?, ?, ?, ?, ?, ?, ?)", pages)
        n_added = self._db.total_changes - n_before
        for url, kind in urls.items():
            if kind != PAGE:
                n_added += self._add_sitemap(url, depth, kind)
        return n_added

    def _add_sitemap(self, url: str, depth: int, kind: int) -> int:
        again = "ON CONFLICT(url) DO UPDATE SET kind=excluded.kind, state=0, reason=NULL, detail=NULL"
        unseen = "level IS NULL AND kind=0 AND depth=excluded.depth"
        known = self._number("SELECT count(*) FROM urls WHERE url=?", url)
        self._db.execute(
            f"INSERT INTO urls(url, host, depth, kind) VALUES(?, ?, ?, ?) {again} WHERE {unseen}",
            (url, host_of(url), depth, kind),
        )
        return int(not known and kind != GUESSED_SITEMAP)

    def add_cross_host_links(self, urls: Mapping[str, int], row: Row, level: int) -> None:
        """Keeps URLs (-> kind) of other hosts, found at `row` in a level of its host, for the next round."""
        rows = [(url, row.host, level, row.depth + 1, kind) for url, kind in urls.items()]
        self._db.executemany("INSERT OR IGNORE INTO cross_host_links VALUES(?, ?, ?, ?, ?)", rows)

    def merge_cross_host_links(self, rejection_reason: RejectionRule) -> None:
        """Adds what links between hosts have found, each URL at its smallest depth."""
        rows = self._db.execute(
            "SELECT url, max(kind), min(depth) FROM cross_host_links GROUP BY url ORDER BY url"
        ).fetchall()
        for url, kind, depth in rows:
            self.add({url: kind}, depth, rejection_reason)
        self._db.execute("DELETE FROM cross_host_links")

    # URLs are admitted

    def next_depth(self, host: str) -> int | None:
        """Returns the smallest depth at which URLs of a host wait to be admitted."""
        found = self._db.execute(f"SELECT min(depth) FROM urls WHERE {_WAITING}", (host,)).fetchone()
        return found[0]

    def admit(self, host: str, depth: int, level: int, max_pages: int) -> int:
        """Admits all sitemaps and the first `max_pages` pages, in order of URL, of a depth; returns how many pages."""
        where = f"{_WAITING} AND depth=?"
        self._db.execute(f"UPDATE urls SET level=? WHERE {where} AND kind>0", (level, host, depth))
        first = f"SELECT id FROM urls WHERE {where} AND kind=0 ORDER BY url LIMIT ?"
        return self._db.execute(
            f"UPDATE urls SET level=? WHERE id IN ({first})", (level, host, depth, max(0, max_pages))
        ).rowcount

    def refuse_waiting(self, host: str, reason: str, detail: str = "", depth: int | None = None) -> None:
        """Refuses all URLs of a host that wait to be admitted (at a depth)."""
        where = f"{_WAITING} AND (? IS NULL OR depth=?)"
        self._db.execute(
            f"UPDATE urls SET state=2, reason=?, detail=? WHERE {where}", (reason, detail, host, depth, depth)
        )

    def refuse_variants(self, host: str, depth: int, limit: int) -> None:
        """Refuses URLs that differ from `limit` earlier ones in their query only."""
        earlier = """SELECT path, count(*) AS n FROM urls WHERE host=? AND level IS NOT NULL AND path IS NOT NULL
          GROUP BY path"""
        ranked = f"""SELECT id, path, row_number() OVER (PARTITION BY path ORDER BY url) AS nth FROM urls
          WHERE {_WAITING} AND depth=? AND path IS NOT NULL AND kind=0"""
        beyond = f"""SELECT id FROM ({ranked}) AS w LEFT JOIN ({earlier}) AS e ON w.path=e.path
          WHERE nth + coalesce(e.n, 0) > ?"""
        self._db.execute(
            f"UPDATE urls SET state=2, reason='trap', detail=? WHERE id IN ({beyond})",
            (f"more than {limit} addresses that differ in their query only", host, depth, host, limit),
        )

    def refuse_sitemaps(self, host: str, depth: int, limit: int) -> None:
        """Refuses sitemaps of a host beyond the first `limit`."""
        earlier = self._number("SELECT count(*) FROM urls WHERE host=? AND level IS NOT NULL AND kind>0", host)
        beyond = f"SELECT id FROM urls WHERE {_WAITING} AND depth=? AND kind>0 ORDER BY url LIMIT -1 OFFSET ?"
        self._db.execute(
            f"UPDATE urls SET state=2, reason='trap', detail=? WHERE id IN ({beyond})",
            (f"more than {limit} sitemaps", host, depth, max(0, limit - earlier)),
        )

    def refuse_pending(self, reason: str) -> None:
        """Refuses every URL that is not settled."""
        self._db.execute("UPDATE urls SET state=2, reason=?, detail='', transient=0 WHERE state=0", (reason,))

    # A level

    def pending(self, state: HostState, after: str, before: str | None, n: int) -> list[Row]:
        """Returns the next `n` unsettled rows of the host's level, in order of URL."""
        query = """SELECT id, url, host, depth, attempts, kind FROM urls
          WHERE host=? AND level=? AND url>? AND (? IS NULL OR url<?) AND state=0 ORDER BY url LIMIT ?"""
        return [Row(*row) for row in self._db.execute(query, (state.host, state.level, after, before, before, n))]

    def failed_attempts(self, state: HostState, before: str | None) -> int:
        """Returns the most attempts that an unsettled row of the host's level has had; 0 when all are settled."""
        query = """SELECT max(max(attempts), 1) FROM urls
          WHERE host=? AND level=? AND state=0 AND (? IS NULL OR url<?)"""
        return self._number(query, state.host, state.level, before, before)

    def byte_cut(self, state: HostState) -> str | None:
        """Returns the first URL of the host's level at which the host's stored bytes exceed its budget."""
        before = "SELECT sum(n_bytes) FROM urls WHERE host=? AND state=1 AND level<?"
        left = state.max_bytes - self._number(before, state.host, state.level)
        running = """SELECT url, sum(CASE state WHEN 1 THEN n_bytes ELSE 0 END) OVER (ORDER BY url) AS total
          FROM urls WHERE host=? AND level=? AND kind=0"""
        return self._text(
            f"SELECT url FROM ({running}) WHERE total>? ORDER BY url LIMIT 1", state.host, state.level, left
        )

    def end_at(self, state: HostState, cut: str) -> None:
        """Ends a host at a URL of its level: what came after it is refused, what the level links to is forgotten."""
        depth = self._number("SELECT max(depth) FROM urls WHERE host=? AND level=?", state.host, state.level)
        self._db.execute("DELETE FROM urls WHERE host=? AND level IS NULL AND depth>?", (state.host, depth))
        self._db.execute("DELETE FROM cross_host_links WHERE from_host=? AND level=?", (state.host, state.level))
        self._db.execute(
            """UPDATE urls SET state=2, reason='byte budget', detail='', transient=0
              WHERE host=? AND depth=? AND url>=? AND kind=0 AND (level IS NULL OR level=?)""",
            (state.host, depth, cut, state.level),
        )
        self.refuse_waiting(state.host, "byte budget")

    def reopen(self, state: HostState) -> bool:
        """Gives the failed rows of a host's last level, on which nothing depends, new tries; whether there are any."""
        where = "state=2 AND transient=1 AND host=? AND level=?"
        return bool(
            self._db.execute(f"UPDATE urls SET state=0, attempts=0 WHERE {where}", (state.host, state.level)).rowcount
        )

    def forget_everything(self) -> None:
        """Empties the ledger of a crawl that has not stored a page."""
        for table in ("urls", "cross_host_links", "hosts", "segments", "meta"):
            self._db.execute(f"DELETE FROM {table}")

    # Rows are settled

    def write_segment(self, pages: Sequence[FetchedPage]) -> Segment:
        """Writes pages to the next journal segment, which counts once it is named."""
        return self.journal.write(self._number("SELECT count(*) FROM segments"), pages)

    def name_segment(self, pages: Sequence[FetchedPage], segment: Segment) -> None:
        """Enters pages whose records lie in a segment that has been written."""
        self._db.execute("INSERT INTO segments VALUES(?, ?)", (segment.name, segment.sha256))
        for page, (offset, length) in zip(pages, segment.positions, strict=True):
            self._db.execute(
                """UPDATE urls SET state=1, reason=NULL, detail=NULL, transient=0, status=?, content_type=?, segment=?,
                  offset=?, n_stored_bytes=?, n_bytes=?, sha256=?, fetched_at=?, etag=?, last_modified=?, reused=?,
                  canonical=? WHERE id=? AND state=0""",
                (
                    *(page.status, page.header("content-type"), segment.name, offset, length, len(page.body)),
                    *(hashlib.sha256(page.body).hexdigest(), page.fetched_at),
                    *(page.header("etag"), page.header("last-modified"), page.reused, page.canonical, page.row.id),
                ),
            )

    def refuse(self, refusals: Iterable[tuple[Row, Refusal]], max_retries: int) -> None:
        """Enters refusals; a transient one stays unsettled until it has been tried `max_retries` times again."""
        for row, refusal in refusals:
            again = refusal.transient and row.attempts < max_retries
            self._db.execute(
                "UPDATE urls SET state=?, attempts=?, reason=?, detail=?, transient=? WHERE id=? AND state=0",
                (
                    PENDING if again else REFUSED,
                    row.attempts + 1,
                    *(refusal.reason, refusal.detail, refusal.transient, row.id),
                ),
            )

    def refuse_copies(self) -> None:
        """Refuses stored pages that name another stored page as their own form, be it by way of others.

        Only a page that is stored can stand for another, and of pages that name each other in a circle none can: so
        nothing is lost, and neither the order of the answers nor that of the names matters.
        """
        query = """SELECT a.url, a.canonical FROM urls AS a JOIN urls AS b ON a.canonical=b.url
          WHERE a.state=1 AND b.state=1"""
        named = dict(self._db.execute(query))
        for url in sorted(named):
            end, seen = named[url], {url}
            while end in named and end not in seen:
                seen.add(end)
                end = named[end]
            if end not in seen:
                self._db.execute(
                    "UPDATE urls SET state=2, reason='not canonical', detail=?, transient=0 WHERE url=?",
                    (f"the page calls itself {named[url]}", url),
                )

    # Results

    def verify_segments(self) -> None:
        """Raises OSError when a journal segment is not what was written."""
        self.journal.verify(self._db.execute("SELECT name, sha256 FROM segments ORDER BY name"))

    def stored(self) -> list[JournalPage]:
        """Returns the stored pages in order of URL."""
        query = """SELECT url, status, content_type, segment, offset, n_stored_bytes, n_bytes, sha256, depth,
          fetched_at, etag, last_modified, reused FROM urls WHERE state=1 ORDER BY url"""
        rows = self._db.execute(query)
        return [
            JournalPage(url, status, content_type, self.journal.folder / segment, *rest)._replace(reused=bool(reused))
            for url, status, content_type, segment, *rest, reused in rows
        ]

    def refused(self) -> list[tuple[str, Refusal]]:
        """Returns the refused URLs in order, each with its reason."""
        query = f"SELECT url, reason, detail, transient FROM urls WHERE state=2 AND {_COUNTED} ORDER BY url"
        return [(url, Refusal(reason, detail, bool(again))) for url, reason, detail, again in self._db.execute(query)]


def _new_row(url: str, depth: int, rejection_reason: RejectionRule) -> tuple[object, ...]:
    """The columns of a URL that may be new: url, host, depth, path, state, reason, detail."""
    path, mark, _ = url.partition("?")
    refusal = rejection_reason(url)
    state = PENDING if refusal is None else REFUSED
    return (url, host_of(url), depth, path if mark else None, state, *(refusal or (None, None)))
