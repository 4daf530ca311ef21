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
from .classify import LoadedClassifier
from .errors import ApiError, install_handlers
from .guard import Guard
from .replies import Reply, classification, described
from .requests import Body, ChatRequest, ClassifyRequest, CompletionRequest, Generation
from .worker import Worker

PAGE = Path(__file__).with_name("page.html")


def create_app(loaded: LoadedModel | LoadedClassifier, worker: Worker, default: Sampling = CHAT_SAMPLING) -> ASGIApp:
    """Makes the server as an ASGI app; `default` says how tokens are sampled where a request does not."""

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
        chat = language_model(body.model, loaded, is_chat=True)
        prompt = await run_in_threadpool(chat.chat_prompt, body.chat)
        return await respond(chat, body, prompt, request, is_chat=True)

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response | dict[str, Any]:
        model = language_model(body.model, loaded)
        prompt = await run_in_threadpool(model.text_prompt, body.prompt)
        return await respond(model, body, prompt, request, is_chat=False)

    @app.post("/v1/classify", response_model=None)
    async def classify(body: ClassifyRequest, request: Request) -> dict[str, Any]:
        classifier = classifier_of(body.model, loaded)
        require_supported(body)
        predictions = await unless_gone(request, joined(worker.results(classifier.predictions(body.input))))
        return classification(classifier, [item for batch in predictions for item in batch])

    async def respond(
        model: LoadedModel, body: Generation, prompt: list[int], request: Request, *, is_chat: bool
    ) -> Response | dict[str, Any]:
        answer = begun(model, prompt, body, default)
        reply, pieces = Reply(model.name, answer, is_chat=is_chat), worker.results(answer.pieces())
        if not body.stream:
            return reply.whole("".join(await unless_gone(request, joined(pieces))))
        first = await unless_gone(request, anext(pieces))  # what goes wrong before it is no stream but an error
        events = reply.events(first, pieces, wants_usage=body.wants_usage)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return Guard(app)


def require_model(name: str, loaded: LoadedModel | LoadedClassifier) -> None:
    """Raises ApiError unless `name` is the model that is served."""
    if name != loaded.name:
        message = f"The model {name!r} does not exist; this server has {loaded.name!r}."
        raise ApiError(404, message, param="model", code="model_not_found")


def language_model(name: str, loaded: LoadedModel | LoadedClassifier, *, is_chat: bool = False) -> LoadedModel:
    """Returns the model that is served; raises ApiError unless it is `name` and writes text, with `is_chat` answers."""
    require_model(name, loaded)
    if isinstance(loaded, LoadedClassifier):
        wanted = "chat model" if is_chat else "language model"
        raise ApiError(404, f"{name} is a classifier, not a {wanted}. Did you mean to use v1/classify?", param="model")
    if is_chat and not loaded.is_chat:
        message = f"{name} is a base model, not a chat model. Did you mean to use v1/completions?"
        raise ApiError(404, message, param="model")
    return loaded


def classifier_of(name: str, loaded: LoadedModel | LoadedClassifier) -> LoadedClassifier:
    """Returns the classifier that is served; raises ApiError unless it is `name` and a classifier."""
    require_model(name, loaded)
    if isinstance(loaded, LoadedModel):
        kind, endpoint = ("chat model", "chat/completions") if loaded.is_chat else ("base model", "completions")
        message = f"{name} is a {kind}, not a classifier. Did you mean to use v1/{endpoint}?"
        raise ApiError(404, message, param="model")
    return loaded


def require_supported(body: Body) -> None:
    """Raises ApiError for a parameter that would have to change the answer, and cannot."""
    for name in body.unsupported():
        raise ApiError(400, f"{name!r} is not supported with this value.", param=name, code="unsupported_parameter")


def begun(loaded: LoadedModel, prompt: list[int], body: Generation, default: Sampling) -> Answer:
    """Returns the answer that a request asks for; raises ApiError for what the model cannot do."""
    require_supported(body)
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
    """Returns what `work` gives; it is cancelled when the client goes away before."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client has gone")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def joined(results: AsyncIterator[T]) -> list[T]:
    """Returns all results as a list."""
    return [result async for result in results]


def chat_page() -> tuple[str, str]:
    """Returns the page and its policy for browsers: run its own script and style, load nothing, talk to this server."""
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
