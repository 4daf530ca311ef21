"""What stands before the app: how large a request may be."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError

MAX_BODY_BYTES = 1 << 20


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
