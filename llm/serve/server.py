"""The server as a process: a socket on the loopback interface, and an end when it is asked for."""

from __future__ import annotations

import contextlib
import socket
from types import FrameType

import uvicorn

from ..model.generate import Sampling
from .answer import CHAT_SAMPLING, LoadedModel
from .app import create_app
from .classify import LoadedClassifier
from .door import Door
from .guard import TimedProtocol
from .worker import Worker

HOST = "127.0.0.1"
HINT = "send it as `Authorization: Bearer KEY`, or open the link to the page; `python -m flows serve` prints both"
GRACE_SECONDS = 5
"""A connection that has not ended so long after Ctrl-C is cut."""


def listen(port: int) -> socket.socket:
    """Returns a socket bound to `port` of the loopback interface; 0 takes a free one. ValueError when it is in use."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()  # bind alone succeeds where another socket has not begun to listen
    except OSError as error:
        listener.close()
        raise ValueError(f"port {port} of {HOST} cannot be used ({error.strerror}); name another one") from error
    return listener


class Server(uvicorn.Server):
    """Uvicorn around the app of one model; a signal ends the answers that are being made (uvicorn waits for them).

    Clients need `key`: as a bearer token, or in a link to the page.
    """

    def __init__(self, loaded: LoadedModel | LoadedClassifier, key: str, default: Sampling = CHAT_SAMPLING) -> None:
        self.worker = Worker()
        app = Door(create_app(loaded, self.worker, default), key, HINT)
        super().__init__(
            uvicorn.Config(
                app,
                http=TimedProtocol,
                log_level="warning",
                access_log=False,
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until a signal comes."""
        try:
            super().run(sockets)
        finally:
            self.worker.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stops the worker and the server; called in the signal handler."""
        self.worker.stop()
        super().handle_exit(sig, frame)


def run(
    loaded: LoadedModel | LoadedClassifier, listener: socket.socket, key: str, default: Sampling = CHAT_SAMPLING
) -> None:
    """Serves until SIGINT or SIGTERM."""
    with contextlib.suppress(KeyboardInterrupt):
        Server(loaded, key, default).run(sockets=[listener])
