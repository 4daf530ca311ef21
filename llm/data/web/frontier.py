"""What a crawl fetches next: every host at its own pace, and yet the same pages whatever the pace was.

**What holds, however many connections and kills.** A host is crawled breadth first: a level is what waits at the host's
smallest depth, admitted at once; the next one is opened when every row of it is settled, failed ones tried again
included. So a host's levels follow from its own pages alone, no host waits for another, and a slow one holds up nobody.
Links from one host to another are set aside until no host has anything left to do; then they open a new round, at the
depth that they give. A redirect counts as a link: its target is one deeper.

**Budgets.** At the start of a round, the pages that the crawl may still ask for are shared out evenly between the hosts
with something left to do (what some of them leave over is shared out in the next round), and so are the bytes. Within
its share a host admits the first rows of a depth in order of URL, whatever will become of them. Of its bytes it keeps,
in the same order, the longest run of pages that fits; what was fetched beyond it is dropped, and nothing it links to
counts. So the same sites give the same pages, depths and refusals. Only `max_seconds` makes a result depend on time.

**Kills.** Pages and refusals are committed in batches (see ledger.py), so a process killed at any moment loses at most
its open batch, which is then fetched again.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .config import CrawlConfig
from .ledger import HostState, Ledger, Totals
from .links import host_of
from .outcome import GUESSED_SITEMAP, PAGE, SITEMAP, FetchedPage, Refusal, Row
from .sitemap import guessed_sitemap, looks_like_sitemap
from .traps import LinkRules

BATCH_ROWS, BATCH_BYTES, BATCH_SECONDS = 32, 32 * 2**20, 2.0
"""The open batch is committed when it reaches one of these: settled rows, bytes of bodies, seconds."""

MAX_SITEMAPS = 1_000
"""Sitemaps of a host that are read."""

PORTION = 64
"""Rows that are read from the ledger at a time."""


@dataclass
class HostQueue:
    """One host at work: its state in the ledger, and what of its level has been read, handed out and put off."""

    state: HostState
    n_asked: int
    n_bytes: int
    cursor: str = ""
    cut: str | None = None
    rows: deque[Row] = field(default_factory=deque)
    n_in_flight: int = 0
    rest_until: float | None = None
    """When the failed rows of the level are tried again, None when none are known."""
    last: float = float("-inf")
    """When a row was handed out last."""
    pace_s: float | None = None
    """Seconds between two requests; None until robots.txt has been read, and until then one request at a time."""

    @property
    def due(self) -> float:
        """When the next request may be made."""
        return self.last + (self.pace_s or 0.0)

    def is_idle(self, now: float) -> bool:
        """Returns whether the host waits for its next level, or for its failed rows, whose time has come."""
        rested = self.rest_until is None or now >= self.rest_until
        return not (self.rows or self.n_in_flight or self.state.ended) and rested

    def wakes_at(self, now: float) -> float | None:
        """Returns when time alone will let the host go on; None if it waits for an answer, or for nothing."""
        if self.rest_until is not None and not self.rows:
            return self.rest_until
        return self.due if self.rows and self.due > now else None


class Frontier:
    """The URLs of one crawl, kept in `work_dir`. One process at a time may open it (the job's lock sees to that)."""

    def __init__(self, work_dir: Path, seeds: Iterable[str], budget: CrawlConfig) -> None:
        """Opens or continues the crawl; raises OSError when a journal segment that it names is gone."""
        self.budget = budget
        self.ledger = Ledger(work_dir)
        self._rules = LinkRules(budget.allow, budget.deny, budget.max_path_repeats)
        self._started, self._seconds_before = time.monotonic(), self.ledger.seconds
        self._pages: list[FetchedPage] = []
        self._refusals: list[tuple[Row, Refusal]] = []
        self._n_batch_bytes = 0
        self._last_commit = time.monotonic()
        self._in_flight: dict[int, HostQueue] = {}
        self._queues: dict[str, HostQueue] = {}
        self._turns: deque[HostQueue] = deque()
        self.finished = False
        with self.ledger.transaction():
            self._begin_or_go_on(tuple(seeds))
        self.totals = self.ledger.totals()

    def _begin_or_go_on(self, seeds: tuple[str, ...]) -> None:
        hosts = self.ledger.hosts()
        if hosts and not self.ledger.totals().n_stored:
            # The stage failed for a lasting reason that somebody may have mended since; there is nothing to lose.
            self.ledger.forget_everything()
            hosts = []
        if hosts:
            reopened = [self.ledger.reopen(state) for state in hosts]
            self._make_queues(
                state._replace(ended=state.ended and not again) for state, again in zip(hosts, reopened, strict=True)
            )
        else:
            first = {guessed_sitemap(seed): GUESSED_SITEMAP for seed in seeds} if self.budget.sitemaps else {}
            first |= {seed: SITEMAP if looks_like_sitemap(seed) else PAGE for seed in seeds}
            self.ledger.add(first, depth=0)
            self._open_round()

    def _make_queues(self, states: Iterable[HostState]) -> None:
        """Puts hosts to work; the pace of one that has been at work before is kept."""
        paces = {host: (queue.pace_s, queue.last) for host, queue in self._queues.items()}
        self._queues = {}
        for state in states:
            queue = HostQueue(state, self.ledger.asked(state.host), self.ledger.host_bytes(state.host))
            queue.pace_s, queue.last = paces.get(state.host, (None, queue.last))
            self._queues[state.host] = queue
            self._cut_if_over_budget(queue)
        self._turns = deque(self._queues.values())

    # Handing out

    def next_row(self) -> Row | None:
        """Returns the next URL to fetch; None: wait for an answer, for `pause_s`, or, when `finished`, for nothing."""
        row = None
        while not self.finished and row is None:
            row = None if self._time_is_up() else self._take()
            if row is None and not self._move_on():
                break
        return row

    def _take(self) -> Row | None:
        """Returns a row of a host whose turn it is, in order of URL within the host."""
        now = time.monotonic()
        n_open = sum(not queue.state.ended for queue in self._turns)
        n_busy = sum(bool(queue.rows or queue.n_in_flight) for queue in self._turns)
        for _ in range(len(self._turns)):
            queue = self._turns[0]
            self._turns.rotate(-1)
            if self._refill(queue) and now >= queue.due and queue.n_in_flight < self._share(queue, n_open, n_busy):
                row = queue.rows.popleft()
                queue.n_in_flight += 1
                queue.last = now
                self._in_flight[row.id] = queue
                return row
        return None

    def _share(self, queue: HostQueue, n_open: int, n_busy: int) -> int:
        """Returns how many connections a host may hold: an even share among the busy ones, one left for each other."""
        if queue.pace_s is None:
            return 1
        n = self.budget.n_connections
        polite = self.budget.max_connections_per_host if queue.pace_s <= self.budget.delay_s else 1
        return max(1, min(polite, n // max(1, n_busy), n - (n_open - 1)))

    def _refill(self, queue: HostQueue) -> bool:
        """Returns whether the host has a row to hand out, after reading on where there was none."""
        if not queue.rows and not queue.state.ended and queue.rest_until is None:
            queue.rows.extend(self.ledger.pending(queue.state, queue.cursor, queue.cut, PORTION))
            queue.cursor = queue.rows[-1].url if queue.rows else queue.cursor
        return bool(queue.rows)

    def set_pace(self, host: str, delay_s: float) -> None:
        """Says that a host's robots.txt has been read, and the seconds that it asks for between two requests."""
        if (queue := self._queues.get(host)) is not None:
            queue.pace_s = max(delay_s, self.budget.delay_s)

    def _time_is_up(self) -> bool:
        limit = self.budget.max_seconds
        return limit is not None and self.seconds() > limit

    def seconds(self) -> float:
        """Returns how long the crawl has been running, earlier processes included."""
        return self._seconds_before + time.monotonic() - self._started

    def pause_s(self) -> float:
        """Returns the seconds until time alone lets a host go on, or ends the crawl; 0 when none waits for that."""
        now = time.monotonic()
        times = [when - now for queue in self._turns if (when := queue.wakes_at(now)) is not None]
        if self.budget.max_seconds is not None:
            times.append(self.budget.max_seconds - self.seconds())
        return max(0.001, min(times)) if times else 0.0

    # Levels and rounds

    def _move_on(self) -> bool:
        """Opens levels, or a round, when there is nothing to hand out; returns whether that may have given rows."""
        if self._time_is_up():
            if not self._in_flight:
                self.commit()
                with self.ledger.transaction():
                    self._finish("time limit")
                self.totals = self.ledger.totals()
            return False
        now = time.monotonic()
        idle = [queue for queue in self._turns if queue.is_idle(now)]
        if idle:
            self.commit()  # the links of a level make the next one
            n_moved = sum(self._step(queue) for queue in idle)
            return n_moved > 0
        if not self._in_flight and all(queue.state.ended for queue in self._turns):
            self.commit()
            with self.ledger.transaction():
                self._open_round()
            self.totals = self.ledger.totals()
            return not self.finished
        return False

    def _step(self, queue: HostQueue) -> bool:
        """Takes an idle host on to another try of its failed rows, or to its next level; whether something changed."""
        attempts = self.ledger.failed_attempts(queue.state, queue.cut)
        if not attempts:
            with self.ledger.transaction():
                self._open_level(queue)
            self.totals = self.ledger.totals()
        elif queue.rest_until is None:
            queue.rest_until = time.monotonic() + self.budget.retry_pause_s * 2 ** (attempts - 1)
            if self.budget.retry_pause_s:
                return False
        queue.cursor, queue.rest_until = "", None
        return True

    def _open_level(self, queue: HostQueue) -> None:
        """Closes the host's level and admits its next one; the host has ended when there is none within its budget."""
        if not queue.state.is_full and (cut := self._byte_cut(queue)) is not None:
            self.ledger.end_at(queue.state, cut)
            queue.state = queue.state._replace(is_full=True)
        is_open = not queue.state.is_full and self._admit(queue)
        queue.state = queue.state._replace(ended=not is_open)
        queue.cut = None
        self.ledger.save_host(queue.state)

    def _admit(self, queue: HostQueue) -> bool:
        """Returns whether rows of the host's smallest depth could be admitted; refuses those that never will be."""
        host = queue.state.host
        while (depth := self.ledger.next_depth(host)) is not None:
            if depth > self.budget.max_depth:
                self.ledger.refuse_waiting(host, "too deep", depth=depth)
                continue
            self.ledger.refuse_variants(host, depth, self.budget.max_query_variants)
            self.ledger.refuse_sitemaps(host, depth, MAX_SITEMAPS)
            level = queue.state.level + 1
            queue.n_asked += self.ledger.admit(host, depth, level, queue.state.max_pages - queue.n_asked)
            queue.state = queue.state._replace(level=level)
            if self.ledger.failed_attempts(queue.state, None):
                return True
            if self.ledger.next_depth(host) == depth:
                return False  # the rest waits for what others leave over
        return False

    def _open_round(self) -> None:
        """Shares out what is left of the budgets between the hosts that have URLs waiting; ends the crawl without."""
        self.ledger.merge_cross_host_links(self._rules.rejection_reason)
        states = {state.host: state for state in self.ledger.hosts()}
        waiting = self._hosts_within_budget(states)
        n_asked = {host: self.ledger.asked(host) for host in {*states, *waiting}}
        n_left = self.budget.max_pages - sum(n_asked.values())
        if not waiting or n_left <= 0:
            self._finish("page budget")
            return
        n_bytes = max(0, self.budget.max_total_bytes - self.ledger.totals().n_bytes) // len(waiting)
        for index, host in enumerate(waiting):
            share = n_left // len(waiting) + (index < n_left % len(waiting))
            max_pages = min(n_asked[host] + share, self.budget.max_pages_per_host or n_asked[host] + share)
            level = states[host].level if host in states else 0
            max_bytes = self.ledger.host_bytes(host) + n_bytes
            states[host] = HostState(host, level, max_pages, max_bytes, ended=False, is_full=False)
            self.ledger.save_host(states[host])
        self._make_queues(states[host] for host in sorted(states))
        for queue in self._queues.values():
            if not queue.state.ended:
                self._open_level(queue)

    def _hosts_within_budget(self, states: dict[str, HostState]) -> list[str]:
        """Returns the hosts with URLs waiting, by name, after refusing the URLs of those whose budget is used up."""
        limit = self.budget.max_pages_per_host
        waiting = []
        for host in self.ledger.waiting_hosts():
            if host in states and states[host].is_full:
                self.ledger.refuse_waiting(host, "byte budget")
            elif limit is not None and self.ledger.asked(host) >= limit:
                self.ledger.refuse_waiting(host, "host budget", f"{limit} pages")
            else:
                waiting.append(host)
        return waiting

    def _finish(self, reason: str) -> None:
        """Ends the crawl: what is left is refused, and pages that name another one as their own form give way to it."""
        self.ledger.refuse_pending(reason)
        self.ledger.refuse_copies()
        self.finished = True

    def _byte_cut(self, queue: HostQueue) -> str | None:
        return self.ledger.byte_cut(queue.state) if queue.n_bytes > queue.state.max_bytes else None

    def _cut_if_over_budget(self, queue: HostQueue) -> None:
        """Keeps rows that surely lie beyond the byte budget from being fetched."""
        queue.cut = cut = self._byte_cut(queue)
        while cut is not None and queue.rows and queue.rows[-1].url >= cut:
            queue.rows.pop()

    # Settling

    def store(self, page: FetchedPage) -> None:
        """Takes a fetched page into the open batch."""
        self._leave_flight(page.row)
        self._pages.append(page)
        self._n_batch_bytes += len(page.body)
        self._commit_if_full()

    def refuse(self, row: Row, refusal: Refusal) -> None:
        """Takes a failure into the open batch; a transient one is tried again, up to `max_retries` times."""
        self._leave_flight(row)
        self._refusals.append((row, refusal))
        self._commit_if_full()

    def in_flight(self, row: Row) -> bool:
        """Returns whether the row has been handed out and is not settled."""
        return row.id in self._in_flight

    def _leave_flight(self, row: Row) -> None:
        self._in_flight.pop(row.id).n_in_flight -= 1

    def _commit_if_full(self) -> None:
        if (
            len(self._pages) + len(self._refusals) >= BATCH_ROWS
            or self._n_batch_bytes >= BATCH_BYTES
            or time.monotonic() - self._last_commit >= BATCH_SECONDS
        ):
            self.commit()

    def commit(self) -> None:
        """Makes the open batch durable: the segment first, then the transaction that names it."""
        if self._pages or self._refusals:
            segment = self.ledger.write_segment(self._pages) if self._pages else None
            with self.ledger.transaction():
                if segment is not None:
                    self.ledger.name_segment(self._pages, segment)
                self.ledger.refuse(self._refusals, self.budget.max_retries)
                n_new = self._add_links()
                self.ledger.set_seconds(self.seconds())
            for page in self._pages:
                self._queues[page.row.host].n_bytes += len(page.body)
            known, stored, n_bytes = self.totals
            self.totals = Totals(known + n_new, stored + len(self._pages), n_bytes + self._n_batch_bytes)
            hosts = {page.row.host for page in self._pages}
            self._pages, self._refusals, self._n_batch_bytes = [], [], 0
            for host in hosts:
                self._cut_if_over_budget(self._queues[host])
        self._last_commit = time.monotonic()

    def _add_links(self) -> int:
        """Adds where the batch leads; returns how many URLs were new. A host's rows in it are all of one level."""
        found: dict[str, tuple[Row, dict[str, int]]] = {}
        for row, links, sitemaps in self._targets():
            _, urls = found.setdefault(row.host, (row, {}))
            urls.update(dict.fromkeys(links, PAGE) | urls)
            urls.update(dict.fromkeys(sitemaps, SITEMAP))
        n_new = 0
        for row, urls in found.values():
            own = {url: kind for url, kind in urls.items() if host_of(url) == row.host}
            n_new += self.ledger.add(own, row.depth + 1, self._rules.rejection_reason)
            foreign = {url: kind for url, kind in urls.items() if url not in own}
            self.ledger.add_cross_host_links(foreign, row, self._queues[row.host].state.level)
        return n_new

    def _targets(self) -> Iterator[tuple[Row, tuple[str, ...], tuple[str, ...]]]:
        pages = ((page.row, page.links, ()) for page in self._pages)
        refusals = ((row, refusal.links, refusal.sitemaps) for row, refusal in self._refusals)
        return itertools.chain(pages, refusals)

    def close(self) -> None:
        """Closes the ledger; what was committed stays."""
        self.ledger.close()
