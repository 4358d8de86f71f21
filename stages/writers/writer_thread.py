"""A thread that writes results, so that nobody waits for a disk or an encoder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Thread, get_native_id

from ...pipeline.clock import now_ns
from .result import Result, Writer

_FLUSH_PERIOD_NS = 1_000_000_000
_NICE = 5


class WriterThread:
    """Hands results to writers, through a queue of `capacity` places, and flushes them each second.

    `prepare` is called in the thread with each result before the writers get what it returns; None leaves the result out.
    The first error of a writer ends the writing; it is raised by the next `put`, and by `close`. The thread runs at a
    lower priority than the engine's.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        *,
        name: str,
        capacity: int,
        prepare: Callable[[Result], Result | None] | None = None,
    ) -> None:
        self._writers = tuple(writers)
        self._prepare = prepare
        self._queue: Queue[Result | None] = Queue(capacity)
        self._error: Exception | None = None
        self._hurried = False
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, result: Result, *, block: bool) -> bool:
        """Take a result; False where the queue is full and `block` is not wanted."""
        if self._error is not None:
            raise self._error
        try:
            self._queue.put(result, block)
        except Full:
            return False
        return True

    def close(self, *, hurried: bool) -> None:
        """Write what waits, close the writers and raise the first error there was. Harmless when called twice."""
        if self._thread.is_alive():
            self._hurried = hurried
            self._queue.put(None)
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, get_native_id(), _NICE)
        flushed_ns = now_ns()
        while True:
            wait_s = max(0.0, (flushed_ns + _FLUSH_PERIOD_NS - now_ns()) / 1e9)
            try:
                result = self._queue.get(timeout=wait_s)
            except Empty:
                flushed_ns = now_ns()
                self._attempt(self._flush)
                continue
            if result is None:
                break
            self._attempt(self._write, result)
            if now_ns() - flushed_ns >= _FLUSH_PERIOD_NS:
                flushed_ns = now_ns()
                self._attempt(self._flush)
        for writer in self._writers:
            self._close(writer)

    def _attempt(self, action: Callable[..., None], *arguments: Result) -> None:
        """Once there is an error, results are taken and thrown away, so that nobody waits for a place in the queue."""
        if self._error is None:
            try:
                action(*arguments)
            except Exception as error:
                self._error = error

    def _write(self, result: Result) -> None:
        prepared = result if self._prepare is None else self._prepare(result)
        if prepared is not None:
            for writer in self._writers:
                writer.write(prepared)

    def _flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def _close(self, writer: Writer) -> None:
        try:
            writer.close(self._hurried or self._error is not None)
        except Exception as error:
            self._error = self._error or error
