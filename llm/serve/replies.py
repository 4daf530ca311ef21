"""What clients get: the shapes of OpenAI's responses, whole or as a stream of server-sent events."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from .answer import Answer, LoadedModel
from .classify import LoadedClassifier, Prediction
from .errors import as_api_error


class Reply:
    """One response; all chunks of a stream carry the same id."""

    def __init__(self, model: str, answer: Answer, *, is_chat: bool) -> None:
        """Prepares one; `is_chat` tells the shapes of `/v1/chat/completions` from those of `/v1/completions`."""
        prefix, self._kind = ("chatcmpl", "chat.completion") if is_chat else ("cmpl", "text_completion")
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._answer, self._is_chat = answer, is_chat

    def whole(self, text: str) -> dict[str, Any]:
        """Returns the response that is sent when the answer is complete."""
        message = (
            {"message": {"role": "assistant", "content": text, "refusal": None}} if self._is_chat else {"text": text}
        )
        choice = {"index": 0, **message, "logprobs": None, "finish_reason": self._answer.finish_reason}
        return {**self._head, "object": self._kind, "choices": [choice], "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """Returns the tokens read and generated; the token that ends a turn counts."""
        n_prompt, n_made = self._answer.n_prompt_tokens, self._answer.n_tokens
        return {"prompt_tokens": n_prompt, "completion_tokens": n_made, "total_tokens": n_prompt + n_made}

    async def events(
        self, first: str, others: AsyncGenerator[str, None], *, wants_usage: bool
    ) -> AsyncGenerator[str, None]:
        """Yields the stream: a chunk for each piece of text, one with the reason of its end, `[DONE]`; or an error."""
        no_usage = {"usage": None} if wants_usage else {}
        try:
            if self._is_chat:
                yield event(self._chunk({"role": "assistant", "content": ""}) | no_usage)
            yield event(self._chunk({"content": first}) | no_usage)
            async with contextlib.aclosing(others):
                async for piece in others:
                    if piece:
                        yield event(self._chunk({"content": piece}) | no_usage)
            yield event(self._chunk({}, self._answer.finish_reason) | no_usage)
            if wants_usage:
                yield event({**self._chunk({}), "choices": [], "usage": self.usage()})
            yield "data: [DONE]\n\n"
        except Exception as error:
            yield event(as_api_error(error).content())

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        part = {"delta": delta} if self._is_chat else {"text": delta.get("content", "")}
        choice = {"index": 0, **part, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "object": self._kind + ".chunk" * self._is_chat, "choices": [choice]}


def event(content: dict[str, Any]) -> str:
    """Returns a server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def classification(loaded: LoadedClassifier, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Returns the response to `/v1/classify`, in the shape of vLLM's: probabilities in the order of the labels."""
    data = [
        {"index": i, "label": item.label, "probs": item.probabilities, "num_classes": len(loaded.labels)}
        for i, item in enumerate(predictions)
    ]
    n_tokens = sum(item.n_tokens for item in predictions)
    usage = {"prompt_tokens": n_tokens, "completion_tokens": 0, "total_tokens": n_tokens}
    head = {"id": f"classify-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": loaded.name}
    return {**head, "data": data, "usage": usage}


def described(loaded: LoadedModel | LoadedClassifier) -> dict[str, Any]:
    """Returns a model as `/v1/models` lists it; the fields from `max_model_len` on are not of OpenAI's API."""
    about = {"id": loaded.name, "object": "model", "created": loaded.created, "owned_by": "sourdough"}
    if isinstance(loaded, LoadedClassifier):
        return {**about, "max_model_len": loaded.context_length, "is_chat": False, "labels": list(loaded.labels)}
    return {**about, "max_model_len": loaded.context_length, "is_chat": loaded.is_chat}
