"""What ranks tell each other before and after a run, as plain bytes over MPI. Nothing is pickled.

Called by each rank's main thread, in the same order on all ranks, never while the communication thread runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from mpi4py import MPI

from ..pipeline.clock import now_ns
from ..pipeline.errors import PeerError

_CHUNK_BYTES = 1 << 24
_TAG = 1
Result = TypeVar("Result")


def broadcast_bytes(comm: MPI.Comm, data: bytes | None, root: int = 0) -> bytes:
    """`data` of `root`, on every rank."""
    size = np.array([len(data) if data is not None else 0], np.int64)
    comm.Bcast(size, root)
    buffer = np.zeros(int(size[0]), np.uint8)
    if data is not None:
        buffer[:] = np.frombuffer(data, np.uint8)
    for start in range(0, buffer.size, _CHUNK_BYTES):
        comm.Bcast([buffer[start : start + _CHUNK_BYTES], MPI.BYTE], root)
    return buffer.tobytes()


def gather_json(comm: MPI.Comm, value: object) -> list[Any]:
    """The JSON value of every rank, by rank, on every rank."""
    return [
        json.loads(broadcast_bytes(comm, _dump(value) if comm.rank == root else None, root))
        for root in range(comm.size)
    ]


def send_bytes(comm: MPI.Comm, data: bytes, receiver: int) -> None:
    """Send to a rank that calls `receive_bytes`."""
    comm.Send(np.array([len(data)], np.int64), receiver, _TAG)
    view = np.frombuffer(data, np.uint8)
    for start in range(0, view.size, _CHUNK_BYTES):
        comm.Send([view[start : start + _CHUNK_BYTES], MPI.BYTE], receiver, _TAG)


def receive_bytes(comm: MPI.Comm, sender: int) -> bytes:
    """What `send_bytes` of that rank sent."""
    size = np.zeros(1, np.int64)
    comm.Recv(size, sender, _TAG)
    buffer = np.zeros(int(size[0]), np.uint8)
    for start in range(0, buffer.size, _CHUNK_BYTES):
        comm.Recv([buffer[start : start + _CHUNK_BYTES], MPI.BYTE], sender, _TAG)
    return buffer.tobytes()


def send_file(comm: MPI.Comm, path: Path, receiver: int) -> None:
    """Send a file to a rank that calls `receive_file`, in pieces."""
    size = path.stat().st_size
    comm.Send(np.array([size], np.int64), receiver, _TAG)
    with path.open("rb") as file:
        for start in range(0, size, _CHUNK_BYTES):
            piece = file.read(min(_CHUNK_BYTES, size - start))
            comm.Send([np.frombuffer(piece, np.uint8), MPI.BYTE], receiver, _TAG)


def receive_file(comm: MPI.Comm, path: Path, sender: int) -> OSError | None:
    """Write what `send_file` of that rank sends; returns the error of a file that cannot be written, after the last piece:
    a sender that waits for a piece to be taken could not be told."""
    size = np.zeros(1, np.int64)
    comm.Recv(size, sender, _TAG)
    failed: OSError | None = None
    try:
        file = path.open("wb")
    except OSError as error:
        failed, file = error, open(os.devnull, "wb")  # noqa: SIM115 - closed below, whichever it is
    with file:
        for start in range(0, int(size[0]), _CHUNK_BYTES):
            piece = np.zeros(min(_CHUNK_BYTES, int(size[0]) - start), np.uint8)
            comm.Recv([piece, MPI.BYTE], sender, _TAG)
            try:
                if failed is None:
                    file.write(piece.data)
            except OSError as error:
                failed = error
    return failed


def together(comm: MPI.Comm, work: Callable[[], Result]) -> Result:
    """Do `work` on every rank; when it fails on any, raise on all.

    The lowest rank that failed raises its own error (once, with its host named by the caller); the others PeerError with
    the same exit code, so that all end alike and one sentence is printed.
    """
    error: Exception | None = None
    result: list[Result] = []
    try:
        result.append(work())
    except Exception as caught:
        error = caught
    codes = np.zeros(comm.size, np.int64)
    codes[comm.rank] = 0 if error is None else getattr(error, "exit_code", 1)
    comm.Allreduce(MPI.IN_PLACE, codes)
    failed = np.flatnonzero(codes)
    if failed.size == 0:
        return result[0]
    first = int(failed[0])
    if error is not None and comm.rank == first:
        raise error
    other = PeerError(f"rank {first} could not start")
    other.exit_code = int(codes[first])
    raise other


def measure_clock(comm: MPI.Comm, a: int, b: int, num_pings: int = 20) -> tuple[int, int] | None:
    """Round trip between ranks `a` and `b` and the offset of b's clock to a's, ns; None on other ranks.

    offset = t_b - (t_send + t_receive) / 2 of the ping with the shortest round trip; its error is at most half of that.
    """
    if comm.rank not in (a, b):
        return None
    ball = np.zeros(1, np.int64)
    best = np.array([1 << 62, 0], np.int64)
    for _ in range(num_pings):
        if comm.rank == a:
            begin = now_ns()
            comm.Send(ball, b, _TAG)
            comm.Recv(ball, b, _TAG)
            end = now_ns()
            if end - begin < best[0]:
                best[:] = (end - begin, int(ball[0]) - (begin + end) // 2)
        else:
            comm.Recv(ball, a, _TAG)
            ball[0] = now_ns()
            comm.Send(ball, a, _TAG)
    if comm.rank == a:
        comm.Send(best, b, _TAG)
    else:
        comm.Recv(best, a, _TAG)
    return int(best[0]), int(best[1])


def _dump(value: object) -> bytes:
    return json.dumps(value).encode()
