"""One thread that runs the model: requests wait for their turn, and the event loop stays free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from .errors import ApiError, as_api_error

MAX_UNFINISHED = 64
"""Requests that may run and wait at a time; more are refused, so that a flood cannot fill the memory."""

T = TypeVar("T")


class Worker:
    """Answers requests one after the other, first come, first served.

    Used from one event loop. The model is used by one request at a time, so each has its full speed.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._stopping = threading.Event()
        self._n_unfinished = 0

    async def results(self, work: Iterator[T]) -> AsyncGenerator[T, None]:
        """Yields what `work` yields, as the thread comes to it; when the caller stops listening, the work stops.

        Raises ApiError when too many wait, when the server stops, or when the model fails.
        """
        if self._n_unfinished >= MAX_UNFINISHED:
            raise ApiError(503, f"{MAX_UNFINISHED} requests wait already; try again later", code="overloaded")
        made: asyncio.Queue[Any] = asyncio.Queue()
        unwanted = threading.Event()
        self._n_unfinished += 1
        self._executor.submit(self._run, work, made, unwanted, asyncio.get_running_loop())
        try:
            while (result := await made.get()) is not None:
                if isinstance(result, ApiError):
                    raise result
                yield result
        finally:
            unwanted.set()
            self._n_unfinished -= 1

    def stop(self) -> None:
        """Ends all answers soon, those that wait as well; safe to call in a signal handler."""
        self._stopping.set()

    def close(self) -> None:
        """Stops and waits for the thread."""
        self.stop()
        self._executor.shutdown()

    def _run(
        self,
        work: Iterator[Any],
        made: asyncio.Queue[Any],
        unwanted: threading.Event,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Runs in the thread: hands the results over, then None, or the error that ended them."""
        last: ApiError | None = None
        try:
            while not (unwanted.is_set() or self._stopping.is_set()):
                if (result := next(work, None)) is None:
                    break
                loop.call_soon_threadsafe(made.put_nowait, result)
            else:
                last = ApiError(503, "the server is being stopped", code="stopping")
        except Exception as error:
            last = as_api_error(error)
        loop.call_soon_threadsafe(made.put_nowait, last)
