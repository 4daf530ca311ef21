"""The server over real connections: shapes, errors in the API's form, a queue, clients that go away, an end."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

from llm.model.generate import Sampling
from llm.serve import worker as worker_module
from llm.serve.answer import CHAT_SAMPLING, Answer, LoadedModel
from llm.serve.guard import MAX_BODY_BYTES
from llm.serve.server import listen
from tests.llm.serve.serving import CONTEXT_LENGTH, LOGIN, QUESTION, call, chat_body, served, tiny_model

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@contextmanager
def open_stream(port: int, **fields: Any) -> Iterator[HTTPResponse]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        body = json.dumps(chat_body(stream=True, **fields))
        connection.request("POST", CHAT, body, LOGIN | {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            yield response


def events(response: HTTPResponse) -> list[Any]:
    """The JSON of each event, and `[DONE]` as it is."""
    parts = response.read().decode().split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    return [part[6:] if part[6:] == "[DONE]" else json.loads(part[6:]) for part in parts]


def test_an_answer_is_that_of_the_terminal_chat(port: int, chat: LoadedModel) -> None:
    answer = Answer(chat, chat.chat_prompt(QUESTION), sampling=Sampling(temperature=0.7, seed=1))
    status, content = call(port, CHAT, chat_body())
    (choice,) = content["choices"]
    assert (status, choice["message"]["role"], choice["message"]["content"]) == (200, "assistant", answer.text())
    assert choice["finish_reason"] == answer.finish_reason
    usage = {"prompt_tokens": answer.n_prompt_tokens, "completion_tokens": answer.n_tokens}
    assert content["usage"] == {**usage, "total_tokens": answer.n_prompt_tokens + answer.n_tokens}
    assert (content["object"], content["model"]) == ("chat.completion", "tiny")


@pytest.mark.parametrize("wants_usage", [False, True])
def test_a_stream_carries_the_same_answer(port: int, wants_usage: bool) -> None:
    _, whole = call(port, CHAT, chat_body(temperature=1.5))
    with open_stream(port, temperature=1.5, stream_options={"include_usage": wants_usage}) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        *chunks, done = events(response)
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1
    if wants_usage:
        last = chunks.pop()
        assert (last["choices"], last["usage"]) == ([], whole["usage"])
        assert {chunk["usage"] for chunk in chunks} == {None}
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    assert text == whole["choices"][0]["message"]["content"]
    reasons = [choice["finish_reason"] for choice in choices]
    assert reasons == [None] * (len(choices) - 1) + [whole["choices"][0]["finish_reason"]]


def test_parameters_reach_the_model(port: int, chat: LoadedModel) -> None:
    sampling = Sampling(temperature=1.9, top_k=7, top_p=0.8, seed=-5)
    answer = Answer(chat, chat.chat_prompt(QUESTION), sampling=sampling, max_tokens=20, stop=["a"])
    fields = {"temperature": 1.9, "top_k": 7, "top_p": 0.8, "seed": -5, "max_completion_tokens": 20, "stop": "a"}
    _, content = call(port, CHAT, chat_body(**fields))
    assert content["choices"][0]["message"]["content"] == answer.text()


def test_without_a_seed_answers_differ(port: int) -> None:
    texts = {call(port, CHAT, chat_body(seed=None))[1]["choices"][0]["message"]["content"] for _ in range(3)}
    assert len(texts) > 1


def test_a_message_may_have_parts_and_a_developer(port: int) -> None:
    parts = [{"type": "text", "text": "What does "}, {"type": "text", "text": "the baker do?"}]
    plain = [{"role": "system", "content": "Be brief."}, *QUESTION]
    other = [{"role": "developer", "content": "Be brief.", "name": "me"}, {"role": "user", "content": parts}]
    empty = [{"role": "system", "content": None}, {"role": "system", "content": " "}]
    answers = [call(port, CHAT, chat_body(messages=messages))[1]["choices"] for messages in (plain, other)]
    assert answers[0] == answers[1]
    answers = [call(port, CHAT, chat_body(messages=[*some, *QUESTION]))[1]["choices"] for some in (empty, [])]
    assert answers[0] == answers[1], "a model is never trained on a system that says nothing"
    again = [*QUESTION, {"role": "assistant", "content": None}, *QUESTION]
    assert call(port, CHAT, chat_body(messages=again))[0] == 200


def test_a_base_model_continues_a_text_and_says_that_it_cannot_chat(base: LoadedModel) -> None:
    with served(base) as (_, port):
        _, content = call(port, TEXT, {"model": "tiny", "prompt": "The bread", "seed": 4})
        answer = Answer(base, base.text_prompt("The bread"), sampling=Sampling(temperature=0.7, seed=4), max_tokens=16)
        assert (content["object"], content["choices"][0]["text"]) == ("text_completion", answer.text())
        status, content = call(port, CHAT, chat_body())
        assert (status, content["error"]["param"]) == (404, "model")
        assert "Did you mean to use v1/completions?" in content["error"]["message"]
        assert call(port, "/v1/models")[1]["data"][0]["is_chat"] is False


def test_the_models_are_listed(port: int) -> None:
    _, content = call(port, "/v1/models")
    assert [model["id"] for model in content["data"]] == ["tiny"]
    assert call(port, "/v1/models/tiny") == (200, content["data"][0])
    assert content["data"][0]["max_model_len"] == CONTEXT_LENGTH


LONG = [{"role": "user", "content": "bread " * CONTEXT_LENGTH}]


def user(content: Any) -> dict[str, Any]:
    return chat_body(messages=[{"role": "user", "content": content}])


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        (b'{"model": "tiny", "mess', 400, None, None),
        (b"\xff\xfe", 400, None, None),
        (b"[" * 100_000, 400, None, None),
        (b"", 400, None, None),
        ([1], 400, None, None),
        ({"messages": QUESTION}, 400, "model", "missing_required_parameter"),
        ({"model": "tiny"}, 400, "messages", "missing_required_parameter"),
        (chat_body(model="gpt-4"), 404, "model", "model_not_found"),
        (chat_body(messages=[]), 400, "messages", "invalid_value"),
        (chat_body(messages="hello"), 400, "messages", "invalid_type"),
        (chat_body(messages=[{"role": "user"}]), 400, "messages[0].content", "missing_required_parameter"),
        (chat_body(messages=[*QUESTION, {"role": "pope", "content": "x"}]), 400, "messages[1].role", "invalid_value"),
        (user(None), 400, "messages[0].content", "invalid_type"),
        (chat_body(messages=[{"role": ["user"], "content": "x"}]), 400, "messages[0].role", "invalid_value"),
        (user([{"type": "image_url", "image_url": {"url": "x"}}]), 400, "messages[0].content", "invalid_value"),
        (user("half of a pair: \ud800"), 400, "messages[0].content", "invalid_value"),
        (chat_body(messages=LONG), 400, "messages", "context_length_exceeded"),
        (chat_body(messages=LONG, stream=True), 400, "messages", "context_length_exceeded"),
        (chat_body(temperature="1"), 400, "temperature", "invalid_type"),
        (chat_body(temperature=True), 400, "temperature", "invalid_type"),
        (chat_body(temperature=2.1), 400, "temperature", "invalid_value"),
        (b'{"model": "tiny", "messages": [], "temperature": NaN}', 400, "temperature", "invalid_value"),
        (chat_body(top_p=-1), 400, "top_p", "invalid_value"),
        (chat_body(max_tokens=0), 400, "max_tokens", "invalid_value"),
        (chat_body(max_tokens=1.5), 400, "max_tokens", "invalid_type"),
        (chat_body(seed=2**63), 400, "seed", "invalid_value"),
        (chat_body(stream="yes"), 400, "stream", "invalid_type"),
        (chat_body(stop=["a"] * 5), 400, "stop", "invalid_value"),
        (chat_body(stop=[1]), 400, "stop[0]", "invalid_type"),
        (chat_body(top_k=-2), 400, "top_k", "invalid_value"),
        (chat_body(n=2), 400, "n", "unsupported_parameter"),
        (chat_body(tools=[{"type": "function"}]), 400, "tools", "unsupported_parameter"),
        (chat_body(logprobs=True), 400, "logprobs", "unsupported_parameter"),
        (chat_body(temprature=1), 400, "temprature", "unsupported_parameter"),
        (
            chat_body(messages=[{"role": "user", "content": "", "tool_calls": [1]}]),
            400,
            "messages[0].tool_calls",
            "unsupported_parameter",
        ),
    ],
)
def test_errors_have_the_form_of_the_api(port: int, body: Any, status: int, param: str | None, code: str) -> None:
    found, content = call(port, CHAT, body)
    assert found == status, content
    error = content["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert error["message"]


NEUTRAL_FIELDS: dict[str, list[Any]] = {
    "n": [1],
    "best_of": [1],
    "logprobs": [False],
    "top_logprobs": [0],
    "frequency_penalty": [0, 0.0],
    "presence_penalty": [-0.0],
    "repetition_penalty": [1, 1.0],
    "min_p": [0, 0.0],
    "suffix": [""],
    "stop": ["", [], [""]],
    "use_beam_search": [False],
    "ignore_eos": [False],
    "skip_special_tokens": [True],
    "logit_bias": [{}],
    "tools": [[]],
    "functions": [[]],
    "tool_choice": ["none", "auto"],
    "response_format": [{"type": "text"}],
    "modalities": [["text"]],
    "user": ["me"],
    "metadata": [{"a": "b"}],
    "seed": [],
    "max_tokens": [],
    "temperature": [],
    "temprature": [False],
}


@pytest.mark.parametrize("name", NEUTRAL_FIELDS)
def test_what_asks_for_nothing_leaves_the_answer_as_it_is(port: int, name: str) -> None:
    given = {"max_tokens": 4, "temperature": 0}
    given.pop(name, None)
    plain = call(port, CHAT, chat_body(**given))[1]["choices"] if name in ("max_tokens", "temperature") else None
    plain = plain or call(port, CHAT, chat_body(**given))[1]["choices"]
    for value in [None, *NEUTRAL_FIELDS[name]]:
        status, content = call(port, CHAT, chat_body(**given) | {name: value})
        assert (status, content.get("choices")) == (200, plain), value


@pytest.mark.parametrize(
    "asked",
    [
        {"n": True},
        {"logprobs": 0},  # of a text completion: the probability of each token
        {"top_logprobs": 2},
        {"min_p": 0.1},
        {"repetition_penalty": 0},
        {"suffix": "end"},
        {"use_beam_search": True},
        {"skip_special_tokens": False},
        {"logit_bias": {"5": 1}},
        {"add_special_tokens": False},
        {"temprature": 0},
    ],
)
def test_what_would_change_the_answer_is_refused_by_its_name(
    base: LoadedModel, port: int, asked: dict[str, Any]
) -> None:
    [name] = asked
    with served(base) as (_, base_port):
        status, content = call(base_port, "/v1/completions", {"model": "tiny", "prompt": "The bread", **asked})
    assert (status, content["error"]["param"], content["error"]["code"]) == (400, name, "unsupported_parameter")
    if name != "add_special_tokens":  # the chat format has its own
        assert call(port, CHAT, chat_body(**asked))[0] == 400


@pytest.mark.parametrize("top_k", [0, -1])
def test_no_limit_of_tokens_is_said_as_elsewhere(port: int, chat: LoadedModel, top_k: int) -> None:
    fields = {"temperature": 1.9, "seed": 3, "max_tokens": 20}
    sampling = Sampling(temperature=1.9, top_k=None, top_p=CHAT_SAMPLING.top_p, seed=3)
    expected = Answer(chat, chat.chat_prompt(QUESTION), sampling=sampling, max_tokens=20).text()
    _, content = call(port, CHAT, chat_body(top_k=top_k, **fields))
    assert content["choices"][0]["message"]["content"] == expected


@pytest.mark.parametrize("temperature", [0, -0.0, 5e-324, 1e-300, 1e-40])
@pytest.mark.parametrize("top_p", [0, 1e-300, 1])
def test_what_is_too_small_for_float32_is_greedy(
    port: int, chat: LoadedModel, temperature: float, top_p: float
) -> None:
    greedy = Answer(chat, chat.chat_prompt(QUESTION), sampling=Sampling(temperature=0), max_tokens=8).text()
    status, content = call(port, CHAT, chat_body(temperature=temperature, top_p=top_p, max_tokens=8))
    assert (status, content["choices"][0]["message"]["content"]) == (200, greedy)


HUGE = [
    b'"messages": ' + b"[" * 100_000,
    b'"top_k": ' + b"9" * 5000 + b"}",
    b'"temperature": 1e999}',
    b'"seed": 1e300}',
]


@pytest.mark.parametrize("rest", HUGE)
def test_numbers_and_nesting_beyond_measure_are_the_clients_errors(port: int, rest: bytes) -> None:
    status, content = call(port, CHAT, b'{"model": "tiny", ' + rest)
    assert (status, content["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", CHAT, 405), ("GET", "/docs", 404), ("GET", "/v1/models/gpt-4", 404)],
)
def test_other_endpoints_have_the_form_of_the_api_too(port: int, method: str, path: str, status: int) -> None:
    found, content = call(port, path, method=method)
    assert (found, content["error"]["type"]) == (status, "invalid_request_error")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": "evil.example:80@127.0.0.1"}, 403),
        ({"Host": "localhost"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Host": "localhost:9", "Origin": "http://localhost:9"}, 200),
    ],
)
def test_only_pages_of_this_server_are_heard(port: int, headers: dict[str, str], status: int) -> None:
    for path, body in (("/v1/models", None), (CHAT, chat_body(max_tokens=1))):
        assert call(port, path, body, headers)[0] == status


def test_no_page_of_another_site_may_read_an_answer(port: int) -> None:
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("OPTIONS", CHAT, headers={"Origin": "http://evil.example"})
    headers = connection.getresponse().headers
    connection.close()
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_the_port_is_bound_on_the_loopback_interface_alone() -> None:
    with listen(0) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 cannot be used"):
            listen(port)


def chunked(n_bytes: int) -> Iterator[bytes]:
    yield from (b"x" * 65_536 for _ in range(n_bytes // 65_536))


def test_a_large_body_is_refused_with_and_without_a_declared_length(port: int) -> None:
    status, content = call(port, CHAT, b"x" * (MAX_BODY_BYTES + 1))
    assert (status, content["error"]["code"]) == (413, "request_too_large")
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = LOGIN | {"Content-Type": "application/json"}
        connection.request("POST", CHAT, chunked(4 * MAX_BODY_BYTES), headers)
        status = connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):  # the server does not listen to the rest
        status = 413
    connection.close()
    assert status == 413
    assert call(port, "/v1/models")[0] == 200


def test_requests_at_a_time_get_the_answers_they_get_alone(port: int) -> None:
    bodies = [chat_body(seed=seed, temperature=1.2, max_tokens=12) for seed in range(8)]
    alone = [call(port, CHAT, body)[1]["choices"] for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        together = [content["choices"] for _, content in pool.map(lambda body: call(port, CHAT, body), bodies)]
    assert together == alone


@pytest.fixture
def endless() -> LoadedModel:
    """A model that fills its large context: seconds of work."""
    return tiny_model(context_length=8192, ends=False)


def steps_of(loaded: LoadedModel) -> list[int]:
    """Grows by one with each pass through the model."""
    steps: list[int] = []
    loaded.model.norm.register_forward_hook(lambda *_: steps.append(1))  # called once in a pass
    return steps


def wait_until_idle(steps: list[int], seconds: float = 10) -> int:
    """Passes that were made by the time no more come."""
    deadline = time.monotonic() + seconds
    n_before = -1
    while len(steps) != n_before:
        assert time.monotonic() < deadline, "the model is still at work"
        n_before = len(steps)
        time.sleep(0.2)
    return n_before


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_its_generation(endless: LoadedModel, stream: bool) -> None:
    steps = steps_of(endless)
    with served(endless) as (_, port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            body = json.dumps(chat_body(stream=stream)).encode()
            headers = {"Host": "127.0.0.1", "Content-Type": "application/json", **LOGIN}
            head = f"POST {CHAT} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            client.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while not steps:
                time.sleep(0.01)
        assert wait_until_idle(steps) < 8000
        status, content = call(port, CHAT, chat_body(max_tokens=3))
        assert (status, content["usage"]["completion_tokens"]) == (200, 3)


def test_a_stop_ends_answers_and_those_that_wait(endless: LoadedModel) -> None:
    with served(endless) as (server, port), open_stream(port) as response:
        first = response.read1(10)  # it is at work
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(call, port, CHAT, chat_body())
            while server.worker._n_unfinished < 2:
                time.sleep(0.01)
            start = time.monotonic()
            server.handle_exit(signal.SIGINT, None)
            last = json.loads((first + response.read()).decode().strip().split("data: ")[-1])
            status, content = waiting.result()
        assert time.monotonic() - start < 4
    assert (last["error"]["code"], last["error"]["type"]) == ("stopping", "server_error")
    assert (status, content["error"]["code"]) == (503, "stopping")


def test_too_many_requests_are_refused(endless: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "MAX_UNFINISHED", 1)
    with served(endless) as (_, port), open_stream(port) as response:
        response.read1(10)
        status, content = call(port, CHAT, chat_body())
        assert (status, content["error"]["code"]) == (503, "overloaded")


@pytest.mark.parametrize("n_good", [0, 3])
def test_a_failing_model_is_an_error_of_the_server(n_good: int, caplog: pytest.LogCaptureFixture) -> None:
    """A failure before the first token has a status; one after it ends the stream; the server goes on."""
    loaded = tiny_model(ends=False)
    steps = steps_of(loaded)

    def fail(*_: Any) -> None:
        if len(steps) == n_good + 1:
            raise RuntimeError("secret detail")

    loaded.model.norm.register_forward_hook(fail)
    with served(loaded) as (_, port):
        with open_stream(port) as response:
            text = response.read().decode()
            assert response.status == (200 if n_good else 500)
        error = json.loads(text.strip().split("data: ")[-1])["error"]
        assert (error["type"], "secret" in text) == ("server_error", False)
        assert "secret detail" in caplog.text
        assert call(port, CHAT, chat_body(max_tokens=2))[0] == 200


def test_chat_and_server_draw_tokens_alike_where_nobody_asks(chat: LoadedModel) -> None:
    assert Sampling(temperature=0.7, top_k=50, top_p=1.0, seed=0) == CHAT_SAMPLING


def test_no_thread_is_left(chat: LoadedModel) -> None:
    with served(chat) as (_, port):
        call(port, CHAT, chat_body(max_tokens=1))
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("model_")]
    names = [thread.name for thread in threading.enumerate()]
    assert len([name for name in names if name.startswith("model_")]) <= 1  # that of the session's server
