"""One host of a crawl at work."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from .ledger import HostState
from .outcome import Row


@dataclass
class Lane:
    """One host at work: its state in the books, and what of its wave has been read, handed out and put off."""

    state: HostState
    n_asked: int
    n_bytes: int
    cursor: str = ""
    cut: str | None = None
    rows: deque[Row] = field(default_factory=deque)
    n_in_flight: int = 0
    rest_until: float | None = None
    """When the failed rows of the wave are tried again, None when none are known."""
    last: float = float("-inf")
    """When a row was handed out last."""
    pace_s: float | None = None
    """Seconds between two requests; None until robots.txt has been read, and until then one request at a time."""

    @property
    def due(self) -> float:
        """When the next request may be made."""
        return self.last + (self.pace_s or 0.0)

    def is_idle(self, now: float) -> bool:
        """Whether the host waits for its next wave, or for its failed rows, whose time has come."""
        rested = self.rest_until is None or now >= self.rest_until
        return not (self.rows or self.n_in_flight or self.state.ended) and rested

    def wakes_at(self, now: float) -> float | None:
        """When time alone will let the host go on; None if it waits for an answer, or for nothing."""
        if self.rest_until is not None and not self.rows:
            return self.rest_until
        return self.due if self.rows and self.due > now else None
