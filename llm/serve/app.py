"""A server for one model that speaks OpenAI's API, with a page to chat on."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, StreamingResponse
from starlette.types import ASGIApp

from ..model.generate import Sampling
from .answer import CHAT_SAMPLING, Answer, ContextOverflow, LoadedModel
from .errors import ApiError, install_handlers
from .guard import Guard
from .replies import Reply, described
from .requests import ChatRequest, CompletionRequest, Generation
from .worker import Worker

PAGE = Path(__file__).with_name("page.html")


def create_app(loaded: LoadedModel, worker: Worker, default: Sampling = CHAT_SAMPLING) -> ASGIApp:
    """The server as an ASGI app; `default` says how tokens are drawn where a request does not."""

    app = FastAPI(title="Sourdough", openapi_url=None)  # FastAPI's own pages would load scripts from elsewhere
    install_handlers(app)
    page, policy = chat_page()

    @app.get("/")
    async def index() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [described(loaded)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        require_model(name, loaded)
        return described(loaded)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatRequest, request: Request) -> Response | dict[str, Any]:
        require_model(body.model, loaded)
        if not loaded.is_chat:
            message = f"{loaded.name} is a base model, not a chat model. Did you mean to use v1/completions?"
            raise ApiError(404, message, param="model")
        messages = [message.for_template() for message in body.messages]
        prompt = await run_in_threadpool(loaded.chat_prompt, messages)
        return await respond(body, prompt, request, is_chat=True)

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response | dict[str, Any]:
        require_model(body.model, loaded)
        prompt = await run_in_threadpool(loaded.text_prompt, body.prompt)
        return await respond(body, prompt, request, is_chat=False)

    async def respond(
        body: Generation, prompt: list[int], request: Request, *, is_chat: bool
    ) -> Response | dict[str, Any]:
        answer = begun(loaded, prompt, body, default)
        reply, pieces = Reply(loaded.name, answer, is_chat=is_chat), worker.pieces(answer)
        if not body.stream:
            return reply.whole(await unless_gone(request, joined(pieces)))
        first = await unless_gone(request, anext(pieces))  # what goes wrong before it is no stream but an error
        events = reply.events(first, pieces, wants_usage=body.wants_usage)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return Guard(app)


def require_model(name: str, loaded: LoadedModel) -> None:
    """Raises ApiError unless `name` is the model that is served."""
    if name != loaded.name:
        message = f"The model {name!r} does not exist; this server has {loaded.name!r}."
        raise ApiError(404, message, param="model", code="model_not_found")


def begun(loaded: LoadedModel, prompt: list[int], body: Generation, default: Sampling) -> Answer:
    """The answer that a request asks for; raises ApiError for what the model cannot do."""
    for name in body.unsupported():
        raise ApiError(400, f"{name!r} is not supported with this value.", param=name, code="unsupported_parameter")
    try:
        return Answer(
            loaded, prompt, sampling=body.sampling(default), max_tokens=body.token_limit, stop=body.stop or ()
        )
    except ContextOverflow as error:
        raise ApiError(
            400,
            f"This model's maximum context length is {error.context_length} tokens. However, your messages resulted "
            f"in {error.n_tokens} tokens, and the answer needs room too. Please shorten them.",
            param="messages" if isinstance(body, ChatRequest) else "prompt",
            code="context_length_exceeded",
        ) from error


T = TypeVar("T")


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What `work` gives; it is cancelled when the client goes away before."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client has gone")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def joined(pieces: AsyncIterator[str]) -> str:
    """The whole text."""
    return "".join([piece async for piece in pieces])


def chat_page() -> tuple[str, str]:
    """The page, and a policy for browsers: run the page's own script and style, load nothing, talk to this server."""
    page = PAGE.read_text(encoding="utf-8")
    allowed = {}
    for tag in ("script", "style"):
        found = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = hashlib.sha256(found[1].encode() if found else b"").digest()
        allowed[tag] = f"'sha256-{base64.b64encode(digest).decode()}'"
    policy = (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy
