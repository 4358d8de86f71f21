"""The one thread of a rank that owns every MPI call while frames stream.

A message above the eager limit only moves while somebody calls MPI on both sides. So no lane ever calls MPI: lanes hand
buffers to this thread, which keeps all requests in flight and tests them together, sleeping in between. The sleep is
short while messages move and grows when nothing does; a lane that posts something ends it at once.

Measured with Open MPI 5 on two cores at 1 Gbit/s and 7 MB messages: 0.996 of the ideal throughput at 4 to 16 % of a core;
Isend and Wait between computations reach half of it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mpi4py import MPI

from .clock import now_ns
from .halt import Halt
from .message import Buffer

BUSY_POLL_S = 200e-6
"""Sleep between tests while messages move, s."""
LARGE_POLL_S = 1e-3
"""The same, s, while large messages follow each other slowly: then the tests themselves would cost the stages more than
they gain, and the kernel's buffers bridge the gap."""
IDLE_POLL_S = 2e-3
"""Longest sleep between tests, s, reached after `_BUSY_FOR_NS` without a message."""
_BUSY_FOR_NS = 100_000_000
_LARGE_BYTES = 262_144
_POLLS_PER_MESSAGE = 50
"""So often a large message is looked at, at least: a result waits for the next test, 1 % of the message's time on average."""
SWITCH_INTERVAL_S = 0.0005
"""What a rank sets as the interpreter's switch interval, s: with the default of 5 ms, Python code in a stage would keep
this thread from the interpreter lock for longer than a message takes."""


@dataclass(slots=True)
class _Request:
    buffer: Buffer
    peer: int
    tag: int
    is_send: bool
    is_synchronous: bool
    done: Callable[[int, int], None]


class Communication:
    """Sends and receives buffers for the lanes of one rank, from `start` until all ranks have called `finish`."""

    def __init__(self, comm: MPI.Comm, halt: Halt) -> None:
        self._comm = comm
        self._halt = halt
        self._new: deque[_Request] = deque()
        # A lock as a binary semaphore: releasing it rings the bell, and acquiring it with a time limit sleeps until then.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._ring_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="communication", daemon=True)
        self._finishing = False
        self._barrier: MPI.Request | None = None
        self._started = False
        self._active: list[_Request] = []
        self._requests: list[MPI.Request] = []
        self._busy_poll_s = BUSY_POLL_S
        self._large_done_ns = 0
        self.cpu_s = 0.0
        """CPU time this thread has used, s; final after `join`."""
        self.moved_ns = now_ns()
        """When a message last began or ended, ns."""

    def start(self) -> None:
        """Start the thread; from now on nobody else on this rank calls MPI."""
        self._started = True
        self._thread.start()

    def post_send(
        self, buffer: Buffer, peer: int, tag: int, done: Callable[[int, int], None], *, synchronous: bool = False
    ) -> None:
        """Send `buffer` (all of it). `done(num_bytes, peer)` is called in this thread when the buffer is free again, or,
        if `synchronous`, when the peer receives it: only such a message is sure to be received before all have finished."""
        self._post(_Request(buffer, peer, tag, True, synchronous, done))

    def post_receive(self, buffer: Buffer, peer: int, tag: int, done: Callable[[int, int], None]) -> None:
        """Receive one message into `buffer`. `done(num_bytes, peer)` is called in this thread when it is there."""
        self._post(_Request(buffer, peer, tag, False, False, done))

    def finish(self) -> None:
        """This rank has nothing more to send: complete what is under way, wait for the other ranks, then end the thread.

        Returns at once; `join` waits. Until all ranks have called it this one keeps receiving, so that no send of another
        rank waits for a receive that is gone. Receives that are still open then are cancelled.
        """
        self._finishing = True
        self._ring()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; False when it is still at work after `timeout_s`."""
        if self._started:
            self._thread.join(timeout_s)
        return not self.is_alive

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs: after an error of MPI itself it does not, and this rank can tell the others nothing."""
        return self._thread.is_alive()

    def state(self) -> str:
        """What it does now, for the message of a stall."""
        num_sends = sum(request.is_send for request in self._active)
        return f"communication has {num_sends} messages under way and waits for the other ranks to end"

    def _post(self, request: _Request) -> None:
        self._new.append(request)
        self._ring()

    def _ring(self) -> None:
        with self._ring_lock:
            if self._bell.locked():
                self._bell.release()

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            self._halt.stop(error)
        finally:
            self._cancel()
            self.cpu_s = time.thread_time()

    def _loop(self) -> None:
        poll_s = BUSY_POLL_S
        rounds = 0
        while True:
            moved = self._start_new() + self._finish_some()
            if self._finishing and self._is_finished():
                # What came together with the last rank's word has not been handed over yet.
                while self._start_new() + self._finish_some():
                    pass
                return
            if moved:
                self.moved_ns = now_ns()
                poll_s = self._busy_poll_s
                continue
            if poll_s < IDLE_POLL_S and now_ns() - self.moved_ns > _BUSY_FOR_NS:
                poll_s = min(2 * poll_s, IDLE_POLL_S)
            rounds += 1
            if rounds % 256 == 0:
                self.cpu_s = time.thread_time()
            self._bell.acquire(timeout=poll_s)

    def _is_finished(self) -> bool:
        """All sends are complete, here and on all other ranks."""
        if self._barrier is None:
            if self._new or any(request.is_send for request in self._active):
                return False
            self._barrier = self._comm.Ibarrier()
        return bool(self._barrier.Test())

    def _start_new(self) -> int:
        num = 0
        while self._new:
            request = self._new.popleft()
            message = [request.buffer, MPI.BYTE]
            if not request.is_send:
                started = self._comm.Irecv(message, request.peer, request.tag)
            elif request.is_synchronous:
                started = self._comm.Issend(message, request.peer, request.tag)
            else:
                started = self._comm.Isend(message, request.peer, request.tag)
            self._requests.append(started)
            self._active.append(request)
            num += 1
        return num

    def _finish_some(self) -> int:
        if not self._requests:
            return 0
        statuses: list[MPI.Status] = []
        indices = MPI.Request.Testsome(self._requests, statuses)
        if not indices:
            return 0
        # Statuses come in the order of the indices. Requests that are done leave the lists; the order of the rest stays.
        finished = dict(zip(indices, statuses, strict=False))
        done = [(self._active[index], finished[index]) for index in sorted(finished)]
        self._requests = [request for index, request in enumerate(self._requests) if index not in finished]
        self._active = [request for index, request in enumerate(self._active) if index not in finished]
        for request, status in done:
            self._adapt(request)
            num_bytes, peer = (
                (request.buffer.size, request.peer)
                if request.is_send
                else (status.Get_count(MPI.BYTE), status.Get_source())
            )
            try:
                request.done(num_bytes, peer)
            except Exception as error:
                # This thread goes on: it is the one that tells the other ranks.
                self._halt.stop(error)
        return len(done)

    def _adapt(self, request: _Request) -> None:
        """After a message: how often to test while the next ones move."""
        if request.buffer.size < _LARGE_BYTES:
            return
        now = now_ns()
        interval_s = (now - self._large_done_ns) / 1e9
        self._large_done_ns = now
        self._busy_poll_s = min(max(interval_s / _POLLS_PER_MESSAGE, BUSY_POLL_S), LARGE_POLL_S)

    def _cancel(self) -> None:
        for request, posted in zip(self._requests, self._active, strict=True):
            if not posted.is_send:
                request.Cancel()
                request.Wait()
        self._requests = []
        self._active = []
