"""Who may come in: an ASGI app around another one that lets a request pass only if it shows the key.

Each user of a machine, and each web page that its browser has open, can reach a port on the loopback interface. A
program shows the key as a bearer token, as OpenAI's clients do; a person opens a link with `?token=` once, and the
browser keeps a cookie for it. `Host` says by which name a page thinks that it talks with this server (one of its own,
after DNS rebinding), `Origin` which page asks: both must be this server's.
"""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import ApiError

HOSTS = ("127.0.0.1", "localhost")
TOKEN = "token"
COOKIE_SECONDS = 30 * 24 * 3600
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Door:
    """An ASGI app that opens another one with `key`; `hint` says where a person finds the link."""

    def __init__(self, app: ASGIApp, key: str, hint: str) -> None:
        self.app, self.key, self.hint = app, key, hint
        self.ticket = hmac.new(key.encode(), b"cookie", hashlib.sha256).hexdigest()
        # Cookies do not know ports: servers of two workspaces must not overwrite each other's.
        self.cookie = f"sourdough-{hashlib.sha256(key.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it: with a cookie for the right token, else with an error."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # there are no websockets behind it
            return await send({"type": "websocket.close", "code": 1008})
        request = Request(scope)
        try:
            check_sender(request)
            response = self.admission(request)
        except ApiError as error:
            response = self.refusal(request, error)
        if response is not None:
            response.headers["Connection"] = "close"  # the body, if there is one, is never read
            response.headers["Cache-Control"] = "no-store"
            return await response(scope, receive, send)
        return await self.app(scope, receive, send)

    def admission(self, request: Request) -> Response | None:
        """Returns None for a request that may pass, or the redirect that sets the cookie; raises ApiError otherwise."""
        token = request.query_params.get(TOKEN)
        if token is not None and request.method == "GET" and same(token, self.key):
            return self.welcome(request)
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and same(shown.strip(), self.key):
            return None
        if same(cookies(request).get(self.cookie, ""), self.ticket):
            if request.method in SAFE_METHODS or "Origin" in request.headers:
                return None
            raise ApiError(403, "a browser says in Origin which page asks; this one does not", code="forbidden_origin")
        raise ApiError(401, f"this server answers only with its key: {self.hint}", code="invalid_api_key")

    def welcome(self, request: Request) -> Response:
        """Returns the redirect to the same page without the token, with the cookie."""
        rest = [item for item in parse_qsl(request.url.query, keep_blank_values=True) if item[0] != TOKEN]
        # Two leading slashes would name another host.
        path = "/" + request.url.path.lstrip("/\\") + (f"?{urlencode(rest)}" if rest else "")
        response = RedirectResponse(path, 303, headers={"Referrer-Policy": "no-referrer"})
        response.set_cookie(self.cookie, self.ticket, max_age=COOKIE_SECONDS, httponly=True, samesite="strict")
        return response

    def refusal(self, request: Request, error: ApiError) -> Response:
        """Returns an error as words for a person's browser, else in the form of OpenAI's API."""
        if "text/html" in request.headers.get("Accept", ""):
            return PlainTextResponse(str(error), error.status)
        return error.response()


def check_sender(request: Request) -> None:
    """Raises ApiError unless `Host`, and `Origin` where there is one, name this server."""
    host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
    if host.rpartition(":")[0] not in HOSTS and host not in HOSTS:
        raise ApiError(403, f"Host is {host!r}; this server is called {' or '.join(HOSTS)}", code="forbidden_host")
    if origin is not None and origin != f"http://{host}":
        raise ApiError(403, "web pages of other sites cannot use this server", code="forbidden_origin")


def same(given: str, right: str) -> bool:
    """Returns whether two strings are equal, in a time that does not tell how much of them is."""
    return hmac.compare_digest(given.encode(), right.encode())


def cookies(request: Request) -> dict[str, str]:
    """Returns the cookies of a request; none where they cannot be read."""
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(request.headers.get("Cookie", "")).items()}
    except CookieError:
        return {}
