"""The door to both UIs: a browser that was shown the key sees Prefect's and MLflow's pages on two ports of one front.

The servers behind it are on ports that change, and answer nobody without keys of their own, which the front adds.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

import httpx
import uvicorn
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from llm.serve.door import Door
from llm.serve.guard import TimedProtocol
from tasks.core.credentials import USER

HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"}) | {
    "transfer-encoding",
    "upgrade",
}
"""Headers about one connection, which a proxy does not pass on (RFC 9110, section 7.6.1)."""
NOT_SENT = HOP_BY_HOP | {"host", "origin", "referer", "authorization"}
SECONDS = httpx.Timeout(10.0, read=300.0)


@dataclass(frozen=True)
class Backend:
    """A server behind the front: its address, and the header that it is opened with."""

    address: str
    authorization: str


class Front:
    """An ASGI app that passes requests to the server that belongs to the port on which they came."""

    def __init__(self, backends: Mapping[int, Backend]) -> None:
        self.backends = backends
        self.client = httpx.AsyncClient(timeout=SECONDS, trust_env=False, follow_redirects=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request with what the server behind says."""
        request = Request(scope, receive)
        response = await self.passed_on(request, self.backends[scope["server"][1]])
        await response(scope, receive, send)

    async def passed_on(self, request: Request, backend: Backend) -> Response:
        """Returns the answer of a server as it comes, without being kept in memory."""
        headers = [(name, value) for name, value in request.headers.items() if name not in NOT_SENT]
        asked = httpx.Request(  # one made by the client would get headers of its own
            request.method,
            httpx.URL(backend.address).copy_with(raw_path=raw_path(request.scope)),
            headers=[*headers, ("authorization", backend.authorization)],
            content=request.stream() if has_body(request) else None,
        )
        try:
            answer = await self.client.send(asked, stream=True)
        except httpx.HTTPError as error:
            return Response(f"the server behind this page does not answer ({error!r})", 502)
        here = f"http://{request.headers['host']}"
        if request.url.path == "/ui-settings":
            return ui_settings(await read_all(answer), here)
        response = StreamingResponse(chunks(answer), answer.status_code)
        response.raw_headers = [
            (name, value.replace(backend.address.encode(), here.encode()) if name.lower() == b"location" else value)
            for name, value in answer.headers.raw
            if name.lower().decode() not in HOP_BY_HOP
        ]
        return response


def opened(address: str, key: str) -> Backend:
    """Returns a server behind the front that asks for our user and a key."""
    return Backend(address, "Basic " + base64.b64encode(f"{USER}:{key}".encode()).decode())


def raw_path(scope: Scope) -> bytes:
    """Returns path and query of a request as they came."""
    query: bytes = scope["query_string"]
    path: bytes = scope["raw_path"]
    return path + b"?" + query if query else path


def has_body(request: Request) -> bool:
    """Returns whether a request says that a body follows."""
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


async def chunks(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Yields the body of an answer as it comes, compressed where the server compressed it."""
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


async def read_all(answer: httpx.Response) -> bytes:
    """Returns the body of an answer, decompressed."""
    try:
        return await answer.aread()
    finally:
        await answer.aclose()


def ui_settings(found: bytes, here: str) -> Response:
    """Returns Prefect's settings for its pages: the API is where the pages are, and nobody has to log in again."""
    return Response(
        json.dumps({**json.loads(found), "api_url": f"{here}/api", "auth": None}), media_type="application/json"
    )


@contextlib.contextmanager
def serving(app: ASGIApp, listeners: list[socket.socket]) -> Iterator[None]:
    """Serves an app on sockets, in a thread, for the length of the block."""
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,  # the servers behind it send theirs
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": listeners}, name="front", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(5)


def front(backends: Mapping[int, Backend], key: str) -> ASGIApp:
    """Returns the front as an app: the door, and behind it the servers by the port of the front."""
    return Door(Front(backends), key, "open the link that `python -m flows ui` has printed")
