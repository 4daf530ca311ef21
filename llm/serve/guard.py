"""What stands before the app: how large a request may be, and how long a client may take.

A client that sends its request drop by drop, or never reads its answer, would hold a connection for ever: uvicorn has
no limit for either. Here each has its time, and where there are too many connections, the one whose request is awaited
longest makes room for the new one.
"""

from __future__ import annotations

import asyncio

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import ApiError

MAX_BODY_BYTES = 1 << 20
REQUEST_SECONDS = 20.0
"""What a client has for sending a request, head and body, and for beginning with its first one."""
ANSWER_SECONDS = 30.0
"""What a client has for reading what is ready for it."""
CHECK_SECONDS = 1.0
MAX_CONNECTIONS = 400
"""Connections at a time; each takes one of the files that a process may open, often 1,024."""


class TimedProtocol(H11Protocol):
    """uvicorn's end of a connection, with limits for the time that the other end takes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to watch the connection."""
        super().connection_made(transport)
        self._asked_at = self._empty_at = self.loop.time()
        theirs = [other for other in self.connections if isinstance(other, TimedProtocol)]
        there = [other for other in theirs if not other.transport.is_closing()]
        if len(there) > MAX_CONNECTIONS:
            waiting = [other for other in there if other.is_waiting]  # this one at least
            min(waiting, key=lambda other: other._asked_at).transport.abort()
        self._check()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the watch."""
        self._watch.cancel()
        super().connection_lost(exc)

    @property
    def is_waiting(self) -> bool:
        """Whether the client has not sent a whole request, or no other one yet."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _check(self) -> None:
        """Cuts the connection when it is time; not only closes it, which waits until the answer was read."""
        now = self.loop.time()
        self._asked_at = self._asked_at if self.is_waiting else now
        self._empty_at = self._empty_at if self.transport.get_write_buffer_size() else now
        self._watch = self.loop.call_later(CHECK_SECONDS, self._check)
        if now - self._asked_at > REQUEST_SECONDS or now - self._empty_at > ANSWER_SECONDS:
            self.transport.abort()


class Guard:
    """An ASGI app around another one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with an error."""
        if scope["type"] == "http":
            try:
                receive = replay(await whole_body(receive), receive)
            except ApiError as error:
                response = error.response()
                response.headers["connection"] = "close"  # the rest of the body is never read
                return await response(scope, receive, send)
        return await self.app(scope, receive, send)


async def whole_body(receive: Receive) -> list[Message]:
    """Returns the messages that make the body of a request; raises ApiError when it is too large."""
    messages, n_bytes = [await receive()], 0
    while True:
        n_bytes += len(messages[-1].get("body", b""))
        if n_bytes > MAX_BODY_BYTES:
            raise ApiError(413, f"the body has more than {MAX_BODY_BYTES} bytes", code="request_too_large")
        if not messages[-1].get("more_body"):
            return messages
        messages.append(await receive())


def replay(messages: list[Message], receive: Receive) -> Receive:
    """Returns a `receive` that gives messages that have been read already, then those that are still to come."""
    waiting = iter(messages)

    async def again() -> Message:
        return next(waiting, None) or await receive()

    return again
