"""A channel between two lanes of one rank: a short queue with the back-pressure policy of the run."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal

from .clock import now_ns
from .halt import Halt
from .observer import Observer
from .packet import Array, Kind, Packet, TensorSpec

Policy = Literal["wait", "drop-oldest", "drop-newest"]


class LocalChannel:
    """Both ends in one object: the sending lane's outbound and the receiving lane's inbound.

    `wait` keeps every frame: the sender waits for room. `drop-oldest` has one place, a new frame replaces the waiting
    one. `drop-newest` refuses a new frame while one waits. Only kind FRAME is ever dropped or counted: an EMPTY or FAILED
    packet has its fate already and weighs nothing.
    """

    def __init__(
        self,
        name: str,
        halt: Halt,
        observer: Observer,
        *,
        capacity: int = 1,
        policy: Policy = "wait",
        on_drop: Callable[[Packet, str], None] | None = None,
    ) -> None:
        self.name = name
        self._halt = halt
        self._observer = observer
        self._capacity = capacity if policy == "wait" else 1
        self._policy = policy
        self._on_drop = on_drop
        self._queue: deque[Packet] = deque()
        self._changed = threading.Condition()
        self._ended = False

    def reserve(self, packet: Packet, specs: tuple[TensorSpec, ...] | None) -> Mapping[str, Array] | None:
        """Nothing to write into: within a rank packets are handed over as they are."""
        return None

    def send(self, packet: Packet) -> None:
        """Queue the packet, by the policy."""
        begin = now_ns()
        dropped: Packet | None = None
        with self._changed:
            if packet.kind is Kind.FRAME and self._is_full():
                if self._policy == "wait":
                    self._halt.wait_for(self._changed, lambda: not self._is_full())
                elif self._policy == "drop-oldest":
                    dropped = next(waiting for waiting in self._queue if waiting.kind is Kind.FRAME)
                    self._queue.remove(dropped)
                else:
                    dropped = packet
            if dropped is not packet:
                self._queue.append(packet)
                self._changed.notify_all()
        if dropped is None:
            self._observer.wait("queue", self.name, packet.frame, begin, now_ns())
        else:
            dropped.release()
            if self._on_drop is not None:
                self._on_drop(dropped, self._policy)

    def receive(self) -> Packet | None:
        """The oldest packet in the queue; None when the sender has closed and the queue is empty."""
        begin = now_ns()
        with self._changed:
            self._halt.wait_for(self._changed, lambda: bool(self._queue) or self._ended)
            packet = self._queue.popleft() if self._queue else None
            self._changed.notify_all()
        self._observer.wait("input", self.name, -1 if packet is None else packet.frame, begin, now_ns())
        return packet

    def close(self) -> None:
        """Called by both lanes: no more packets come, and none are waited for."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _is_full(self) -> bool:
        return sum(packet.kind is Kind.FRAME for packet in self._queue) >= self._capacity
