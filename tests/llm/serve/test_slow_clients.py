"""Clients that send drop by drop or never read, over real sockets: they are cut, and nobody waits for them."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from llm.serve import guard
from llm.serve.answer import LoadedModel
from llm.serve.server import listen
from tests.llm.serve import serving
from tests.llm.serve.serving import LOGIN, call, chat_body, served, tiny_model

CHAT = "/v1/chat/completions"
COMMON = f"Host: localhost\r\nAuthorization: {LOGIN['Authorization']}\r\n"
POST = f"POST {CHAT} HTTP/1.1\r\n{COMMON}Content-Type: application/json\r\n"
GET = f"GET /v1/models HTTP/1.1\r\n{COMMON}\r\n"
HEAD = f"{POST}Content-Length: 500\r\n"
BEGINNINGS = {"nothing": b"", "half a head": HEAD.encode(), "half a body": HEAD.encode() + b"\r\n{"}
LIMIT = 1.0


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"REQUEST_SECONDS": LIMIT, "ANSWER_SECONDS": LIMIT, "CHECK_SECONDS": 0.1}.items():
        monkeypatch.setattr(guard, name, seconds)


def connected(port: int, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    client.sendall(sent)
    return client


def seconds_until_cut(client: socket.socket, drop: Callable[[int], bytes]) -> float:
    """Sends a drop every 50 ms until the server has closed the connection."""
    start = time.monotonic()
    client.settimeout(0.05)
    for number in range(200):
        try:
            if drop(number):
                client.sendall(drop(number))
            if client.recv(1 << 16) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    else:
        pytest.fail("the connection is still open after 10 s")
    return time.monotonic() - start


def listen_with_small_buffers(port: int) -> socket.socket:
    """The kernel would take megabytes of an answer that nobody reads."""
    listener = listen(port)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    return listener


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_request_that_never_ends_is_cut(beginning: str, chat: LoadedModel, caplog: pytest.LogCaptureFixture) -> None:
    drops = {"nothing": b"", "half a head": b"X-%d: a\r\n", "half a body": b" "}[beginning]
    with served(chat) as (server, port), connected(port, BEGINNINGS[beginning]) as client:
        took = seconds_until_cut(client, lambda number: drops.replace(b"%d", b"%d" % number))
        assert LIMIT < took < 5 * LIMIT
        assert call(port, CHAT, chat_body(max_tokens=1))[0] == 200
        wait_until(lambda: not server.server_state.connections)
    assert not caplog.records


def test_a_second_request_on_a_connection_has_its_time_too(chat: LoadedModel) -> None:
    with served(chat) as (_, port), connected(port, GET.encode()) as client:
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        time.sleep(0.7 * LIMIT)
        client.sendall(b"GET /v1/models HT")
        assert seconds_until_cut(client, lambda _: b"") > 0.2 * LIMIT


def test_a_long_answer_is_not_cut_while_it_is_made_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(guard, "ANSWER_SECONDS", 0.2)
    loaded = tiny_model(context_length=1500, ends=False)
    with served(loaded) as (_, port):
        start = time.monotonic()
        status, content = call(port, CHAT, chat_body())
        assert time.monotonic() - start > 0.3  # more than either limit
        assert status == 200
        assert content["choices"][0]["finish_reason"] == "length"


def test_who_never_reads_the_answer_is_cut_and_holds_no_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps(chat_body(stream=True)).encode()
    request = POST.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    monkeypatch.setattr(serving, "listen", listen_with_small_buffers)
    with served(tiny_model(context_length=1500, ends=False)) as (server, port), ExitStack() as clients:
        for _ in range(3):
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", port))
            client.sendall(request)
        wait_until(lambda: len(server.server_state.connections) == 3 and server.worker._n_unfinished > 0)
        wait_until(lambda: not server.worker._n_unfinished and not server.server_state.connections)
        assert call(port, "/v1/models")[0] == 200
    assert not caplog.records


@pytest.fixture
def dripping() -> Iterator[Callable[[int], None]]:
    """Makes 200 clients of a port, which send a drop now and then until the test ends."""
    stop = threading.Event()
    with ExitStack() as stack:

        def drip(port: int) -> None:
            kinds = list(BEGINNINGS.values())
            clients = [stack.enter_context(connected(port, kinds[i % len(kinds)])) for i in range(200)]

            def send() -> None:
                while not stop.wait(0.2):
                    for client in clients:
                        with suppress(OSError):
                            client.sendall(b"x")

            thread = threading.Thread(target=send)
            stack.callback(thread.join)
            stack.callback(stop.set)
            thread.start()

        yield drip


@pytest.mark.parametrize("most", [400, 50])
def test_two_hundred_of_them_keep_nobody_from_an_answer(
    most: int, chat: LoadedModel, dripping: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "REQUEST_SECONDS", 3.0)
    monkeypatch.setattr(guard, "MAX_CONNECTIONS", most)
    n_threads = threading.active_count()
    with served(chat) as (server, port):
        dripping(port)
        start = time.monotonic()
        for seed in range(5):
            assert call(port, CHAT, chat_body(seed=seed, max_tokens=4))[0] == 200
        assert time.monotonic() - start < 2.5
        wait_until(lambda: len(server.server_state.connections) <= most)
        assert threading.active_count() < n_threads + 10
        wait_until(lambda: not server.server_state.connections)
