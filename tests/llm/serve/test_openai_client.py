"""The official client of OpenAI's API against a running server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from llm.model.generate import Sampling
from llm.serve.answer import Answer, LoadedModel
from tests.llm.serve.serving import CONTEXT_LENGTH, KEY, QUESTION


@pytest.fixture(scope="module")
def client(port: int) -> Iterator[openai.OpenAI]:
    url = f"http://127.0.0.1:{port}/v1"
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=30) as client:
        yield client


def test_an_answer(client: openai.OpenAI, chat: LoadedModel) -> None:
    done = client.chat.completions.create(model="tiny", messages=QUESTION, seed=2, temperature=1.2, max_tokens=30)
    sampling = Sampling(temperature=1.2, seed=2)
    expected = Answer(chat, chat.chat_prompt(QUESTION), sampling=sampling, max_tokens=30)
    assert done.choices[0].message.content == expected.text()
    assert done.choices[0].finish_reason == expected.finish_reason
    assert done.usage is not None
    assert done.usage.total_tokens == expected.n_prompt_tokens + expected.n_tokens


def test_a_stream(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "seed": 3, "temperature": 1.2}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


def test_the_streaming_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="tiny", messages=QUESTION, seed=3) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content


def test_a_conversation_goes_on_with_what_the_client_gives_back(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="tiny", messages=QUESTION, seed=1, max_tokens=5)
    turns = [*QUESTION, first.choices[0].message, {"role": "user", "content": "And?"}]
    second = client.chat.completions.create(model="tiny", messages=turns, seed=1, max_tokens=5)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens > first.usage.total_tokens


def test_a_text_completion(client: openai.OpenAI) -> None:
    done = client.completions.create(model="tiny", prompt="The bread", seed=1, max_tokens=5)
    pieces = client.completions.create(model="tiny", prompt=["The bread"], seed=1, max_tokens=5, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == done.choices[0].text


def test_the_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "sourdough"


@pytest.mark.parametrize(
    ("asked", "kind", "code"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "model_not_found"),
        ({"messages": []}, openai.BadRequestError, "invalid_value"),
        (
            {"messages": [{"role": "user", "content": "bread " * CONTEXT_LENGTH}]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        ({"n": 2}, openai.BadRequestError, "unsupported_parameter"),
        ({"temperature": 3}, openai.BadRequestError, "invalid_value"),
        ({"extra_headers": {"Origin": "http://evil.example"}}, openai.PermissionDeniedError, "forbidden_origin"),
        ({"extra_body": {"padding": "x" * (1 << 20)}}, openai.APIStatusError, "request_too_large"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_clients_exceptions(
    client: openai.OpenAI, asked: dict[str, Any], kind: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": QUESTION, "stream": stream, **asked})
    assert caught.value.code == code
