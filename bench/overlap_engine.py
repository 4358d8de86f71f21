"""A stage of a known amount of work, in place of a network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from ..pipeline.clock import now_ns
from ..pipeline.packet import Array, Packet, TensorSpec

_PYTHON_MS = 8.0
"""Interpreted code in the work of `mix`, ms."""


class TestEngine:
    """A stage of a fixed amount of work; as an edge stage it leaves a tensor of `frame_bytes`, as a tail it checks it.

    `sleep` waits as a GPU would let it, `native` computes without the interpreter lock, `mix` adds 8 ms of Python to that,
    `none` does nothing.
    """

    __test__ = False

    def __init__(self, name: str, kind: str, stage_ms: float, frame_bytes: int) -> None:
        self.name = name
        self._kind = kind
        self._stage_ms = stage_ms
        self._frame_bytes = frame_bytes
        self._matrix = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
        self._num_products = 0
        self._num_steps = 0
        if kind in ("native", "mix"):
            self._calibrate()

    def output_specs(self) -> tuple[TensorSpec, ...] | None:
        """One uint8 tensor, or nothing for the last stage."""
        return (TensorSpec("payload", "uint8", (self._frame_bytes,)),) if self._frame_bytes else None

    def process(self, packet: Packet) -> None:
        """Do the work; write a few bytes of the payload, as an engine that binds its output would have."""
        self.work()
        if self._frame_bytes:
            tensors = packet.targets or {"payload": np.empty(self._frame_bytes, np.uint8)}
            payload: Array = tensors["payload"]
            _mark(payload, packet.frame)
            packet.tensors = dict(tensors)
        else:
            if not _is_marked(packet.tensors["payload"], packet.frame):
                raise RuntimeError(f"frame {packet.frame} arrived with the payload of another frame")
            packet.release()
            packet.tensors = {}

    def work(self) -> None:
        """The work alone."""
        if self._kind == "sleep":
            time.sleep(self._stage_ms / 1e3)
            return
        self._multiply(self._num_products)
        sum(1 for _ in range(self._num_steps))

    def close(self) -> None:
        """Nothing to free."""

    def _calibrate(self) -> None:
        python_ms = min(_PYTHON_MS, self._stage_ms) if self._kind == "mix" else 0.0
        self._num_steps = _count(lambda n: sum(1 for _ in range(n)), python_ms, 20_000)
        self._num_products = _count(self._multiply, self._stage_ms - python_ms, 20)

    def _multiply(self, count: int) -> int:
        for _ in range(count):
            self._matrix @ self._matrix
        return count


def _mark(payload: Array, frame: int) -> None:
    """The frame's number into every 64 KiB, the first and the last byte."""
    payload[:: 1 << 16] = frame % 251
    payload[-1] = frame % 251


def _is_marked(payload: Array, frame: int) -> bool:
    return bool((payload[:: 1 << 16] == frame % 251).all() and payload[-1] == frame % 251)


def _count(work: Callable[[int], int], wanted_ms: float, probe: int) -> int:
    """So many steps take `wanted_ms`."""
    if wanted_ms <= 0:
        return 0
    times = []
    for _ in range(15):
        begin = now_ns()
        work(probe)
        times.append(now_ns() - begin)
    return max(1, round(probe * wanted_ms * 1e6 / statistics.median(times)))
